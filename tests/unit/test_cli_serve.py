"""The daemon's own command, `millrace serve`: its options and configuration, how it starts and ends."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from millrace.cli import serve
from millrace.cli.main import app as main_app
from millrace.daemon.config import Config
from millrace.errors import ConfigError
from millrace.guest.config import GuestConfig
from millrace.rights.tokens import new_secret


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration in a file."""
    for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("MILLRACE_TOKEN", raising=False)
    path = tmp_path / "c.toml"
    path.write_text(
        '[daemon]\nlisten = "127.0.0.1:1"\n[tls]\ncert = "/f.pem"\nkey = "/g.pem"\n[guest.a]\nrate = 44100\n[guest.b]\n'
    )
    return path


def test_command_line_overrides_configuration_file(written: Path, tmp_path: Path) -> None:
    plain = serve._configured(written, None, None, None, None, None)
    assert (plain.listen, plain.tls_cert, plain.tls_key) == ("127.0.0.1:1", "/f.pem", "/g.pem")
    assert [guest.name for guest in plain.guests] == ["a", "b"]
    secret = tmp_path / "token"
    secret.write_text("0123456789abcdef\n")
    secret.chmod(0o600)
    made = serve._configured(written, "[::1]:2", ["c", "d", "c"], Path("/c.pem"), Path("/k.pem"), secret)
    assert (made.listen, made.tls_cert, made.tls_key, made.token) == ("[::1]:2", "/c.pem", "/k.pem", "0123456789abcdef")
    assert made.guests == (GuestConfig("c"), GuestConfig("d")), "in addition to those of the file; each once"
    assert serve._configured(written, None, None, Path("/c.pem"), None, None).tls_key == "", (
        "reported where it is missing"
    )
    for listen, guests in (("x", None), (None, ["a/b"])):
        with pytest.raises(ConfigError):
            serve._configured(written, listen, guests, None, None, None)


