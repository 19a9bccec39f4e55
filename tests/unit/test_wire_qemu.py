"""D-Bus as QEMU uses it, QMP, and the treatment of wrong or hostile peers."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import RemoteProtocolError
from millrace.sim.qemu import FakeQemu, ServerWire
from millrace.wire.qemu.audio import AT_ONCE as CALLS_AT_ONCE
from millrace.wire.qemu.audio import (
    AudioPeer,
    VoiceEnabled,
    VoiceFini,
    VoiceInit,
    VoiceRead,
    VoiceVolume,
    VoiceWrite,
    format_of,
)
from millrace.wire.qemu.client import DisplayClient, Machine, NotThere, Refusal, Registered
from millrace.wire.qemu.dbus import CALL, MESSAGE_MAX, DBusWire, Message
from millrace.wire.qemu.qmp import HandedOver, QmpHandover
from millrace.wire.qemu.values import TEXT_MAX, Reader, Writer, elements
from tests.received import received


def joined() -> tuple[FakeQemu, AudioPeer]:
    qemu, peer = FakeQemu(), AudioPeer(1000)
    exchange(qemu, peer)
    assert qemu.properties and peer.greeted
    return qemu, peer


def exchange(qemu: FakeQemu, peer: AudioPeer) -> None:
    for _ in range(8):
        there = b"".join(bytes(chunk.data) for chunk in peer.data_to_send())
        back = qemu.data_to_send()
        if not there and not back:
            return
        if there:
            qemu.receive(there)
        if back:
            received(peer, back, 0)


# -- values ----------------------------------------------------------------------------------


def test_values_follow_specified_alignment() -> None:
    body = Writer().number("y", 7).number("u", 9).text("s", "hé").number("t", 1 << 40).blob(b"abc").bytes()
    assert body == b"\x07\0\0\0\x09\0\0\0\x03\0\0\0h\xc3\xa9\0" + struct.pack("<Q", 1 << 40) + b"\x03\0\0\0abc"
    assert Reader(body).values("yustay") == [7, 9, "hé", 1 << 40, b"abc"]


def test_big_endian_and_nested_values_are_read() -> None:
    body = struct.pack(">I", 32) + bytes(4) + struct.pack(">I", 4) + b"Name\0\x01s\0" + struct.pack(">I", 2) + b"vm\0"
    body = struct.pack(">I", len(body) - 8) + body[4:]
    assert Reader(body, ">").values("a{sv}") == [{"Name": "vm"}]
    assert elements("tybb(ua{sv})ay") == ["t", "y", "b", "b", "(ua{sv})", "ay"]


def test_text_of_a_message_is_bounded_all_together() -> None:
    both = Writer().text("s", "x" * (TEXT_MAX // 2)).text("s", "y" * (TEXT_MAX // 2))
    assert [len(text) for text in Reader(both.bytes()).values("ss")] == [TEXT_MAX // 2, TEXT_MAX // 2]
    with pytest.raises(RemoteProtocolError, match="strings too long"):
        Reader(both.text("s", "z").bytes()).values("sss")
    with pytest.raises(RemoteProtocolError, match="strings too long"):
        Reader(Writer().text("s", "x" * (TEXT_MAX + 1)).bytes()).values("s")


@pytest.mark.parametrize("signature", ["a", "(", "(u", "{su", "z", "a{s", "aa"])
def test_malformed_signatures_are_refused(signature: str) -> None:
    with pytest.raises(RemoteProtocolError):
        elements(signature)


@given(st.binary(max_size=200), st.sampled_from(["tay", "a{sv}", "as", "tybbuyuub", "v", "aav", "g"]))
def test_any_bytes_are_values_or_remote_error(data: bytes, signature: str) -> None:
    try:
        Reader(data).values(signature)
    except RemoteProtocolError:
        return


# -- the connection --------------------------------------------------------------------------


def test_listener_receives_qemus_calls() -> None:
    qemu, peer = joined()
    qemu.init(5, rate=44_100, channels=6, bits=32, floating=True)
    qemu.enable(True, 5)
    qemu.volume(True, bytes((255, 0)), 5)
    qemu.write(b"12345678", 5)
    qemu.fini(5)
    exchange(qemu, peer)
    assert peer.events() == [
        VoiceInit(5, format_of(32, True, True, 44_100, 6, False)),
        VoiceEnabled(5, True),
        VoiceVolume(5, True, (255, 0)),
        VoiceWrite(5, b"12345678"),
        VoiceFini(5),
    ]


def test_read_is_answered_with_given_sound() -> None:
    qemu, peer = joined()
    qemu.read(1920, 3)
    exchange(qemu, peer)
    (read,) = peer.events()
    assert isinstance(read, VoiceRead) and (read.id, read.size) == (3, 1920)
    peer.send_sound(read, b"abcd")
    exchange(qemu, peer)
    assert qemu.answers == [b"abcd"]


def test_few_calls_are_taken_at_once() -> None:
    qemu, peer = joined()
    for id_ in range(10):
        qemu.init(id_)
        qemu.fini(id_)
    peer.receive(qemu.data_to_send(), 0)
    taken = [peer.events()]
    while peer.unfinished:
        assert peer.partial_bytes
        peer.receive(b"", 0)
        taken.append(peer.events())
    assert max(map(len, taken)) == CALLS_AT_ONCE and peer.partial_bytes == 0
    assert [event.id for some in taken for event in some] == [id_ for id_ in range(10) for _ in range(2)]


def test_what_was_put_back_comes_alone_and_before_what_waits() -> None:
    qemu, peer = joined()
    for id_ in range(3 * CALLS_AT_ONCE):
        qemu.init(id_)
    peer.receive(qemu.data_to_send(), 0)
    first = peer.events()
    peer.put_back(first[1:])
    assert peer.unfinished
    peer.receive(b"", 0)
    assert peer.events() == first[1:]
    peer.receive(b"", 0)
    assert [event.id for event in peer.events()] == [*range(CALLS_AT_ONCE, 2 * CALLS_AT_ONCE)]


def test_unknown_call_is_refused_and_connection_continues() -> None:
    wire, peer = ServerWire(), AudioPeer(1000)
    serial = wire.send_call("/x", "org.example", "Frobnicate")
    for _ in range(4):
        wire.receive(b"".join(bytes(c.data) for c in peer.data_to_send()), 0)
        for chunk in wire.data_to_send():
            peer.receive(chunk.data, 0)
    (answer,) = wire.events()
    assert answer.reply_to == serial and answer.error.endswith("UnknownMethod")


@pytest.mark.parametrize(
    "line",
    [b"REJECTED EXTERNAL\r\n", b"HTTP/1.1 400 Bad Request\r\n", b"x" * 20_000],
    ids=["rejected", "http", "too long"],
)
def test_peer_without_dbus_is_reported(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="authentication"):
        DBusWire(0).receive(line, 0)


def test_lengths_are_checked_before_buffering() -> None:
    peer = AudioPeer(0)
    peer.receive(b"OK x\r\nAGREE_UNIX_FD\r\n", 0)
    with pytest.raises(RemoteProtocolError, match="at most"):
        peer.receive(struct.pack("<cBBBIII", b"l", CALL, 0, 1, MESSAGE_MAX, 1, 8), 0)


def test_write_with_wrong_arguments_ends_connection() -> None:
    qemu, peer = joined()
    qemu.wire.send_call("/o", "i", "Write", "s", Writer().text("s", "no").bytes())
    with pytest.raises(RemoteProtocolError, match="expected"):
        exchange(qemu, peer)


@pytest.mark.parametrize(
    "said",
    [
        (24, True, False, 48_000, 2, False),
        (16, True, True, 48_000, 2, False),
        (16, True, False, 48_000, 0, False),
        (16, True, False, 0, 2, False),
    ],
)
def test_impossible_formats_are_refused(said: tuple[int, bool, bool, int, int, bool]) -> None:
    with pytest.raises(RemoteProtocolError, match="invalid format"):
        format_of(*said)


@given(st.binary(max_size=400))
def test_any_bytes_after_login_end_at_most_the_connection(data: bytes) -> None:
    peer = AudioPeer(0)
    peer.receive(b"OK x\r\nAGREE_UNIX_FD\r\n", 0)
    try:
        peer.receive(data, 0)
        peer.receive(struct.pack("<cBBBIII", b"l", 1, 0, 1, len(data), 1, 0) + data, 0)
    except RemoteProtocolError:
        return


# -- finding the machine ---------------------------------------------------------------------


def bus_answers(client: DisplayClient, machines: Mapping[str, str | bytes]) -> list[object]:
    """A bus with `machines` (unique name to VM name, which is bytes where it is wrong), and QEMU behind each."""
    wire, seen = ServerWire(), []
    for _ in range(12):
        for chunk in client.data_to_send():
            wire.receive(bytes(chunk.data), 0)
        for message in wire.events():
            wire.send_reply(message, *_answer(message, machines))
        for chunk in wire.data_to_send():
            client.receive(chunk.data, 0)
        seen += client.events()
    return seen


def _answer(message: Message, machines: Mapping[str, str | bytes]) -> tuple[str, bytes]:
    if message.member == "Hello":
        return "s", Writer().text("s", ":1.9").bytes()
    if message.member == "ListQueuedOwners":
        names = Writer()
        for name in machines:
            names.text("s", name)
        return "as", Writer().number("u", len(names.bytes())).bytes() + names.bytes()
    if message.member == "GetAll":
        name = machines[message.fields[6]] if 6 in message.fields else "only"
        entries = Writer()
        entries.align(8)
        entries.text("s", "Name")
        if isinstance(name, str):
            entries.text("g", "s").text("s", name)
        else:
            entries.text("g", "ay").blob(name)
        raw = entries.bytes()
        return "a{sv}", Writer().number("u", len(raw)).bytes() + bytes(4) + raw
    return "", b""


def test_right_machine_of_several_on_bus_is_found() -> None:
    client = DisplayClient(0, on_bus=True, now_ns=0, vm="beta")
    assert bus_answers(client, {":1.2": "alpha", ":1.3": "beta"}) == [Machine("beta", "")]
    client.send_register("Out", 7)
    (chunk,) = client.data_to_send()
    assert chunk.fds == (7,) and b":1.3" in chunk.data


def test_machine_whose_name_is_no_text_has_none() -> None:
    client = DisplayClient(0, on_bus=True, now_ns=0)
    assert bus_answers(client, {":1.2": bytes(1000)}) == [Machine("", "")]


def test_client_processes_one_message_at_a_time() -> None:
    client, wire = DisplayClient(0, on_bus=False, now_ns=0), ServerWire()
    bus_answers(client, {})
    client.data_to_send()
    wire.ready = True
    for _ in range(100):
        wire.send_call("/", "x.y", "Z")
    client.receive(b"".join(bytes(chunk.data) for chunk in wire.data_to_send()), 0)
    answered, waits = [len(client.data_to_send())], client.partial_bytes
    one = waits // 99
    while client.unfinished:
        client.receive(b"", 0)
        answered.append(len(client.data_to_send()))
        assert client.partial_bytes == waits - one, "what was processed is not held any more"
        waits -= one
    assert answered == [1] * 100 and not waits


def test_bus_without_machine_lists_those_present() -> None:
    assert bus_answers(DisplayClient(0, on_bus=True, now_ns=0, vm="gamma"), {":1.2": "alpha"}) == [NotThere(("alpha",))]
    assert bus_answers(DisplayClient(0, on_bus=True, now_ns=0), {}) == [NotThere(())]


def test_peer_to_peer_registers_and_reports_refusal() -> None:
    client, wire = DisplayClient(0, on_bus=False, now_ns=0), ServerWire()
    assert bus_answers(client, {}) == [Machine("only", "")]
    client.send_register("Out", 3)
    client.send_register("In", 4)
    wire.ready = True
    for chunk in client.data_to_send():
        wire.receive(bytes(chunk.data), 0)
    first, second = wire.events()
    wire.send_reply(first)
    wire.send_error(second, "org.qemu.Display1.Error.Invalid", "taken")
    for chunk in wire.data_to_send():
        client.receive(chunk.data, 0)
    assert client.events() == [Registered("Out"), Refusal("In", "org.qemu.Display1.Error.Invalid", "taken")]


# -- QMP -------------------------------------------------------------------------------------


def test_qmp_passes_descriptor_with_its_name() -> None:
    qmp = QmpHandover(9, 0)
    qmp.receive(b'{"QMP": {"version": {}}}\r\n', 0)
    sent = []
    for _ in range(3):
        sent += qmp.data_to_send()
        qmp.receive(b'{"event": "RTC_CHANGE"}\n{"return": {}}\n', 0)
    assert qmp.events() == [HandedOver()]
    assert [b"capabilities" in c.data for c in sent] == [True, False, False]
    assert [c.fds for c in sent] == [(), (9,), ()]


@pytest.mark.parametrize(("major", "silent"), [(7, True), (8, False)])
def test_old_qemu_is_attached_without_its_sound_over_qmp(major: int, silent: bool) -> None:
    qmp = QmpHandover(9, 0)
    qmp.receive(b'{"QMP": {"version": {"qemu": {"major": %d}}}}\n' % major + b'{"return": {}}\n' * 3, 0)
    (event,) = qmp.events()
    assert ("crashes when its sound" in event.silent) == silent


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b'{"error": {"class": "GenericError", "desc": "no such display"}}\n', "p2p=on"),
        (b'{"QMP": {"version": {"qemu": {"major": 7}}}}\n{"error": {"desc": "no p2p"}}\n', "--dbus"),
        (b"SSH-2.0-OpenSSH\n", "not a QMP"),
        (b"[1]\n", "not a QMP"),
        (b"x" * 1_100_000, "too long"),
    ],
)
def test_qmp_refusal_or_absence_is_explained(said: bytes, expected: str) -> None:
    with pytest.raises(RemoteProtocolError, match=expected):
        QmpHandover(9, 0).receive(said, 0)


@pytest.mark.parametrize("signature", ["a()", "()", "a{}", "a{s}", "a{sss}", "a{vs}", "a{ass}", "v"])
def test_types_without_size_or_invalid_dictionaries_are_refused(signature: str) -> None:
    inner = b"\x03a()\0" if signature == "v" else b""
    with pytest.raises(RemoteProtocolError):
        Reader(inner + struct.pack("<I", 64) + bytes(80)).values(signature)
