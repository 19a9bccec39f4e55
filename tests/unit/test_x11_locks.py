"""Locks of an X display's keyboard, as XKB tells of them."""

from __future__ import annotations

import struct

from millrace.wire.keys import LightsTold
from millrace.wire.x11 import locks, requests
from millrace.wire.x11.client import X11Client
from tests.fuzz import xserver

MAJOR, FIRST = 135, 85


def watched() -> tuple[X11Client, int]:
    """A client that has asked, and the number of its request."""
    wire = X11Client(b"", 0)
    wire.receive(xserver.setup(), 0)
    for one in xserver.extensions():
        wire.receive(one, 0)
    wire.events(), wire.data_to_send()
    wire.send_lights_watch()
    number = wire._requests._sent
    return wire, number


def sent(wire: X11Client) -> bytes:
    return b"".join(bytes(chunk.data) for chunk in wire.data_to_send())


def test_locks_are_asked_for_and_told_whenever_they_change() -> None:
    wire, number = watched()
    assert sent(wire) == requests.query_extension(b"XKEYBOARD")
    wire.receive(xserver.reply(number, bytes((1, MAJOR, FIRST, 0))), 0)
    use, select, state = locks.watch(MAJOR)
    assert sent(wire) == use + select + state and select[:4] == struct.pack("<BBH", MAJOR, 1, 5)
    wire.receive(xserver.reply(number + 1, b"", 1), 0)
    wire.receive(xserver.reply(number + 3, bytes((0x12, 0, 0, 0x12))), 0)
    assert wire.events() == [LightsTold(6)]
    for kind, locked in ((2, 0x10), (0, 0xFF), (2, 0x02)):
        wire.receive(struct.pack("<BBHIBBBBB19x", FIRST, kind, number, 0, 3, 0, 0, 0, locked), 0)
    assert wire.events() == [LightsTold(2), LightsTold(4)]


def test_server_without_xkb_or_that_refuses_it_tells_nothing() -> None:
    wire, number = watched()
    wire.receive(xserver.reply(number, bytes(4)), 0)
    assert sent(wire) == requests.query_extension(b"XKEYBOARD") and wire.events() == []
    wire, number = watched()
    wire.receive(xserver.reply(number, bytes((1, MAJOR, FIRST, 0))), 0)
    for further in (1, 2, 3):
        wire.receive(xserver.error(number + further), 0)
    assert wire.events() == []
