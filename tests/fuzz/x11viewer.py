"""A display that a viewer types into, resizes, and copies and pastes with: its server, and who takes what it says."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import lru_cache, partial

from millrace.absent import nothing
from millrace.doors.x11.door import X11Door
from millrace.graph.model import Ids
from millrace.graph.screens import Screens
from millrace.media.clip import ClipReader, ClipText
from millrace.pixels.rects import Size
from millrace.sim.rig import Rig
from millrace.wire.x11 import marks
from millrace.wire.x11.client import X11Client
from millrace.wire.x11.setup import setup_request
from tests.fuzz import xserver
from tests.fuzz.xserver import INCR, KEYBOARD, KEYBOARD_FIRST, MAJORS, PROPERTY, UTF8
from tests.received import received

PARTIAL_MAX = 1_000_000
"""More than the longest text of which something has come here, and an answer."""
FIXES, TEST = MAJORS[b"XFIXES"][0], MAJORS[b"XTEST"][0]
MESSAGES_MAX = 200
REQUESTOR = 9
"""The window of a program that pastes."""
KEYS: dict[int, xserver.Groups] = {24: [(3, [0x71, 0x51])], 38: [(3, [0x61, 0x41])], 50: [(1, [0xFFE1])]}


def _text(text: str) -> ClipText:
    reader = ClipReader()
    reader.add(text.encode(), True)
    return reader.text()


LONG = _text("a text that is handed over in pieces " * 4_000)


class Viewer:
    """Takes what the server says. An answer goes to the request that waits longest, so what comes out of order too.

    A property or an event that names no window is that of the text which is being read.
    """

    def __init__(self) -> None:
        self._rig = Rig()
        self.wire, screens = X11Client(b"", 0), Screens("fuzz", Ids(), self._rig.graph.budget)
        self._door = X11Door(
            screens, self.wire, "X display :1", "door/0", lambda size: (9, memoryview(bytearray(size))),
            lambda ready: None, nothing,
        )  # fmt: skip
        self._begun = False
        self._left = list("日Aa" * 3)
        """What is still to be typed."""

    def take(self, data: bytes) -> None:
        """Take one message, and do what a viewer may do then."""
        wire = self.wire
        received(wire, self._addressed(data), self._rig.now_ns, partial(self._door.receive, self._rig.now_ns))
        assert wire.partial_bytes < PARTIAL_MAX
        if wire.selections.ready and not self._begun:
            self._begun = True
            wire.send_clip_request()
            wire.send_clip_offer(True)
            wire.send_size(Size(40, 30))
        if wire.selections._asks:
            wire.send_clip_text(LONG)
        if self._begun:
            wire.send_keys_watch()
            while self._left and not wire.keys_wait:
                wire.send_key(0, True, self._left.pop())
                wire.send_key(0, False)
        self._rig.run(0.01)

    def _addressed(self, data: bytes) -> bytes:
        waiting, fetch = self.wire._requests._waiting, self.wire.selections._fetch
        if data[:1] in (b"\0", b"\1") and waiting and self.wire._description is not None:
            return data[:2] + next(iter(waiting)).to_bytes(2, "little") + data[4:]
        at = {28: 4, 31: 8}.get(data[0] & 0x7F) if data else None
        if at is not None and fetch is not None and data[at : at + 4] == bytes(4):
            return data[:at] + struct.pack("<I", fetch.window) + data[at + 4 :]
        return data

    def sent(self) -> list[bytes]:
        """The requests that were made."""
        data, out = b"".join(bytes(chunk.data) for chunk in self.wire.data_to_send()), []
        data = data.removeprefix(setup_request(b""))
        while data:
            size = 4 * int.from_bytes(data[2:4], "little")
            out.append(data[:size])
            data = data[size:]
        return out


def viewer() -> Callable[[bytes], None]:
    """Takes one message."""
    one = Viewer()

    def take(data: bytes) -> None:
        one.take(data)
        one.sent()

    return take


def _answers(request: bytes, properties: Iterator[bytes], owners: dict[int, int]) -> list[bytes]:
    """What a server answers; nothing to most requests. `owners` are the windows that own selections."""
    major, minor = request[0], request[1]
    if major == 98:
        name = request[8 : 8 + int.from_bytes(request[4:6], "little")]
        found = {**MAJORS, b"XKEYBOARD": (KEYBOARD, KEYBOARD_FIRST), b"RANDR": (140, 89)}[name]
        return [xserver.reply(0, struct.pack("<BBB", 1, *found))]
    if major == 16:
        name = request[8 : 8 + int.from_bytes(request[4:6], "little")]
        names = [b"CLIPBOARD", b"TARGETS", b"INCR", b"UTF8_STRING", b"text/plain;charset=utf-8", b"MILLRACE_CLIPBOARD"]
        names += marks.NAMES
        return [xserver.reply(0, struct.pack("<I", 301 + names.index(name)))]
    if (major, minor) == (20, 0):
        listed = [(key, symbols[0]) for key, ((_, symbols), *_) in KEYS.items()]
        return [xserver.has(0, b"".join(struct.pack("<II", *pair) for pair in listed), 6, bits=32)]
    if major == 20:
        return [next(properties, xserver.has(0, b""))]
    if (major, minor) == (FIXES, 4):
        return [xserver.cursor(0)]
    if major == 103:
        return [xserver.reply(0, bytes(12) + b"\xff" * 32, 1)]
    if (major, minor) in ((KEYBOARD, 4), (KEYBOARD, 8)):
        return [xserver.keyboard_state(0) if minor == 4 else xserver.keyboard(0, KEYS, {50: 1})]
    if major == 22:
        owners.update([struct.unpack_from("<II", request, 4)[::-1]])
    if major == 23:
        return [xserver.reply(0, struct.pack("<I", owners.get(*struct.unpack_from("<I", request, 4), 0)))]
    answered = {38, 43, 44, (KEYBOARD, 0), (140, 0), (140, 6), *((one, 0) for one, _ in MAJORS.values())}
    if major in answered or (major, minor) in answered:
        return [xserver.reply(0, struct.pack("<HH20x", 1, 2), 1)]
    return []


# A text as a whole, one in pieces, and one that is none; and programs that paste ours, as a whole and in pieces.
def _said() -> Iterator[tuple[list[bytes], list[bytes]]]:
    """What the server says of its own accord, and what is in the properties that are read then."""
    news = xserver.property_changed(0, PROPERTY, False)
    yield [xserver.owned(8), xserver.converted(0)], [xserver.has(0, b"a text", after=4), xserver.has(0, b"more")]
    pieces = [xserver.has(0, struct.pack("<I", 9), kind=INCR, bits=32), xserver.has(0, b"one"), xserver.has(0, b"two")]
    yield [xserver.owned(8), xserver.converted(0), news, news, news], pieces
    yield [xserver.converted(0, 0), xserver.converted(0, 0), xserver.owned(0)], []
    deleted = xserver.property_changed(REQUESTOR, 77, True)
    yield [xserver.pasted(REQUESTOR, UTF8), *[deleted] * 4, xserver.pasted(REQUESTOR, xserver.TARGETS)], []
    changed = [xserver.keyboard_changed(24, 1), xserver.keyboard_told(2, 2), xserver.keyboard_changed(8, 248, 7)]
    yield [*changed, xserver.resized(40, 30), xserver.cursor_changed()], []


@lru_cache(maxsize=1)
def sessions() -> list[list[bytes]]:
    """A server's messages: all that it is asked is answered, and what it says by itself comes in between."""
    out = []
    for said, properties in _said():
        one, session, found, owners = Viewer(), list[bytes](), iter(properties), dict[int, int]()
        for message in (xserver.setup(), *said):
            answers = [message]
            while answers and len(session) < MESSAGES_MAX:
                for part in answers:
                    one.take(part)
                session += answers
                answers = [answer for request in one.sent() for answer in _answers(request, found, owners)]
        out.append(session)
    return out
