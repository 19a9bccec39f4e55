"""Texts for a machine that does not read for a while: one is on its way, the newest waits, and the session goes on."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

from millrace.graph.clipboard import Clipboard
from millrace.graph.seat import Watcher
from millrace.guest.machines.address import parse_door
from millrace.media.clip import ClipText
from tests.gops import WATCHER
from tests.scenario.qemuvm import until
from tests.scenario.test_typing_back_pressure import Deaf, attached, vnc_server
from tests.watch import words

SIZE = 1_000_000
HEAD = struct.pack(">Bxxxi", 6, SIZE)


class Copier:
    """A viewer that copies texts of a megabyte."""

    who: Watcher = WATCHER

    def __init__(self, clipboard: Clipboard) -> None:
        self.clipboard, self.mine = clipboard, words("")
        clipboard.join(self)

    def clip_changed(self) -> None: ...

    def clip_wanted(self) -> None:
        self.clipboard.answer(self, self.mine)

    def clip_supplied(self, text: ClipText) -> None: ...

    def clip_refused(self, why: str) -> None: ...

    def copy(self, letter: str) -> None:
        self.mine = words(letter * SIZE)
        self.clipboard.offer(self)


def test_newest_text_waits_while_a_vnc_server_does_not_read(tmp_path: Path) -> None:
    async def main() -> None:
        server = Deaf(vnc_server(b"desktop"))
        async with attached(tmp_path, server, parse_door(f"vnc+unix://{tmp_path}/X0")) as (machine, _):
            guest = machine.guest
            held = guest.admission.budget.held
            clipboard = guest.screens.clipboard_of(machine.key)
            assert clipboard is not None
            copier = Copier(clipboard)
            for letter in "abcdef":
                copier.copy(letter)
                await until(lambda: not guest.turns.waiting)
                assert SIZE // 2 < guest.admission.budget.held - held < 3 * SIZE, "one waits, one is on its way"
            assert machine.state == "attached" and machine.sessions == 1
            server.reads.set()
            await until(lambda: server.got.count(b"f") >= SIZE)
            assert [server.got.count(HEAD + letter) for letter in (b"a", b"f")] == [1, 1]
            assert server.got.count(HEAD) == 2, "those between were replaced"
            await until(lambda: guest.admission.budget.held - held < SIZE // 10)
            assert machine.sessions == 1

    asyncio.run(main())
