"""What viewers and walls make a guest hold: however they end, all of it is released."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from millrace.budget import MIB
from millrace.guest.guest import Guest
from millrace.io.clock import now_ns
from millrace.pixels.rects import Rect
from millrace.wire.peer.clips import ClipboardState, Copied
from millrace.wire.peer.pictures import Key, KeyboardHeld, Text
from tests.nativebus import eventually
from tests.scenario.tenants import LASTS_S, Rig, end, running
from tests.scenario.test_clipboard import Machine
from tests.scenario.watchers import Watcher, watching

VIEWER_ENDS = ["bye", "abort", "revoked", "expired", "guest removed", "bad message", "refused", "screen gone"]
WALL_ENDS = ["bye", "abort", "revoked", "guest removed", "bad message", "refused", "nothing in view", "screen gone"]


def state(guest: Guest) -> dict[str, Any]:
    """The guest's limited resources, which must all be released again."""
    return {
        "held": guest.graph.budget.held, "shares": guest.graph.budget.shares(), "sessions": list(guest.sessions),
        "viewers": list(guest.viewers.sessions), "encoders": len(guest.viewers._sharing.groups),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }  # fmt: skip


class Filmed(Machine):
    """A machine in whose screen everything moves, and which has a text to copy."""

    async def film(self) -> None:
        for colour in range(1, 10_000):
            with suppress(ValueError):
                self.painter.fill(Rect(0, 0, 64, 48), colour % 250, now_ns())
            await asyncio.sleep(0.02)

    def gone(self, guest: Guest) -> None:
        """It has ended."""
        guest.screens.remove(self.painter.screen)
        guest.screens.close_clipboard(self.clipboard)

    def clip_wanted(self) -> None:
        """It never answers: whoever fetches is waiting."""


async def uses_everything(one: Watcher, machine: Filmed) -> None:
    """Hold a key down, wait for the machine's text while it waits for ours, and type on."""
    while not (await one.until(KeyboardHeld)).mine:
        pass
    machine.copy()
    state = ClipboardState(False)
    while not state.number:
        state = await one.until(ClipboardState)
    one.wire.send_paste(state.number)
    await one.say(Copied(5))
    await one.say(Key(30, True))
    await one.say(Text("x" * 100))
    await one.say(Key(48, True))


async def released(rig: Rig, alice: Guest, before: dict[str, Any], how: str) -> None:
    if how == "guest removed":
        await eventually(
            lambda: not state(alice)["viewers"] and set(state(alice)["shares"]) <= {"sink", "source", "cache"}
        )
    else:
        await eventually(lambda: state(alice) == before)
    assert alice.graph.budget.held == sum(alice.graph.budget.shares().values())


@pytest.mark.parametrize("how", VIEWER_ENDS)
def test_viewer_releases_everything_however_it_ends(how: str, tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        alice = rig.daemon.worker.guest("alice")
        secret = await rig.token("a", "type,clipboard", ["alice"], LASTS_S if how == "expired" else 0)
        nothing = state(alice)
        machine = Filmed(rig, "alice")
        film = asyncio.create_task(machine.film())
        before = state(alice)
        async with aiohttp.ClientSession() as http:
            own = Rig(rig.daemon, http)
            if how == "refused":
                alice.graph.budget.limit = before["held"] + 1000
                with pytest.raises(aiohttp.WSServerHandshakeError, match="507"):
                    await watching(own, secret)
                alice.graph.budget.limit = 256 * MIB
            else:
                one = await watching(own, secret, keyboard=True, codecs=["avc1"])
                await uses_everything(one, machine)
                goes_on = asyncio.create_task(one.goes_on())
                await eventually(lambda: {"viewer", "reader", "picture encoder"} <= set(alice.graph.budget.shares()))
                await eventually(lambda: alice.graph.budget.held > before["held"] + 100_000)
                goes_on.cancel()
                await asyncio.gather(goes_on, return_exceptions=True)
                if how == "screen gone":
                    machine.gone(alice)
                    await eventually(
                        lambda: (+Counter(alice.graph.budget.shares())).keys() == {"sink", "source", "viewer"}
                    )
                    await one.socket.close()
                await end(how, rig, one.socket)
                if how == "expired":
                    await one.ends()
        film.cancel()
        await released(rig, alice, nothing if how == "screen gone" else before, how)

    running(tmp_path, test)


@pytest.mark.parametrize("how", WALL_ENDS)
def test_wall_releases_everything_however_it_ends(how: str, tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        alice = rig.daemon.worker.guest("alice")
        secret = await rig.token("a", "watch", ["alice"])
        nothing = state(alice)
        machine = Filmed(rig, "alice")
        film = asyncio.create_task(machine.film())
        before = state(alice)
        url = f"http://{rig.daemon.serving.address}/api/v1/thumbnails"
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {secret}"}) as http:
            if how == "refused":
                alice.graph.budget.limit = before["held"] + 1000
                with pytest.raises(aiohttp.WSServerHandshakeError, match="507"):
                    await http.ws_connect(url)
                alice.graph.budget.limit = 256 * MIB
            else:
                line = await http.ws_connect(url)
                await line.send_str(json.dumps({"show": ["alice"]}))
                await eventually(lambda: {"wall", "thumbnail", "reader"} <= set(alice.graph.budget.shares()))
                if how == "screen gone":
                    machine.gone(alice)
                if how == "nothing in view":
                    await line.send_str(json.dumps({"show": []}))
                await end(how, rig, line)
                if how in ("nothing in view", "screen gone"):
                    await eventually(lambda: not {"thumbnail", "reader"} & set(alice.graph.budget.shares()))
                    await line.close()
        film.cancel()
        await released(rig, alice, nothing if how == "screen gone" else before, how)

    running(tmp_path, test)
