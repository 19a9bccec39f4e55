"""The page: files that hold no secret, served to whoever asks; what they ask for is guarded."""

from __future__ import annotations

import gzip
from functools import lru_cache
from importlib.resources import files

from aiohttp import web

TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; connect-src 'self' ws: wss:;"
    " img-src 'self' data:; media-src 'self' blob:; worker-src 'self'; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'none'"
)


@lru_cache(maxsize=32)
def _file(name: str) -> tuple[bytes, bytes, str] | None:
    """A file as it is and compressed, and its type; None where there is none of that name."""
    kind = TYPES.get("." + name.rpartition(".")[2])
    found = files("millrace") / "page" / name
    if kind is None or "/" in name or name.startswith(".") or not found.is_file():
        return None
    data = found.read_bytes()
    return data, gzip.compress(data, 9, mtime=0), kind


async def serve(request: web.Request) -> web.Response:
    """`/` and `/page/NAME`."""
    found = _file(request.match_info.get("name", "index.html"))
    if found is None:
        raise web.HTTPNotFound(text="there is no such file\n")
    data, packed, kind = found
    headers = {
        "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache", "Content-Type": f"{kind}; charset=utf-8", "Vary": "Accept-Encoding",
    }  # fmt: skip
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        return web.Response(body=packed, headers=headers | {"Content-Encoding": "gzip"})
    return web.Response(body=data, headers=headers)
