"""The page's static files. They contain no secrets and are served without authentication; the API is guarded."""

from __future__ import annotations

import asyncio
import gzip
from functools import lru_cache
from importlib.resources import files

from aiohttp import web

_kept: dict[str, tuple[bytes, bytes, str]] = {}
TEXTS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
TYPES = {end: f"{kind}; charset=utf-8" for end, kind in TEXTS.items()} | {".wasm": "application/wasm"}
# 'wasm-unsafe-eval' permits compiling the Opus and Zstandard decoders and no other code from strings.
# `frame-ancestors 'none'` keeps other pages from framing this one, since a page around it could hijack the user's
# clicks.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; connect-src 'self';"
    " img-src 'self' data:; media-src 'self' blob:; worker-src 'self'; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'none'"
)


@lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    """The names of the files."""
    found = (files("millrace") / "page").iterdir()
    return frozenset(one.name for one in found if "." + one.name.rpartition(".")[2] in TYPES and one.is_file())


def _read(name: str) -> tuple[bytes, bytes, str]:
    """A file's contents plain and compressed, and its type."""
    data = (files("millrace") / "page" / name).read_bytes()
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
    found = await _file(request.match_info.get("name", "index.html"))
    if found is None:
        raise web.HTTPNotFound(text="there is no such file\n")
    data, packed, kind = found
    headers = {
        "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache", "Content-Type": kind, "Vary": "Accept-Encoding",
    }  # fmt: skip
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        return web.Response(body=packed, headers=headers | {"Content-Encoding": "gzip"})
    return web.Response(body=data, headers=headers)
