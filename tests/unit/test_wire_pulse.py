"""The PulseAudio wire: tagged values, layouts over every version, framing byte by byte."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import RemoteProtocolError
from millrace.wire.pulse.client import PulseClientSession, Reply, playback_fields
from millrace.wire.pulse.constants import NO_INDEX, Command, Err
from millrace.wire.pulse.layouts import NOTICES, RECORDS, REPLIES, REQUESTS, Layout, read_fields, write_fields
from millrace.wire.pulse.session import HEADER, Block, PulseSession, Refused, Request
from millrace.wire.pulse.tagstruct import FormatInfo, Reader, Spec, Writer

SAMPLES: dict[str, Any] = {
    "s": "näme", "L": 0xDEADBEEF, "B": 7, "R": 1 << 60, "r": -(1 << 40), "U": 123456, "T": (12, 34),
    "a": Spec(3, 2, 48000), "m": (1, 2), "v": (65536, 1), "V": 65536, "x": b"\0\1blob", "b": True,
    "P": {"application.name": b"x\0", "empty": b""}, "f": FormatInfo(1, {"format.rate": b"48000\0"}),
    "F": [FormatInfo(1, {}), FormatInfo(2, {"a": b"b"})], "S": ["a", "b"], "*": b"rest",
}  # fmt: skip
ALL = [(table, command) for table in (REQUESTS, REPLIES, NOTICES) for command in table]


def sample(fields: Layout, version: int = 99) -> dict[str, Any]:
    """A record of what exists in `version`; lists have two records."""
    return {
        f.name: [sample(RECORDS[f.type], version)] * 2 if f.type in RECORDS else SAMPLES[f.type]
        for f in fields
        if f.since <= version
    }


@pytest.mark.parametrize("version", range(13, 36))
def test_every_layout_survives_a_round_trip_at_every_version(version: int) -> None:
    for table, command in ALL:
        fields: Layout = table[command]
        writer = Writer()
        write_fields(fields, sample(fields), writer, version)
        got = read_fields(fields, Reader(bytes(writer.data)), version)
        assert got == sample(fields, version), command


def text(value: str) -> bytes:
    return b"t" + value.encode() + b"\0"


def number(value: int) -> bytes:
    return b"L" + value.to_bytes(4, "big")


def sink_with_ports(version: int) -> bytes:
    """A sink as sink_fill_tagstruct of PulseAudio 16 writes it."""
    newer = (number(2), text("legacy") + number(3)) if version >= 34 else (number(2),) if version >= 24 else ()
    ports = b"".join(text(name) + text(name.title()) + number(9) + b"".join(newer) for name in ("speaker", "phones"))
    return (
        number(0) + text("card") + text("Card") + b"a" + bytes((3, 1)) + (48_000).to_bytes(4, "big") + b"m\1\0"
        + number(7) + b"v\1" + bytes(4) + b"0" + number(1) + text("card.monitor") + b"U" + bytes(8) + text("alsa")
        + number(0) + b"PN" + b"U" + bytes(8) + b"V" + bytes(4) + number(0) + number(1) + number(0)
        + number(2) + ports + text("phones") + b"B\1f" + b"B\1PN"
    )  # fmt: skip


def answered(command: Command, body: bytes, version: int) -> list[dict[str, Any]]:
    """The records that a client reads from this answer of a server."""
    client = PulseClientSession(version)
    tag = client.send_request(command)
    whole = number(Command.REPLY) + number(tag) + body
    client.receive(HEADER.pack(len(whole), NO_INDEX, 0, 0, 0) + whole)
    (reply,) = client.events()
    assert isinstance(reply, Reply)
    return reply.records


@pytest.mark.parametrize("version", [23, 24, 34, 35])
def test_sinks_with_ports_are_read(version: int) -> None:
    records = answered(Command.GET_SINK_INFO_LIST, sink_with_ports(version) * 2, version)
    assert [(one["name"], one["active_port"]) for one in records] == [("card", "phones")] * 2
    assert [(port["name"], port["priority"]) for port in records[0]["ports"]] == [("speaker", 9), ("phones", 9)]


# Without a layout, reading the records of a list would never come to its end.
def test_every_list_has_a_record_layout() -> None:
    assert all(REPLIES[Command[c.name.removesuffix("_LIST")]] for c in REQUESTS if c.name.endswith("_LIST"))


def test_impossibly_long_list_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="list too long: 4294967295 records"):
        answered(Command.GET_CARD_INFO_LIST, number(0) + text("a") + number(0) + text("b") + number(0xFFFFFFFF), 35)


def test_missing_and_trailing_fields_are_refused() -> None:
    writer = Writer()
    write_fields(REQUESTS[Command.CORK_PLAYBACK_STREAM], {"channel": 1, "cork": True}, writer, 35)
    whole = bytes(writer.data)
    for cut in range(len(whole)):
        with pytest.raises(RemoteProtocolError):
            read_fields(REQUESTS[Command.CORK_PLAYBACK_STREAM], Reader(whole[:cut]), 35)
    with pytest.raises(RemoteProtocolError, match="after the last field"):
        read_fields(REQUESTS[Command.CORK_PLAYBACK_STREAM], Reader(whole + b"L\0\0\0\0"), 35)


def conversation() -> bytes:
    client = PulseClientSession()
    client.send_request(Command.AUTH, {"version": 35 | 0xC0000000, "cookie": bytes(256)})
    client.send_request(Command.CREATE_PLAYBACK_STREAM, playback_fields(Spec(3, 2, 48000), (1, 2)))
    client.send_block(4, bytes(range(256)) * 300, seek=1, offset=-200)
    client.send_block(4, b"")
    client.send_request(Command.DRAIN_PLAYBACK_STREAM, {"channel": 4})
    return client.data_to_send()


def summarised(session: PulseSession, pieces: list[bytes]) -> list[Any]:
    """Events with the pieces of each block joined."""
    out: list[Any] = []
    for piece in pieces:
        session.receive(piece, 0)
        for event in session.events():
            if isinstance(event, Block):
                data = bytes(event.data)
                if out and isinstance(out[-1], list) and (event.seek, event.offset) == (0, 0) and data:
                    out[-1][-1] += data
                else:
                    out.append([event.channel, event.seek, event.offset, data])
            else:
                out.append(event)
    return out


def test_whole_and_byte_by_byte_input_give_same_events() -> None:
    data = conversation()
    whole = summarised(PulseSession(), [data])
    bytewise = summarised(PulseSession(), [data[i : i + 1] for i in range(len(data))])
    assert whole == bytewise
    assert [type(e).__name__ for e in whole] == ["Request", "Request", "list", "list", "Request"]
    block = whole[2]
    assert block[:3] == [4, 1, -200] and block[3] == bytes(range(256)) * 300
    assert whole[0].fields["version"] == 35


def test_lower_version_of_both_sides_is_used() -> None:
    session = PulseSession()
    client = PulseClientSession()
    client.send_request(Command.AUTH, {"version": 20, "cookie": b""})
    session.receive(client.data_to_send(), 0)
    assert session.state.version == 20


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (HEADER.pack(10, NO_INDEX, 0, 0, 0x80000000), "shared memory"),
        (HEADER.pack(2 * 1024 * 1024, NO_INDEX, 0, 0, 0), "command frame"),
        (HEADER.pack(0, NO_INDEX, 0, 0, 0), "command frame"),
        (HEADER.pack(4, NO_INDEX, 0, 0, 1), "with flags 0x1"),
        (HEADER.pack(17 * 1024 * 1024, 0, 0, 0, 0), "memory block too long"),
        (HEADER.pack(4, 0, 0, 0, 9), "seek mode"),
    ],
)
def test_impossible_frame_ends_connection_before_allocation(header: bytes, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        PulseSession().receive(header, 0)


def test_unknown_and_unsupported_commands_are_answered() -> None:
    session = PulseSession()
    for number in (999, Command.ADD_AUTOLOAD):
        body = b"L" + int(number).to_bytes(4, "big") + b"L\0\0\0\7"
        session.receive(HEADER.pack(len(body), NO_INDEX, 0, 0, 0) + body, 0)
    events = session.events()
    assert [(e.tag, e.code) for e in events if isinstance(e, Refused)] == [
        (7, Err.NOTSUPPORTED),
        (7, Err.NOTIMPLEMENTED),
    ]


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_any_bytes_give_events_or_remote_protocol_error(pieces: list[bytes]) -> None:
    session = PulseSession()
    try:
        for piece in pieces:
            session.receive(piece, 0)
            assert all(isinstance(e, Request | Refused | Block) for e in session.events())
    except RemoteProtocolError:
        return


@given(st.data())
def test_any_damaged_conversation_gives_events_or_remote_protocol_error(data: st.DataObject) -> None:
    raw = bytearray(conversation()[:700])
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    session = PulseSession()
    try:
        session.receive(bytes(raw), 0)
    except RemoteProtocolError:
        return
    assert all(isinstance(e, Request | Refused | Block) for e in session.events())


def test_zero_byte_in_name_does_not_truncate_string() -> None:
    writer = Writer()
    writer.string("a\0L\0\0\0\1")
    writer.u32(7)
    reader = Reader(bytes(writer.data))
    assert (reader.string(), reader.u32()) == ("aL\1", 7)
