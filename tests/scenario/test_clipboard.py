"""The clipboards of two guests in one daemon: no text crosses, none without the right, none in logs and lists."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from millrace.graph.clipboard import Clipboard
from millrace.server.http import attend, ticker
from millrace.server.http.frames import FrameWriter
from millrace.wire.peer.clips import Clip, ClipboardState, Copied, Paste
from millrace.wire.peer.messages import Fault
from millrace.wire.peer.pictures import KeyboardHeld, TakeKeyboard
from tests.scenario.tenants import Rig, running
from tests.scenario.watchers import Watcher, painter_of, watching
from tests.watch import clip, words

SECRET = "correct horse battery staple"


class Machine:
    """A machine's clipboard, which hands over its text when it is asked."""

    def __init__(self, rig: Rig, guest: str) -> None:
        self.painter = painter_of(rig, guest, 11)
        self.text = f"{SECRET} of {guest}"
        self.pasted: list[str | None] = []
        self.clipboard: Clipboard = rig.daemon.worker.guest(guest).screens.open_clipboard(self, "door/0")

    def clip_offered(self) -> None: ...

    def clip_withdrawn(self) -> None: ...

    def clip_wanted(self) -> None:
        self.clipboard.supply(words(self.text))

    def copy(self) -> None:
        self.clipboard.copied()

    def paste(self) -> None:
        self.clipboard.ask(lambda text: self.pasted.append(None if text is None else text.whole()))


async def fetched(watcher: Watcher) -> Clip:
    """The text that is announced to this viewer."""
    state = ClipboardState(False)
    while not state.number:
        state = await watcher.until(ClipboardState)
    watcher.wire.send_paste(state.number)
    answer = await watcher.until(Clip)
    assert isinstance(answer, Clip)
    return answer


async def gives(watcher: Watcher, number: int, text: str) -> None:
    """Answer the machine, which asks for this viewer's text."""
    assert await watcher.until(Paste) == Paste(number)
    watcher.wire.send_clip(clip(number, text.encode()))
    for message in watcher.wire.data_to_send():
        await watcher.socket.send_bytes(message if isinstance(message, bytes) else message.encode())


async def until(told: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not told():
            await asyncio.sleep(0.01)


def test_text_reaches_the_viewers_of_its_guest_that_may_have_it_and_nobody_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def test(rig: Rig) -> None:
        alice, bob = Machine(rig, "alice"), Machine(rig, "bob")
        both = await rig.token("both", "type,clipboard", ["alice"])
        one = await watching(rig, both, keyboard=True)
        blind = await watching(rig, await rig.token("typist", "type", ["alice"]))
        other = await watching(rig, await rig.token("bobs", "type,clipboard", ["bob"]), "bob")
        alice.copy()
        assert await fetched(one) == clip(1, f"{SECRET} of alice".encode())
        bob.copy()
        assert (await fetched(other)).text == words(f"{SECRET} of bob")
        for number in (0, 1):
            await blind.say(Paste(number))
            assert (await blind.until(Fault)).code == "rights"
        # Into the machine.
        await one.say(Copied(5))
        await until(lambda: not alice.clipboard.there)
        alice.paste()
        bob.paste()
        await gives(one, 5, f"{SECRET} of a viewer")
        await until(lambda: alice.pasted)
        assert alice.pasted == [f"{SECRET} of a viewer"] and bob.pasted == [None]
        # Whoever takes the keyboard may type, but not paste.
        await blind.say(TakeKeyboard(True))
        while not (await blind.until(KeyboardHeld)).mine:
            pass
        for watcher in (blind, one):
            await watcher.say(Copied(6))
            assert (await watcher.until(Fault)).code == "rights"
        assert not [event for event in blind.told if isinstance(event, ClipboardState | Clip)]
        await silent(rig, caplog)

    running(tmp_path, test)


async def silent(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of it is in what can be looked at."""
    for path in ("/api/v1/state", "/api/v1/incidents", "/metrics"):
        status, text = await rig.ask("GET", path, "")
        assert status == 200 and SECRET not in text
    assert SECRET not in caplog.text and SECRET not in json.dumps(
        [record.args and str(record.args) for record in caplog.records]
    )


def test_right_that_ends_ends_the_clipboard_and_withdraws_what_was_offered(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        alice = Machine(rig, "alice")
        watcher = await watching(rig, await rig.token("user", "type,clipboard", ["alice"]), keyboard=True)
        await watcher.until(ClipboardState)
        while not (await watcher.until(KeyboardHeld)).mine:
            pass
        alice.copy()
        await watcher.say(Copied(1))
        await until(lambda: not alice.clipboard.there)
        alice.paste()
        (token,) = rig.daemon.worker.access.tokens
        assert await rig.daemon.worker.access.revoke(token.id)
        assert alice.pasted == [None]
        alice.copy()
        await watcher.ends()
        assert not [event for event in watcher.told if isinstance(event, ClipboardState) and event.number == 2]

    running(tmp_path, test)


def test_text_that_nobody_asked_for_ends_its_sender(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        Machine(rig, "alice")
        watcher = await watching(rig, keyboard=True)
        await watcher.socket.send_bytes(b"\x11\x01\x01\0\0\0text")
        fault = await watcher.until(Fault)
        assert fault.fatal and fault.code == "protocol" and "not asked for" in fault.message
        await watcher.ends()

    running(tmp_path, test)


def test_text_for_a_viewer_that_reads_slowly_goes_on_as_soon_as_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else happens: no second passes, and the viewer says nothing."""
    narrow = attend.VIEWER._replace(send_buffer=32 * 1024)
    monkeypatch.setattr(attend, "VIEWER", narrow)
    monkeypatch.setattr("millrace.server.http.app.VIEWER", narrow)
    monkeypatch.setattr(ticker, "TICK_S", 3600.0)
    room, rooms = FrameWriter.room, list[bool]()
    monkeypatch.setattr(FrameWriter, "room", lambda writer: (rooms.append(room(writer)), rooms[-1])[1])

    async def test(rig: Rig) -> None:
        alice = Machine(rig, "alice")
        alice.text = b64encode(random.Random(1).randbytes(750_000)).decode()
        watcher = await watching(rig, await rig.token("one", "type,clipboard", ["alice"]))
        alice.copy()
        assert (await fetched(watcher)).text == words(alice.text) and not all(rooms)

    running(tmp_path, test)
