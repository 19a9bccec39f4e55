"""A server that speaks the screen protocol with pictures made here, right or wrong, and as much of the API as the page
needs. It packs pieces by itself, so that it can send what no daemon would."""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import io
import json
import struct
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from aiohttp import WSMsgType, web
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from millrace.server.http import assets
from tests.places import lack

RAW, ZSTD, JPEG, MOVE, VIDEO, SHAPE, DRAW, PNG, PALETTE, FRAME, OVERLAYS = range(1, 12)
LAST, KEY = 1, 2
STARTS = 1
"""Flag of a part that needs nothing before it."""
_PIECE, _PART = struct.Struct("<BBHIQ"), struct.Struct("<BBHHHHHHI")
Picture = np.ndarray
"""Pixels as (height, width, 4) bytes: B, G, R, unused."""


def painted(width: int, height: int, seed: int = 0) -> Picture:
    """Blocks of 16 × 16 pixels in clear colours, none like its neighbours."""
    dice = np.random.default_rng(seed)
    small = dice.integers(0, 8, ((height + 15) // 16, (width + 15) // 16, 3), np.uint8) * 36
    blocks = small.repeat(16, 0).repeat(16, 1)[:height, :width]
    return np.dstack([blocks, np.zeros((height, width, 1), np.uint8)])


class Rect(NamedTuple):
    """A part of a screen."""

    x: int
    y: int
    w: int
    h: int

    def of(self, picture: Picture) -> Picture:
        """Those pixels of a picture."""
        return picture[self.y : self.y + self.h, self.x : self.x + self.w]


def part(kind: int, at: Rect, data: bytes = b"", dx: int = 0, dy: int = 0, flags: int = 0) -> bytes:
    """A part of a piece."""
    return _PART.pack(kind, flags, *at, dx & 0xFFFF, dy & 0xFFFF, len(data)) + data


def piece(
    parts: list[bytes], serial: int, generation: int = 1, flags: int = LAST, painted_ns: int | None = None
) -> bytes:
    """A piece of a picture, painted now."""
    when = time.monotonic_ns() if painted_ns is None else painted_ns
    return _PIECE.pack(16, flags, generation, serial, when) + b"".join(parts)


def zstd(data: bytes) -> bytes:
    """One Zstandard frame, by libzstd."""
    name = ctypes.util.find_library("zstd")
    if name is None:
        lack("libzstd")
    lib = ctypes.CDLL(name)
    lib.ZSTD_compressBound.restype = lib.ZSTD_compress.restype = ctypes.c_size_t
    room = ctypes.create_string_buffer(lib.ZSTD_compressBound(ctypes.c_size_t(len(data))))
    size = lib.ZSTD_compress(room, ctypes.c_size_t(len(room)), data, ctypes.c_size_t(len(data)), 1)
    return room.raw[:size]


def few(picture: Picture, plain: bool = False) -> bytes:
    """A picture of few colours: a palette, and packed indices."""
    height, width = picture.shape[:2]
    colours, indices = np.unique(picture[..., :3].reshape(-1, 3), axis=0, return_inverse=True)
    bits = next(bits for bits in (0, 1, 2, 4, 8) if len(colours) <= 1 << bits)
    cells = indices.reshape(height, width, 1) >> np.arange(bits)[::-1] & 1
    rows = np.packbits(cells.reshape(height, -1).astype(bool), axis=1).tobytes()
    return bytes([len(colours) - 1]) + colours.tobytes() + (rows if plain else zstd(rows))


def still(picture: Picture, kind: str) -> bytes:
    """A picture as PNG or JPEG."""
    out = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if kind == "jpeg" else {}
    Image.fromarray(np.ascontiguousarray(picture[..., 2::-1])).save(out, kind, **options)
    return out.getvalue()


def encoded(pictures: list[Picture], codec: str) -> list[bytes]:
    """Access units of H.264 (Annex B) or VP8, the first a key one."""
    height, width = pictures[0].shape[:2]
    made = av.CodecContext.create({"avc1": "libx264", "vp8": "libvpx"}[codec], "w")
    made.width, made.height, made.pix_fmt, made.time_base = width, height, "yuv420p", Fraction(1, 30)
    made.colorspace, made.color_range = Colorspace.ITU601, ColorRange.MPEG
    made.options = (
        {"preset": "ultrafast", "tune": "zerolatency", "qp": "10", "x264-params": "repeat-headers=1:keyint=infinite"}
        if codec == "avc1"
        else {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "b": "8M", "g": "9999"}
    )
    out: list[bytes] = []
    for n, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[..., :3]), "bgr24").reformat(format="yuv420p")
        frame.pts = n
        out += [bytes(packet) for packet in made.encode(frame)]
    return out


GUEST = {"id": "guest/1", "name": "desk"}
LISTS = ("sinks", "sources", "streams", "recorders", "listeners", "doors")


