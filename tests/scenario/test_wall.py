"""The wall over HTTP: thumbnails of the guests that one may watch, and of no others, as long as one may."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from PIL import Image

from millrace.io.clock import now_ns
from millrace.pixels.rects import Rect
from millrace.server.http.wall import SHOWN_MAX
from tests.scenario.tenants import Rig, running
from tests.watch import Painter

WORK_S = 40
"""A thumbnail is made below the priority of everything else."""
COLOURS = {"alice": 40, "bob": 220}


def painters(rig: Rig) -> dict[str, Painter]:
    """A screen in each guest, in a colour of its own."""
    made = {}
    for name, colour in COLOURS.items():
        painter = made[name] = Painter()
        painter.screen = rig.daemon.worker.guests[name].screens.add(painter, "Head 0", "door/1")
        painter.show(640, 400, now_ns())
        painter.fill(Rect(0, 0, 640, 400), colour, now_ns())
    return made


class Seen:
    """A wall: the last picture of each guest, and what was said of it."""

    def __init__(self, line: aiohttp.ClientWebSocketResponse) -> None:
        self.line = line
        self.pictures: dict[str, np.ndarray[Any, np.dtype[np.uint8]]] = {}
        self.why: dict[str, str] = {}
        self.right: dict[str, str | None] = {}
        self.bytes = 0
        self.parts: list[tuple[str, Rect]] = []

    async def show(self, *names: str) -> None:
        await self.line.send_str(json.dumps({"show": names}))

    async def hear(self) -> None:
        """One message."""
        message = await self.line.receive(timeout=WORK_S)
        if message.type is aiohttp.WSMsgType.TEXT:
            told = json.loads(message.data)
            self.why[told["guest"]] = told["why"]
            self.right[told["guest"]] = told.get("right")
            return
        assert message.type is aiohttp.WSMsgType.BINARY, message
        data: bytes = message.data
        assert data[0] == 1
        width, height, x, y, w, h = np.frombuffer(data, "<u2", 6, 2).tolist()
        name = data[14 : 14 + data[1]].decode()
        picture = self.pictures.get(name)
        if picture is None or picture.shape[:2] != (height, width):
            picture = self.pictures[name] = np.zeros((height, width, 3), np.uint8)
        picture[y : y + h, x : x + w] = np.asarray(Image.open(io.BytesIO(data[14 + data[1] :])).convert("RGB"))
        self.bytes += len(data)
        self.parts.append((name, Rect(x, y, w, h)))

    async def quiet(self, seconds: float) -> None:
        """Nothing is sent for so long."""
        with pytest.raises(TimeoutError):
            await self.line.receive(timeout=seconds)

    def blue(self, name: str) -> int:
        return int(self.pictures[name][:, :, 2].mean())


def wall(rig: Rig, secret: str) -> Any:
    url = f"http://{rig.daemon.serving.address}/api/v1/thumbnails"
    return rig.http.ws_connect(url, headers={"Authorization": f"Bearer {secret}"})


def test_wall_shows_what_is_in_view_and_only_what_has_changed(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        made = painters(rig)
        async with wall(rig, rig.daemon.worker.access.key) as line:
            seen = Seen(line)
            assert not any(one.screen.readers for one in made.values())
            await seen.show("alice", "bob")
            while len(seen.pictures) < 2:
                await seen.hear()
            assert {name: abs(seen.blue(name) - colour) < 4 for name, colour in COLOURS.items()} == {
                "alice": True, "bob": True,
            }  # fmt: skip
            before = seen.bytes
            made["alice"].fill(Rect(300, 200, 20, 20), 220, now_ns())
            await seen.hear()
            assert seen.parts[-1] == ("alice", Rect(150, 100, 10, 10)) and seen.bytes - before < 300
            await seen.quiet(0.6)
            # Two walls share what is made.
            async with wall(rig, rig.daemon.worker.access.key) as other:
                too = Seen(other)
                await too.show("alice")
                await too.hear()
                assert np.abs(too.pictures["alice"].astype(int) - seen.pictures["alice"]).mean() < 3
                assert len(made["alice"].screen.readers) == 1
            await seen.show("bob")
            made["alice"].fill(Rect(0, 0, 640, 400), 90, now_ns())
            await seen.quiet(0.6)
            assert not made["alice"].screen.readers and len(made["bob"].screen.readers) == 1
            assert not rig.daemon.worker.guests["bob"].viewers.sessions, "a wall is not a viewer"
        async with asyncio.timeout(5):
            while made["bob"].screen.readers:
                await asyncio.sleep(0.02)

    running(tmp_path, test)


def test_wall_shows_nothing_without_the_right_to_watch(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        made = painters(rig)
        await rig.token("both", "watch", ["alice", "bob"])
        secrets = {
            name: await rig.token(name, "hear" if name == "hears" else "watch", ["alice"]) for name in ("hears", "one")
        }
        async with wall(rig, secrets["hears"]) as line:
            seen = Seen(line)
            await seen.show("alice", "bob", "nobody")
            while len(seen.why) < 3:
                await seen.hear()
            assert seen.why["alice"].endswith("may not watch in guest alice")
            assert seen.right == {"alice": "watch", "bob": None, "nobody": None}
            assert seen.why["bob"].replace("bob", "nobody") == seen.why["nobody"], "bob does not exist for it"
            assert not seen.pictures and not any(one.screen.readers for one in made.values())
        async with wall(rig, rig.tokens["both"]) as line:
            seen = Seen(line)
            await seen.show("alice", "bob")
            while len(seen.pictures) < 2:
                await seen.hear()
            await rig.ask("DELETE", "/api/v1/guests/bob", "")
            made["alice"].fill(Rect(0, 0, 640, 400), 130, now_ns())
            while abs(seen.blue("alice") - 130) > 4 or "bob" not in seen.why:
                await seen.hear()
            assert not made["bob"].screen.readers
        async with wall(rig, secrets["one"]) as line:
            seen = Seen(line)
            await seen.show("alice")
            await seen.hear()
            token = next(one for one in rig.daemon.worker.access.tokens if one.name == "one")
            await rig.ask("DELETE", f"/api/v1/tokens/{token.id}", "")
            made["alice"].fill(Rect(0, 0, 640, 400), 10, now_ns())
            message = await line.receive(timeout=10)
            assert message.type is aiohttp.WSMsgType.CLOSE and not made["alice"].screen.readers

    running(tmp_path, test)


def test_anything_else_ends_the_wall_with_a_sentence(tmp_path: Path) -> None:
    many = json.dumps({"show": [str(number) for number in range(SHOWN_MAX + 1)]})

    async def test(rig: Rig) -> None:
        for text in ("", "[]", '{"show": "alice"}', '{"show": [1]}', '{"hide": []}', many):
            async with wall(rig, rig.daemon.worker.access.key) as line:
                await line.send_str(text)
                message = await line.receive(timeout=10)
                assert message.type is aiohttp.WSMsgType.CLOSE and "the only message accepted" in str(message.extra)
        status, told = await rig.ask("GET", "/api/v1/thumbnails", "")
        assert status == 426 and "WebSocket" in json.loads(told)["error"]

    running(tmp_path, test)
