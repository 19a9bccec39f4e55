"""The page's static files. They contain no secrets and are served without authentication; the API is guarded."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

from aiohttp import web

_kept: dict[str, tuple[bytes, bytes, str]] = {}
TEXTS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
TYPES = {end: f"{kind}; charset=utf-8" for end, kind in TEXTS.items()} | {".wasm": "application/wasm"}
# 'wasm-unsafe-eval' permits compiling the Opus and Zstandard decoders and no other code from strings.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; connect-src 'self';"
    " img-src 'self' data:; media-src 'self' blob:; worker-src 'self'; base-uri 'none'; form-action 'self';"
)
# A page around the control page could hijack its user's clicks, so none may frame it. A desktop alone may be shown in
# pages of origins that the configuration lists; their users are signed in by those pages.
ALONE = "frame-ancestors 'none'"
EMBEDDED, MODULE = "embed.html", "embed.js"
SCREEN, SCREEN_ENDS, SCREEN_HERE = b'  <section id="screen"', b"  </section>\n", b"<!-- screen -->\n"
ORIGINS_HERE = b'<meta name="origins" content="">'


@lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    """The names of the files."""
    found = (files("millrace") / "page").iterdir()
    return frozenset(one.name for one in found if "." + one.name.rpartition(".")[2] in TYPES and one.is_file())


def _content(name: str) -> bytes:
    data = (files("millrace") / "page" / name).read_bytes()
    if name != EMBEDDED:
        return data
    # The screen is the same as on the control page.
    _, begin, rest = _content("index.html").partition(SCREEN)
    screen, end, _ = rest.partition(SCREEN_ENDS)
    return data.replace(SCREEN_HERE, begin + screen + end)


def _read(name: str) -> tuple[bytes, bytes, str]:
    """A file's contents plain and compressed, and its type."""
    data = _content(name)
    return data, gzip.compress(data, 9, mtime=0), TYPES["." + name.rpartition(".")[2]]


async def _file(name: str) -> tuple[bytes, bytes, str] | None:
    """A file by name, cached; None if there is none. Compression runs in a thread: it would delay an audio cycle."""
    if name not in _names():
        return None
    if name not in _kept:
        _kept[name] = await asyncio.to_thread(_read, name)
    return _kept[name]


async def serve(request: web.Request) -> web.Response:
    """Serve `/` and `/page/NAME`."""
    name = request.match_info.get("name", "index.html")
    found = await _file(name)
    if found is None:
        raise web.HTTPNotFound(text="there is no such file\n")
    data, packed, kind = found
    headers = _headers(kind, ALONE) | {"Vary": "Accept-Encoding"}
    if name == MODULE:
        # Browsers load a module of another origin only if that says so. It holds no secrets.
        headers["Access-Control-Allow-Origin"] = "*"
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        return web.Response(body=packed, headers=headers | {"Content-Encoding": "gzip"})
    return web.Response(body=data, headers=headers)


async def serve_embedded(origins: Sequence[str]) -> web.Response:
    """Serve the page that pages of these origins may show in a frame."""
    found = await _file(EMBEDDED)
    assert found is not None
    told = ORIGINS_HERE.replace(b'""', f'"{" ".join(origins)}"'.encode())
    ancestors = " ".join(["frame-ancestors 'self'", *origins])
    return web.Response(body=found[0].replace(ORIGINS_HERE, told), headers=_headers(found[2], ancestors))


def _headers(kind: str, ancestors: str) -> dict[str, str]:
    return {
        "Content-Security-Policy": f"{POLICY} {ancestors}", "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache", "Content-Type": kind,
    }  # fmt: skip
