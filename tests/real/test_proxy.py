"""Behind real reverse proxies, configured as in docs/proxy.md: under a path, with TLS terminated there, over HTTP/2."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

from millrace.server.http.authentication import CREDENTIAL, SUBPROTOCOL
from tests.real.pages import ANALYSER, judged, listening, playing

from ..scenario.test_certificates import Pair, certificate
from .browser import own_page
from .conftest import MILLRACE, Bus, need, wait_for

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("heavy")]
DOCS = (Path(__file__).parents[2] / "docs" / "proxy.md").read_text()
NGINX = """daemon off; master_process off; worker_processes 1; pid {home}/pid; error_log {home}/log;
events {{}}
http {{ access_log off; client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
{text}
}}
"""


def snippet(kind: str) -> str:
    """A code block of docs/proxy.md."""
    found = re.search(rf"```{kind}\n(.*?)```", DOCS, re.DOTALL)
    assert found, kind
    return found[1]


class Front:
    """One proxy before one daemon, and requests through it."""

    def __init__(self, bus: Bus, home: Path, authority: Pair, server: Pair) -> None:
        self.bus, self.home, self.authority, self.server = bus, home, authority, server
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self.origin = f"https://localhost:{self.port}"
        self.url = f"{self.origin}/millrace/"
        self.tls = ssl.create_default_context(cafile=str(authority.cert))

    def begin(self) -> None:
        """The daemon's configuration, from docs/proxy.md."""
        text = snippet("toml").replace("127.0.0.1:8642", "127.0.0.1:0").replace("https://desk.example", self.origin)
        (self.home / "millrace.toml").write_text(text)
        self.bus.args = ("--config", str(self.home / "millrace.toml"))
        self.bus.start()

    def placed(self, text: str) -> str:
        """A snippet, with the paths and addresses of this test."""
        for word, place in (
            ("127.0.0.1:8642", self.bus.listen), ("/etc/ssl/desk.pem", str(self.server.cert)),
            ("/etc/ssl/desk.key", str(self.server.key)), ("/etc/ssl/desk-with-key.pem", f"{self.home}/both.pem"),
        ):  # fmt: skip
            text = text.replace(word, place)
        return text

    def nginx(self, change: Callable[[str], str] = lambda text: text) -> None:
        need("nginx")
        text = self.placed(snippet("nginx")).replace("listen 443 ", f"listen 127.0.0.1:{self.port} ")
        file = self.home / "nginx.conf"
        file.write_text(NGINX.format(home=self.home, text=change(text.replace("desk.example", "localhost"))))
        self.run("nginx", "-p", str(self.home), "-c", str(file), "-e", f"{self.home}/log")

    def haproxy(self) -> None:
        need("haproxy")
        (self.home / "both.pem").write_bytes(self.server.cert.read_bytes() + self.server.key.read_bytes())
        file = self.home / "haproxy.cfg"
        file.write_text(self.placed(snippet("haproxy")).replace("bind :443", f"bind 127.0.0.1:{self.port}"))
        self.run("haproxy", "-db", "-f", str(file))

    def caddy(self) -> None:
        need("caddy")
        text = self.placed(snippet("caddyfile")).replace("desk.example {", f"https://localhost:{self.port} {{")
        file = self.home / "Caddyfile"
        file.write_text("{\nadmin off\nauto_https disable_redirects\nskip_install_trust\n}\n" + text)
        self.run("caddy", "run", "--config", str(file), "--adapter", "caddyfile")

    def run(self, *command: str) -> None:
        with (self.home / "proxy.log").open("wb") as log:
            self.bus.spawn(*command, stdout=log, stderr=log, env={"XDG_DATA_HOME": str(self.home)})
        wait_for(self.up, what=f"{command[0]} serves")

    def up(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    (tmp_path / "run").mkdir(mode=0o700)
    home = tmp_path / "front"
    home.mkdir()
    authority = certificate(home, "authority")
    bus = Bus(tmp_path / "run")
    one = Front(bus, home, authority, certificate(home, "server", authority, "localhost"))
    try:
        one.begin()
        yield one
    finally:
        bus.close()


async def entered(url: str, http: aiohttp.ClientSession, secret: str, origin: str) -> tuple[int, str]:
    """Sign in as the page does; returns the status and the session."""
    headers = {"Authorization": f"Bearer {secret}", "Origin": origin}
    async with http.post(f"{url}session", headers=headers) as answer:
        return answer.status, (await answer.json())["session"] if answer.status == 200 else ""


async def everything_works(front: Front, secret: str, url: str = "") -> None:
    """Check what a browser does, and what attackers try."""
    url = url or front.url
    connector = aiohttp.TCPConnector(ssl=front.tls)
    async with aiohttp.ClientSession(connector=connector) as http:
        async with http.get(url.rstrip("/")) as answer:
            assert str(answer.url) == url and 'src="page/app.js"' in await answer.text()
        for path, status in (("page/app.js", 200), ("health", 200), ("ready", 200), ("api/v1/state", 401)):
            async with http.get(url + path) as answer:
                assert answer.status == status, path
        assert await entered(url, http, secret, "https://evil.example") == (403, "")
        status, session = await entered(url, http, secret, front.origin)
        assert status == 200 and not http.cookie_jar
        async with http.get(url + "api/v1/state", headers={"Authorization": f"Bearer {session}"}) as answer:
            assert answer.status == 200
        offered = (SUBPROTOCOL, CREDENTIAL + session)
        ours, foreign = {"Origin": front.origin}, {"Origin": "https://evil.example"}
        async with http.ws_connect(url + "api/v1/events", protocols=offered, headers=ours) as line:
            assert line.protocol == SUBPROTOCOL and "synced" in (await line.receive(5)).data
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await http.ws_connect(url + "api/v1/events", protocols=offered, headers=foreign)
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await http.ws_connect(url + "default", protocols=offered, headers={"Origin": "https://localhost:1"})


@pytest.mark.beside
@pytest.mark.parametrize("proxy", ["nginx", "haproxy", "caddy"])
def test_page_api_and_listeners_work_behind_proxy(proxy: str, front: Front) -> None:
    need("curl")
    getattr(front, proxy)()
    secret = front.bus.cli("token", "new", "--may", "hear", "--guest", "default").stdout.strip()
    asyncio.run(everything_works(front, secret))
    said = subprocess.run(
        ["curl", "-s", "-o", "/dev/null", "-w", "%{http_version} %{http_code}", "--http2", "--cacert",
         front.authority.cert, front.url],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout == "2 200"
    listener = front.bus.spawn(
        *MILLRACE, "listen", front.url.replace("https", "wss") + "default", "--to", "null:", "-q", "--ca",
        str(front.authority.cert), env={"MILLRACE_TOKEN": secret},
    )  # fmt: skip
    assert wait_for(lambda: front.bus.guest()["listeners"], what="the listener joins")
    assert listener.poll() is None
    assert front.bus.cli("page").stdout.startswith(f"{front.url}#in=")


@pytest.mark.beside
def test_any_host_header_set_by_proxy_works(front: Front) -> None:
    hosts = ("$host", "$host:443", "$proxy_host", "LOCALHOST")

    def each(text: str) -> str:
        begin, end = text.index("    location"), text.rindex("}")
        block = text[begin:end]
        made = [
            block.replace("/millrace/", f"/m{n}/").replace("Host $http_host;", f"Host {h};")
            for n, h in enumerate(hosts)
        ]
        return text[:begin] + "".join(made) + text[end:]

    front.nginx(each)
    secret = front.bus.cli("token", "new").stdout.strip()
    for number, _ in enumerate(hosts):
        asyncio.run(everything_works(front, secret, f"{front.origin}/m{number}/"))


def test_page_plays_through_nginx_under_its_path_with_a_token(front: Front, tmp_path: Path) -> None:
    need("chromium")
    front.nginx()
    playing(front.bus, tmp_path)
    secret = front.bus.cli("token", "new", "--may", "hear,speak", "--guest", "default").stdout.strip()

    async def main() -> None:
        async with own_page(tmp_path / "profile", "--ignore-certificate-errors") as page:
            await page.open(front.url)
            await page.until("!document.querySelector('#login').hidden")
            await page.run(f"document.querySelector('#token').value = {secret!r}")
            await page.run("document.querySelector('#login').requestSubmit()")
            await listening(page)
            await page.run(ANALYSER)
            await page.until("document.querySelector('#left').value > -20")
            await judged(page)
            assert await page.run("document.querySelector('#mix').textContent.includes('peak')")
            assert (await page.run("location.href")) == front.url

    asyncio.run(main())


@pytest.mark.beside
def test_proxy_without_websockets_is_told_apart_from_absent_daemon(front: Front, tmp_path: Path) -> None:
    need("chromium")
    front.nginx(lambda text: re.sub(r".*proxy_set_header (Upgrade|Connection) .*\n", "", text))
    secret = front.bus.cli("token", "new").stdout.strip()
    listener = subprocess.run(
        [*MILLRACE, "listen", front.url.replace("https", "wss") + "default", "--to", "null:", "--ca",
         str(front.authority.cert)],
        env=front.bus.env | {"MILLRACE_TOKEN": secret}, capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert listener.returncode == 5 and "must forward the Upgrade and Connection headers" in listener.stderr

    async def main() -> None:
        async with own_page(tmp_path / "profile", "--ignore-certificate-errors") as page:
            await page.open(front.url)
            await page.until("!document.querySelector('#login').hidden")
            await page.run(f"document.querySelector('#token').value = {secret!r}")
            await page.run("document.querySelector('#login').requestSubmit()")
            await page.until(
                "document.querySelector('#status').textContent.includes('sound and changes does not open')"
            )

    asyncio.run(main())