def test_daemon_runs_session_manager_unless_disabled(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []

    async def work(config: Config, policy: bool) -> None:
        ran.append((config.listen, [len(guest.doors) for guest in config.guests], policy))

    monkeypatch.setattr(serve, "_serve", work)
    monkeypatch.setattr("millrace.cli.logs.set_up", lambda *how: ran.append(how))
    monkeypatch.setattr("gc.disable", lambda: ran.append("no collecting while all is loaded"))
    command = typer.main.get_command(main_app)
    command.main(["serve", "--config", str(written)], standalone_mode=False)
    command.main(["serve", "--config", str(written), "--no-policy", "--listen", ":5", "--qemu-qmp", "/q", "--qemu-dbus",
                  "unix:path=/b", "--log-format", "json", "-v"], standalone_mode=False)  # fmt: skip
    quiet = "no collecting while all is loaded"
    assert ran == [quiet, ("text", False), ("127.0.0.1:1", [0, 0], True), quiet, ("json", True), (":5", [2, 0], False)]


def test_machines_from_command_line_belong_to_first_guest(written: Path) -> None:
    config = serve._configured(written, None, None, None, None, None)
    made = serve._with_machines(config, [Path("q"), Path("/r")], "unix:path=/b")
    assert [door.text for door in made.guests[0].doors] == [
        f"qmp:{Path('q').absolute()}",
        "qmp:/r",
        "dbus:unix:path=/b",
    ]
    assert made.guests[0].rate == 44_100 and made.guests[1:] == config.guests[1:]
    again = serve._with_machines(made, [], None)
    assert again == made, "the guests of the file stay"


@pytest.mark.parametrize(("now", "asked"), [
    ((1024, 4096), (4096, 4096)), ((1024, 1 << 20), (65_536, 1 << 20)), ((65_536, 1 << 20), None),
    ((1 << 19, 1 << 20), None), ((1024, resource.RLIM_INFINITY), (65_536, resource.RLIM_INFINITY)), ((64, 64), None),
])  # fmt: skip
def test_descriptor_limit_is_raised_up_to_what_is_useful(
    now: tuple[int, int], asked: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to: list[Any] = []
    monkeypatch.setattr(resource, "getrlimit", lambda what: now)
    monkeypatch.setattr(resource, "setrlimit", lambda what, limits: set_to.append(limits))
    serve._more_descriptors()
    assert set_to == ([] if asked is None else [asked])


class Daemon:
    """A daemon that records what is done to it."""

    def __init__(self, config: Config, did: list[Any], fails: bool = False) -> None:
        guest = SimpleNamespace(
            name="a", pulse=SimpleNamespace(path="/p", cookie_path="/k"), config=GuestConfig("a", pulse_tcp=("h:1",))
        )
        self.worker = SimpleNamespace(guests={"a": guest}, quiet=lambda: True)
        self.serving = SimpleNamespace(outward_url="wss://127.0.0.1:9", page_url="https://x/", silent_url="")
        self.config, self._did, self._fails = config, did, fails
        did.append(config)

    def page_link(self) -> str:
        return "https://x/#in=1"

    async def start(self) -> None:
        self._did.append("start")
        if self._fails:
            raise ConfigError("in use")

    async def stop(self) -> None:
        self._did.append("stop")


@pytest.fixture
def did(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `serve` does, in order; it is stopped when it says that it is ready."""
    order: list[Any] = []

    class Program:
        def __init__(self, path: Path, config: Any) -> None:
            order.append(("policy", path))

        async def run(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                order.append("policy ends")

    def notify(text: str) -> None:
        order.append(text)
        if text == "READY=1":
            os.kill(os.getpid(), signal.SIGTERM)

    async def keep_calm(quiet: Any) -> None:
        await asyncio.Event().wait()

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    monkeypatch.setattr("millrace.daemon.allocator.pin_malloc", lambda: order.append("malloc"))
    monkeypatch.setattr("millrace.daemon.threads.set_switch_interval", lambda: order.append("interval"))
    monkeypatch.setattr("millrace.daemon.collector.calm", lambda: order.append("calm"))
    monkeypatch.setattr("millrace.daemon.collector.keep_calm", keep_calm)
    monkeypatch.setattr("millrace.io.notify.notify", notify)
    monkeypatch.setattr("millrace.policy.config.load", lambda *paths: None)
    monkeypatch.setattr("millrace.policy.program.Program", Program)
    monkeypatch.setattr(serve, "_more_descriptors", lambda: None)
    return order


def served(did: list[Any], config: Config, policy: bool, monkeypatch: pytest.MonkeyPatch, fails: bool = False) -> None:
    monkeypatch.setattr("millrace.daemon.app.Daemon", lambda config: Daemon(config, did, fails))
    work: Coroutine[Any, Any, None] = serve._serve(config, policy)
    asyncio.run(work)


def test_daemon_reports_ready_and_shuts_down_in_order(
    did: list[Any], written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(serve._configured(written, None, None, None, None, None), runtime=Path("/r"))
    served(did, config, True, monkeypatch)
    assert did == [
        config, ("policy", Path("/r/native.sock")), "start", "malloc", "interval", "calm", "READY=1", "STOPPING=1",
        "policy ends", "stop",
    ]  # fmt: skip
    assert capsys.readouterr().out.splitlines() == [
        "guest a",
        "  applications:  export PULSE_SERVER=unix:/p",
        "  over TCP:      export PULSE_SERVER=tcp:h:1 PULSE_COOKIE=/k",
        "  hear and see:  millrace listen a; millrace view a",
        "by network: millrace view wss://127.0.0.1:9/a --token-file FILE; or listen",
        "machines:   millrace attach qemu|spice|vnc|x11 …   shows and plays a virtual machine or desktop",
        "browser:    https://x/ with a token, or by the link that `millrace page` prints",
        "ready; `millrace ls` shows the state, Ctrl-C stops the daemon",
        "stopping …",
    ]


def test_addresses_for_other_machines_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("millrace.io.sockets.outward_address", lambda: "192.0.2.7")
    daemon: Any = Daemon(Config(runtime=Path("r"), state=Path("s")), [])
    daemon.worker.guests["a"].config = GuestConfig("a", pulse_tcp=("0.0.0.0:47", "[::]:48", "[::1]:49"))
    daemon.serving.silent_url = "http://192.0.2.7:9/"
    serve._tell(daemon)
    out = capsys.readouterr().out
    assert "            elsewhere http://192.0.2.7:9/ with a token; browsers play sound there only with TLS\n" in out
    told = [line.split("tcp:")[1].split()[0] for line in out.splitlines() if "tcp:" in line]
    assert told == ["192.0.2.7:47", "192.0.2.7:48", "[::1]:49"], "an address to connect to"


def test_many_guests_are_told_in_a_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    daemon: Any = Daemon(Config(runtime=Path("r"), state=Path("s")), [])
    daemon.worker.guests = {f"g{n}": daemon.worker.guests["a"] for n in range(13)}
    serve._tell(daemon)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 20 and "and 10 more guests, likewise; `millrace ls` shows them" in lines


def test_token_with_every_right_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for token, named in (("", ""), ("0123456789abcdef", "$MILLRACE_TOKEN")):
        daemon: Any = Daemon(Config(runtime=Path("r"), state=Path("s"), token=token, token_from=named), [])
        serve._tell(daemon)
        out = capsys.readouterr().out
        assert ("access:     the token in $MILLRACE_TOKEN has every right here" in out) is bool(token)
        assert "0123456789" not in out


def test_token_of_a_listener_is_not_given_every_right(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_TOKEN", "chosen-by-its-owner")
    made = serve._configured(written, None, None, None, None, None)
    assert (made.token, made.token_from) == ("chosen-by-its-owner", "$MILLRACE_TOKEN")
    secret = tmp_path / "token"
    secret.write_text(new_secret(bytes(32)))
    secret.chmod(0o600)
    with pytest.raises(ConfigError, match=f"{secret} has a token that a daemon made, .*: for `serve`, choose one your"):
        serve._configured(written, None, None, None, None, secret)
    named = tmp_path / "named.toml"
    named.write_text(f'[daemon]\ntoken_file = "{secret}"\n')
    with pytest.raises(ConfigError, match=f"{secret} has a token that a daemon made"):
        serve._configured(named, None, None, None, None, None)
    monkeypatch.setenv("MILLRACE_TOKEN", new_secret(bytes(32)))
    with pytest.raises(ConfigError, match="MILLRACE_TOKEN has a token that a daemon made"):
        serve._configured(written, None, None, None, None, None)


def test_short_token_in_the_environment_is_refused_as_in_a_file(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for token in ("abc", "0123456789abcde"):
        monkeypatch.setenv("MILLRACE_TOKEN", token)
        with pytest.raises(ConfigError, match=r"\$MILLRACE_TOKEN: a token has at least 16 characters"):
            serve._configured(written, None, None, None, None, None)
    monkeypatch.setenv("MILLRACE_TOKEN", "0123456789abcdef")
    assert serve._configured(written, None, None, None, None, None).token == "0123456789abcdef"


def test_browser_link_is_printed_on_terminals_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon: Any = Daemon(Config(runtime=Path("r"), state=Path("s")), [])
    daemon.serving.outward_url = "wss://[2001:db8::7]:9"
    for terminal in (True, False):
        monkeypatch.setattr(os, "isatty", lambda fd, terminal=terminal: terminal)
        serve._tell(daemon)
        out = capsys.readouterr().out
        assert ("#in=1" in out) is terminal and "wss://[2001:db8::7]:9/a" in out


def test_daemon_runs_without_session_manager(did: list[Any], written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = serve._configured(written, None, None, None, None, None)
    served(did, config, False, monkeypatch)
    assert did == [config, "start", "malloc", "interval", "calm", "READY=1", "STOPPING=1", "stop"]


def test_daemon_that_fails_to_start_cleans_up(did: list[Any], written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = serve._configured(written, None, None, None, None, None)
    with pytest.raises(ConfigError, match="in use"):
        served(did, config, False, monkeypatch, fails=True)
    assert did == [config, "start", "stop"]
