"""Calls and descriptors of QEMU's console that are wrong or hostile, and messages in pieces."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

import pytest

from millrace.errors import RemoteProtocolError
from millrace.sim.qemuscreen import XRGB, FakeConsole
from millrace.wire.qemu.dbus import CALL, Message
from millrace.wire.qemu.display import FDS_MAX, PICTURE_MAX, ScreenPeer
from millrace.wire.qemu.values import Writer
from tests.qemuconsole import Memory, Rig, noise, numbers

Broken = Callable[[FakeConsole], object]
BROKEN: dict[str, Broken] = {
    "arguments": lambda one: one.call("Scanout", "s", Writer().text("s", "x")),
    "too few pixels": lambda one: one.call("Scanout", "uuuuay", numbers("uuuu", 8, 8, 32, XRGB).blob(bytes(255))),
    "short rows": lambda one: one.call("Update", "iiiiuuay", numbers("iiiiuu", 0, 0, 8, 1, 31, XRGB).blob(bytes(64))),
    "negative": lambda one: one.call("Update", "iiiiuuay", numbers("iiiiuu", 0, 0, -8, 1, 32, XRGB).blob(bytes(64))),
    "enormous": lambda one: one.call("Scanout", "uuuuay", numbers("uuuu", 2**31, 8, 32, XRGB).blob(bytes(64))),
    "cursor": lambda one: one.call("CursorDefine", "iiiiay", numbers("iiii", 32, 32, 0, 0).blob(bytes(64))),
    "no descriptor": lambda one: one.scanout_map(3, 8, 8, 32),
    "blob": lambda one: one.call("Scanout", "uuuuay", numbers("uuuu", 8, 8, 32, XRGB).number("u", 2**20)),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_malformed_call_ends_the_connection(what: str) -> None:
    rig = Rig()
    BROKEN[what](rig.console)
    with pytest.raises(RemoteProtocolError):
        rig.step()


def test_descriptors_without_messages_are_bounded_and_closed() -> None:
    rig = Rig()
    hear, ring = os.pipe()
    rig.peer.receive_fds([os.dup(hear) for _ in range(FDS_MAX + 1)])
    with pytest.raises(RemoteProtocolError, match="17 descriptors"):
        rig.peer.receive(b"l", 0)
    rig.door.close()
    assert len(rig.closed) == FDS_MAX + 1
    os.close(hear)
    os.close(ring)


def test_descriptors_of_calls_that_need_none_are_closed() -> None:
    rig = Rig()
    hear, ring = os.pipe()
    rig.console.call("MouseSet", "iii", numbers("iii", 1, 2, 1), fds=(hear,))
    rig.step((hear,))
    memory = Memory(8, 8)
    rig.console.scanout_map(memory.fd, 8, 8, 32)
    rig.peer.receive_fds([os.dup(memory.fd)])
    rig.peer.receive(rig.console.data_to_send(), 0)
    assert len(rig.closed) == 1
    rig.door.close()
    assert len(rig.closed) == 2, "that of a call which nobody took"
    os.close(hear)
    os.close(ring)


def test_length_of_a_picture_is_checked_before_it_is_buffered() -> None:
    peer = ScreenPeer(0)
    peer.receive(b"OK x\r\nAGREE_UNIX_FD\r\n", 0)
    wrong = struct.pack("<cBBBIII", b"l", CALL, 0, 1, 2 * PICTURE_MAX, 1, 8)
    with pytest.raises(RemoteProtocolError, match="at most"):
        peer.receive(wrong, 0)
    rig = Rig()
    rig.console.mouse(1, 2, True)
    rig.peer.receive(rig.console.data_to_send() + wrong, 0)
    with pytest.raises(RemoteProtocolError, match="at most"):
        rig.run()


def test_large_message_is_received_in_any_pieces() -> None:
    rig = Rig()
    picture = noise(300, 200)
    rig.console.mouse(1, 2, False)
    rig.console.scanout(picture)
    rig.console.update(0, 0, picture[:20, :20])
    data = rig.console.data_to_send()
    for at in range(0, len(data), 60_001):
        rig.peer.receive(data[at : at + 60_001], 0)
        assert rig.peer.partial_bytes <= len(data)
        rig.run()
    assert (rig.shown() == picture).all() and rig.peer.partial_bytes == 0


def test_message_says_how_many_descriptors_it_came_with() -> None:
    assert Message(CALL, 0, 1, {9: 2}).fds == 2 and Message(CALL, 0, 1, {}).fds == 0
