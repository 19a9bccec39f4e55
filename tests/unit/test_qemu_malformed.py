"""Calls and descriptors of QEMU's console that are wrong or hostile, and messages in pieces."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from itertools import pairwise

import pytest

from millrace.errors import RemoteProtocolError
from millrace.sim.qemu import ServerWire
from millrace.sim.qemuscreen import PATH, XRGB, FakeConsole
from millrace.text import SHOWN_MAX
from millrace.wire.qemu import values
from millrace.wire.qemu.audio import AudioPeer
from millrace.wire.qemu.client import DisplayClient
from millrace.wire.qemu.dbus import _TYPES, CALL, FIELDS_MAX, MESSAGE_MAX, NAME_MAX, PROPERTIES, RETURN, Message
from millrace.wire.qemu.display import FDS_MAX, LISTENER, PICTURE_MAX, ScreenPeer
from millrace.wire.qemu.values import Reader, Writer, elements
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


@pytest.mark.parametrize("side", ["audio", "client", "screen"])
def test_long_header_is_refused_before_it_is_buffered(side: str) -> None:
    peers: dict[str, Callable[[], AudioPeer | DisplayClient | ScreenPeer]] = {
        "audio": lambda: AudioPeer(0),
        "client": lambda: DisplayClient(0, False, 0),
        "screen": lambda: ScreenPeer(0),
    }
    peer = peers[side]()
    peer.receive(b"OK x\r\nAGREE_UNIX_FD\r\n", 0)
    with pytest.raises(RemoteProtocolError, match="header too long"):
        peer.receive(struct.pack("<cBBBIII", b"l", CALL, 0, 1, 0, 1, FIELDS_MAX + 1), 0)


def said(kind: int, fields: dict[int, str | int], signature: str = "", body: bytes = b"") -> bytes:
    """A message of QEMU's."""
    wire = ServerWire()
    wire.ready = True
    wire._send(kind, 0, {1: PATH, 2: LISTENER} | fields, signature, body)
    return bytes(wire.data_to_send()[-1].data)


LONG = Writer().text("s", "x" * (MESSAGE_MAX + 1)).bytes()
NOT_PICTURES = {
    "properties": said(CALL, {2: PROPERTIES, 3: "GetAll"}, "s", LONG),
    "unknown": said(CALL, {3: "Frobnicate"}, "s", LONG),
    "known": said(CALL, {3: "Disable"}, "", LONG),
    "answer": said(RETURN, {5: 1}, "uuuuay", LONG),
}


@pytest.mark.parametrize("what", NOT_PICTURES)
def test_only_pictures_may_be_long(what: str) -> None:
    data, rig = NOT_PICTURES[what], Rig()
    rig.peer.receive(data[:32], 0)
    assert not rig.peer.waiting and rig.peer.partial_bytes == 32
    with pytest.raises(RemoteProtocolError, match=rf"too long: {len(data)} bytes; {MESSAGE_MAX} at most"):
        rig.peer.receive(data[32:512], 0)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({3: "x" * (NAME_MAX + 1)}, "256 characters"),
        ({3: "Disable", 7: ":" + "1" * NAME_MAX}, "256 characters"),
        ({3: "Disable", 8: "y" * (NAME_MAX + 1)}, "256 characters"),
        ({3: "Disable", 7: 5}, "wrong type"),
        ({3: "Disable"} | dict.fromkeys(range(20, 50), 5), "33 fields; 32"),
    ],
)
def test_impossible_names_in_a_header_end_the_connection(
    monkeypatch: pytest.MonkeyPatch, fields: dict[int, str | int], why: str
) -> None:
    for code, value in fields.items():
        monkeypatch.setitem(_TYPES, code, "u" if isinstance(value, int) else "s")
    rig = Rig()
    rig.peer.receive(said(CALL, fields), 0)
    with pytest.raises(RemoteProtocolError, match=why):
        rig.run()


def test_refusal_repeats_as_much_of_a_name_as_people_read() -> None:
    rig = Rig()
    rig.console.wire.send_call(PATH, LISTENER, "\n" + "x" * (NAME_MAX - 1))
    rig.peer.receive(rig.console.data_to_send(), 0)
    rig.run()
    (chunk,) = rig.peer.data_to_send()
    rig.console.wire.receive(chunk.data, 0)
    (answer,) = rig.console.wire.events()
    (text,) = answer.values("s")
    assert len(text) == SHOWN_MAX + 1 and text.startswith("\\nxxx") and text.endswith("x…")


@pytest.mark.parametrize(("width", "height"), [(300, 200), (700, 500)])
def test_large_message_is_received_in_any_pieces(width: int, height: int) -> None:
    rig = Rig()
    picture = noise(width, height)
    rig.console.mouse(1, 2, False)
    rig.console.scanout(picture)
    rig.console.update(0, 0, picture[:20, :20])
    data = rig.console.data_to_send()
    # The header of the picture in small pieces: what it is is known only when all of it is there.
    cuts = [*range(0, 600, 7), *range(600, len(data), 60_001), len(data)]
    for at, end in pairwise(cuts):
        rig.peer.receive(data[at:end], 0)
        assert rig.peer.partial_bytes <= len(data)
        rig.run()
    assert (rig.shown() == picture).all() and rig.peer.partial_bytes == 0


def test_message_says_how_many_descriptors_it_came_with() -> None:
    assert Message(CALL, 0, 1, {9: 2}).fds == 2 and Message(CALL, 0, 1, {}).fds == 0


def test_characters_of_signatures_count_as_values() -> None:
    signature, entries = "a(" + "y" * 251 + ")", Writer()
    for number in range(160):
        entries.align(8)
        entries.text("s", f"k{number}").text("g", signature).number("u", 0).align(8)
    body = Writer().number("u", len(entries.bytes())).bytes() + bytes(4) + entries.bytes()
    with pytest.raises(RemoteProtocolError, match="too many"):
        Reader(body).values("a{sv}")
    with pytest.raises(RemoteProtocolError, match="too many"):
        Reader(bytes(4)).values("a(" + "y" * 1_000 + ")")


def test_type_of_an_array_is_taken_apart_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    monkeypatch.setattr(values, "elements", lambda signature: taken.append(signature) or elements(signature))
    inner = "a(" + "y" * 100 + ")"
    assert Reader(struct.pack("<II", 800, 0) + bytes(800)).values(f"a({inner})") == [[([],)] * 100]
    assert taken == [f"a({inner})", inner]
