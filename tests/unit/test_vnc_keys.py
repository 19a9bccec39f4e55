"""What is typed into a VNC server: QEMU's is sent keys in its pace, others as fast as they read."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from millrace.budget import Budget
from millrace.doors.inputroom import AT_ONCE
from millrace.doors.vnc.screen import VncScreen
from millrace.graph.model import Ids
from millrace.graph.pictures import KeyPress
from millrace.graph.screens import Screens
from millrace.pixels.rects import Point, Size
from millrace.wire.vnc.client import VncClient
from millrace.wire.vnc.messages import Encoding, Resized
from tests.fuzz import vncserver
from tests.fuzz.vncserver import update
from tests.unit.test_vnc_pictures import client, said

A = 0x1E


def greeted(name: bytes) -> bytes:
    """All that a server without a password says until it lets us in, as that desktop."""
    init = struct.pack(">HH16xI", 64, 48, len(name)) + name
    return b"RFB 003.008\n" + bytes([1, 1]) + bytes(4) + init


class Typing:
    """A server of that name, and what it is sent."""

    def __init__(self, name: bytes) -> None:
        self.full, self.told = False, list[str]()
        self.wire = VncClient(48_000, 2, "", lambda asked, text: b"", 0, (Encoding.RAW,))
        self.screen = VncScreen(Screens("alice", Ids(), Budget()), self.wire, "door/1", self._wake, lambda: self.full)
        self.wire.receive(greeted(name), 0)
        self.wire.events()
        self.screen.resized(Resized(Size(64, 48)), "a machine", 0)
        self.wire.data_to_send()

    def _wake(self) -> None:
        self.told.append("woken")

    def takes(self, key: bool, again: Callable[[], None] = lambda: None) -> bool:
        return self.screen.takes(key, again)

    def press(self, number: int) -> int:
        """Press and release so many times, as long as there is room; how many presses it took."""
        for pressed in range(number):
            if not self.takes(True):
                return pressed
            self.screen.key(KeyPress(A, True))
            self.screen.key(KeyPress(A, False))
        return number


@pytest.mark.parametrize("name", [b"QEMU", b"QEMU (vm)"])
def test_qemu_is_typed_into_in_its_pace(name: bytes) -> None:
    one = Typing(name)
    assert one.press(100) == AT_ONCE // 2 and one.screen.room.pacing
    assert len(one.wire.data_to_send()) == AT_ONCE * 8
    one.screen.room.pace()
    assert one.press(100) == 1 and one.press(100) == 0
    assert one.takes(False), "the pointer waits for no key"


def test_other_servers_are_typed_into_until_they_do_not_read() -> None:
    one = Typing(b"desktop:1 (QEMU)")
    assert one.press(1000) == 1000 and not one.screen.room.pacing
    one.full = True
    assert not one.takes(True) and not one.takes(False, lambda: one.told.append("room"))
    one.full = False
    one.screen.room.tell()
    assert one.told[-1] == "room"
    one.screen.pointer(Point(1, 1), 0, False)
    assert one.takes(True)


def test_whoever_waits_is_told_when_the_server_has_gone() -> None:
    one = Typing(b"QEMU")
    screen = one.screen.screen
    assert screen is not None and one.press(100)
    ended = list[bool]()
    assert not one.takes(True, lambda: ended.append(screen.ended))
    one.screen.close()
    assert ended == [True]


def test_caps_lock_is_kept_from_servers_that_do_not_tell_whether_it_is_on() -> None:
    """Letters are told as capitals already."""
    vnc = client()
    vnc.send_key(0x3A, True, "CapsLock")
    vnc.send_key(0x1E, True, "A")
    assert vnc.data_to_send() == struct.pack(">BBxxI", 4, 1, ord("A"))
    said(vnc, update(vncserver.rect(0, 0, 0, 0, -261, b"\0")))
    vnc.data_to_send()
    vnc.send_key(0x3A, True, "CapsLock")
    assert vnc.data_to_send() == struct.pack(">BBxxI", 4, 1, 0xFFE5)
    # QEMU's keyboard has the lock itself, whether it has told of it or not.
    qemu = client(name=b"QEMU")
    assert qemu.is_qemu
    qemu.send_key(0x3A, True, "CapsLock")
    assert qemu.data_to_send() == struct.pack(">BBxxI", 4, 1, 0xFFE5)


def test_end_releases_what_is_down_and_the_beginning_what_others_have_left() -> None:
    vnc = client()
    for code in (0x2A, 0x1E):
        vnc.send_key(code, True)
    vnc.send_pointer(Point(10, 20), 1, False)
    vnc.data_to_send()
    vnc.send_end()
    keys = struct.pack(">BBxxI", 4, 0, ord("A")) + struct.pack(">BBxxI", 4, 0, 0xFFE1)
    assert vnc.data_to_send() == keys + struct.pack(">BBHH", 5, 0, 10, 20)
    vnc.send_end()
    assert vnc.data_to_send() == b""
    # A mouse that takes movements has not moved.
    said(vnc, update(vncserver.rect(0, 0, 0, 0, -257)))
    vnc.send_pointer(Point(3, 4), 1, True)
    vnc.data_to_send()
    vnc.send_end()
    assert vnc.relative and vnc.data_to_send() == struct.pack(">BBHH", 5, 0, 0x7FFF, 0x7FFF)
    vnc.send_release()
    released = vnc.data_to_send()
    assert struct.pack(">BBxxI", 4, 0, ord("a")) in released and struct.pack(">BBxxI", 4, 0, 0xFFE5) not in released
    assert all(released[at : at + 4] == b"\4\0\0\0" for at in range(0, len(released), 8))
    vnc.is_qemu = True
    vnc.send_release()
    assert vnc.data_to_send() == b""