class ScreenServer:
    """`got` are the viewer's messages of all connections, `joins` how many there were. `script` runs for each."""

    def __init__(self, script: Callable[[ScreenServer], Any] | None = None, prefix: str = "", status: int = 0) -> None:
        self._script, self._prefix, self._status = script, prefix, status
        self.got: list[dict[str, Any]] = []
        self.pinged: list[float] = []
        """When pings came."""
        self.clips: list[bytes] = []
        """Binary messages: text from the clipboard."""
        self.offered: list[str] = []
        self.joins = 0
        self.line: web.WebSocketResponse | None = None
        self.serial = 0
        self.screens: list[dict[str, Any]] = [{"id": "screen/7", "name": "Head 0"}]
        self._watchers: list[web.WebSocketResponse] = []

    async def __aenter__(self) -> ScreenServer:
        app = web.Application()
        at = self._prefix
        app.add_routes(
            [
                web.get(f"{at}/", assets.serve), web.get(f"{at}/page/{{name}}", assets.serve),
                web.get(f"{at}/api/v1/state", self._state), web.get(f"{at}/api/v1/incidents", self._incidents),
                web.get(f"{at}/api/v1/events", self._events), web.get(f"{at}/desk/screen", self._screen),
                web.get("/favicon.ico", self._nothing),
            ]
        )  # fmt: skip
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}{at}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        for line in [*self._watchers, self.line]:
            if line is not None:
                await line.close()
        await self._runner.cleanup()

    # -- the API ------------------------------------------------------------------------------

    def _guest(self) -> dict[str, Any]:
        return GUEST | {name: [] for name in LISTS} | {"screens": self.screens}

    async def _state(self, request: web.Request) -> web.Response:
        return web.json_response({"you": "somebody", "names": ["desk"], "guests": [self._guest()]})

    async def _incidents(self, request: web.Request) -> web.Response:
        return web.json_response([])

    async def _nothing(self, request: web.Request) -> web.Response:
        return web.Response(status=204)

    async def _events(self, request: web.Request) -> web.WebSocketResponse:
        line = web.WebSocketResponse()
        await line.prepare(request)
        there = [{"n": 1, "kind": "guest", "guest": "desk", "is": GUEST}]
        there += [self._listed(one) for one in self.screens]
        await line.send_json({"there": there, "gone": [], "synced": True})
        self._watchers.append(line)
        async for _ in line:
            pass
        return line

    @staticmethod
    def _listed(one: dict[str, Any]) -> dict[str, Any]:
        return {"n": int(one["id"].split("/")[1]), "kind": "screen", "guest": "desk", "is": one}

    async def list(self, screens: list[dict[str, Any]]) -> None:
        """The guest has other screens."""
        gone = [self._listed(one)["n"] for one in self.screens if one not in screens]
        self.screens = screens
        for line in self._watchers:
            await line.send_json({"there": [self._listed(one) for one in screens], "gone": gone, "synced": True})

    # -- the screen ---------------------------------------------------------------------------

    async def _screen(self, request: web.Request) -> web.StreamResponse:
        if self._status:
            return web.Response(status=self._status, text="you may not watch guest desk\n")
        line = web.WebSocketResponse(protocols=("millrace-screen.1",), max_msg_size=1 << 20)
        await line.prepare(request)
        self.offered = [one.strip() for one in request.headers["Sec-WebSocket-Protocol"].split(",")]
        self.line, self.serial = line, 0
        self.joins += 1
        task = asyncio.create_task(self._script(self)) if self._script else None
        async for message in line:
            if message.type is WSMsgType.BINARY:
                self.clips.append(message.data)
            else:
                await self._heard(line, json.loads(message.data))
        if task is not None:
            task.cancel()
        return line

    async def _heard(self, line: web.WebSocketResponse, message: dict[str, Any]) -> None:
        if message["type"] == "ping":
            self.pinged.append(time.monotonic())
            await line.send_json({"type": "pong", "t": message["t"], "now": time.monotonic_ns()})
        elif message["type"] != "pong":
            self.got.append(message)

    async def tell(self, kind: str, **fields: Any) -> None:
        """Send a control message."""
        assert self.line is not None
        await self.line.send_str(json.dumps({"type": kind, **fields}))

    async def welcome(
        self, width: int, height: int, may_type: bool = True, generation: int = 1, clipboard: bool = False, **mode: Any
    ) -> None:
        """Begin: the first messages of a daemon."""
        await self.tell(
            "watching", viewer=4, guest="desk", screen="screen/7", label="Head 0", settings={"picture": "auto"},
            may_type=may_type, clipboard=clipboard, version=1, name="Alice Smith",
        )  # fmt: skip
        await self.tell("keyboard", mine=False, who="")
        await self.tell("mode", width=width, height=height, generation=generation, **mode)

    async def send(self, *parts: bytes, flags: int = LAST, **changes: Any) -> int:
        """Send a picture, or a piece of one; returns its serial."""
        assert self.line is not None
        self.serial += 1
        await self.line.send_bytes(piece(list(parts), self.serial, flags=flags, **changes))
        return self.serial

    async def whole(self, picture: Picture, **changes: Any) -> int:
        """Send a whole picture that needs nothing before it."""
        height, width = picture.shape[:2]
        data = zstd(np.ascontiguousarray(picture).tobytes())
        return await self.send(part(ZSTD, Rect(0, 0, width, height), data), flags=LAST | KEY, **changes)

    async def drop(self) -> None:
        """Break the connection as a daemon that dies does."""
        assert self.line is not None and self.line._req is not None
        transport = self.line._req.transport
        assert transport is not None
        transport.abort()

    async def until(self, kind: str, count: int = 1, seconds: float = 15.0, **fields: Any) -> dict[str, Any]:
        """Wait for a viewer's message with these fields; returns the last one."""
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            found = [one for one in self.got if one["type"] == kind and fields.items() <= one.items()]
            if len(found) >= count:
                return found[-1]
            await asyncio.sleep(0.02)
        raise AssertionError(
            f"no {kind} {fields} within {seconds} s: {[one for one in self.got if one['type'] != 'shown'][-20:]}"
        )
