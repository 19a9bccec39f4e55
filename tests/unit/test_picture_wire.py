"""The picture protocol: the layout of pieces, what each end refuses, and the order of pictures."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import PeerLost, RemoteProtocolError
from millrace.media.fields import INT_MAX
from millrace.pixels.rects import Rect
from millrace.units import NS_PER_MS, NS_PER_S
from millrace.wire.peer.keepalive import HELLO_MAX_NS, Keepalive
from millrace.wire.peer.messages import Bye, Ping, Pong, encode_message
from millrace.wire.peer.pictures import (
    HEAD_BYTES,
    PART_HEAD_BYTES,
    PARTS_MAX,
    PIECE_MAX,
    Hidden,
    Key,
    ModeChanged,
    Part,
    PartType,
    Piece,
    Shown,
    Taken,
    Text,
    Watch,
    Watching,
    check_part,
    encode_picture_message,
    pack_parts,
    pack_piece,
    unpack_piece,
)
from millrace.wire.peer.viewing import COPIED_MAX, PIXELS_MAX, ViewClient, ViewServer

WHOLE = Rect(0, 0, 8, 6)
AT = Rect(2, 1, 3, 2)
RAW = Part(PartType.RAW, AT, bytes(range(24)))
U16, U32 = st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1)
PARTS = st.builds(
    lambda kind, at, data, dx, dy, flags: Part(kind, Rect(*at), data, dx, dy, flags),
    st.sampled_from(PartType), st.tuples(U16, U16, U16, U16), st.binary(max_size=50),
    st.integers(-(2**15), 2**15 - 1), st.integers(-(2**15), 2**15 - 1), st.integers(0, 255),
)  # fmt: skip
PIECES = st.builds(
    Piece, U32, U16, st.lists(PARTS, max_size=5).map(tuple), st.booleans(), st.booleans(),
    st.integers(0, INT_MAX),
)  # fmt: skip


# -- the layout ----------------------------------------------------------------------------------


@given(PIECES)
def test_piece_survives_a_round_trip(piece: Piece) -> None:
    data = pack_piece(piece)
    assert unpack_piece(data) == piece._replace(size=len(data))


@given(st.binary(max_size=120), st.booleans())
def test_any_bytes_are_a_piece_skipped_or_refused(data: bytes, ours: bool) -> None:
    if ours:
        data = b"\x10" + data[1:]
    try:
        piece = unpack_piece(data)
    except RemoteProtocolError:
        return
    assert (piece is None) == (data[0] != 16)


def test_layout_is_the_documented_one() -> None:
    move = Part(PartType.MOVE, Rect(1, 2, 3, 4), dx=-1, dy=5)
    data = pack_piece(Piece(7, 3, (move, RAW), last=True, key=True, painted_ns=11))
    assert struct.unpack_from("<BBHIQ", data) == (16, 3, 3, 7, 11)
    assert struct.unpack_from("<BBHHHHhhI", data, 16) == (4, 0, 1, 2, 3, 4, -1, 5, 0)
    assert struct.unpack_from("<BBHHHHhhI", data, 34) == (1, 0, 2, 1, 3, 2, 0, 0, 24) and data[52:] == RAW.data


def test_unknown_kinds_and_parts_are_skipped() -> None:
    assert unpack_piece(b"\x11" + bytes(40)) is None
    piece = unpack_piece(pack_piece(Piece(1, 1, (Part(99, AT, b"new"), RAW))))
    assert piece is not None and piece.parts == (RAW,)


def test_truncated_and_oversized_pieces_are_refused() -> None:
    data = pack_piece(Piece(1, 1, (RAW,)))
    for size in range(len(data)):
        if size != HEAD_BYTES:
            with pytest.raises(RemoteProtocolError):
                unpack_piece(data[:size])
    with pytest.raises(RemoteProtocolError, match="piece too long"):
        unpack_piece(data + bytes(PIECE_MAX))
    with pytest.raises(RemoteProtocolError, match="too many parts"):
        unpack_piece(data[:HEAD_BYTES] + pack_parts([Part(PartType.DRAW, AT)] * (PARTS_MAX + 1)))
    assert len(data) == HEAD_BYTES + PART_HEAD_BYTES + 24


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (Part(PartType.RAW, AT, bytes(23)), "23 bytes"),
        (Part(PartType.RAW, Rect(6, 0, 3, 2), bytes(24)), "in a picture of 8 × 6"),
        (Part(PartType.DRAW, Rect(0, 0, 0, 5)), "in a picture of 8 × 6"),
        (Part(PartType.DRAW, AT, b"x"), "with 1 bytes"),
        (Part(PartType.MOVE, AT, dx=3), "from outside"),
        (Part(PartType.ZSTD, AT), "without bytes"),
        (Part(PartType.SHAPE, Rect(0, 0, 600, 1), bytes(2400)), "512 at most"),
    ],
    ids=["raw short", "outside", "empty", "draw with bytes", "move", "no bytes", "cursor"],
)
def test_parts_that_do_not_fit_are_refused(part: Part, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        check_part(part, WHOLE)


# -- both ends -----------------------------------------------------------------------------------


def ends() -> tuple[ViewServer, ViewClient]:
    """A session after its greetings, with a picture of 8 × 6."""
    server, client = ViewServer(0), ViewClient(Watch(name="test"), 0)
    carry(client, server)
    (watch,) = server.events()
    assert isinstance(watch, Watch) and watch.name == "test"
    server.send_message(Watching(1, "g", "screen/1", "QEMU", {}, True))
    server.send_mode(8, 6)
    carry(server, client)
    assert [type(event) for event in client.events()] == [Watching, ModeChanged]
    return server, client


def carry(source: ViewServer | ViewClient, sink: ViewServer | ViewClient, now_ns: int = 0) -> None:
    for message in source.data_to_send():
        sink.receive(message, now_ns)


def test_pictures_are_counted_and_acknowledged() -> None:
    server, client = ends()
    assert server.send_piece(pack_parts((RAW,)), last=False, key=True, painted_ns=3) == 1
    assert server.send_piece(pack_parts((RAW,))) == 1
    assert server.send_piece(pack_parts((RAW,))) == 2
    carry(server, client)
    pieces = [event for event in client.events() if isinstance(event, Piece)]
    assert [(piece.serial, piece.last, piece.key) for piece in pieces] == [
        (1, False, True), (1, True, False), (2, True, False),
    ]  # fmt: skip
    client.send_shown(2, 10, 20)
    carry(client, server)
    assert server.shown == 2 and server.events() == [Shown(2)]


def test_times_of_shown_are_on_the_daemons_clock() -> None:
    server, client = ends()
    client.receive(encode_message(Pong(0, 1_000_000)), 0)
    server.send_piece(pack_parts((RAW,)))
    client.send_shown(1, 10, 20, skew_ns=-5, queue=3)
    carry(client, server)
    assert server.events() == [Shown(1, 1_000_010, 1_000_020, -5, 3)]


def test_picture_that_was_not_sent_can_not_be_acknowledged() -> None:
    server, _ = ends()
    server.send_piece(pack_parts((RAW,)), last=False)
    with pytest.raises(RemoteProtocolError, match="picture 1 is acknowledged, but was not sent"):
        server.receive(encode_picture_message(Shown(1)), 0)


def test_picture_that_waits_for_the_sound_is_acknowledged() -> None:
    server, client = ends()
    server.send_piece(pack_parts((RAW,)))
    client.send_message(Taken(1, 4))
    carry(client, server)
    assert server.shown == 1 and server.events() == [Taken(1, 4)]


def test_pointer_becomes_relative_without_a_new_picture() -> None:
    server, client = ends()
    server.send_piece(pack_parts((RAW,)), last=False)
    server.send_relative(True)
    server.send_relative(True)
    server.send_piece(pack_parts((RAW,)))
    carry(server, client)
    kinds = [(type(event), getattr(event, "relative", None)) for event in client.events()]
    assert kinds == [(Piece, None), (ModeChanged, True), (Piece, None)]
    with pytest.raises(RemoteProtocolError, match="another size"):
        client.receive(encode_picture_message(ModeChanged(9, 9, server.generation)), 0)


def test_new_mode_ends_an_unfinished_picture() -> None:
    server, client = ends()
    server.send_piece(pack_parts((RAW,)), last=False)
    server.send_mode(9, 9)
    server.send_piece(pack_parts((RAW,)))
    carry(server, client)
    assert [event.serial for event in client.events() if isinstance(event, Piece)] == [1, 2]


def test_cursor_shapes_are_no_pictures() -> None:
    server, client = ends()
    server.send_shape(Part(PartType.SHAPE, Rect(1, 1, 2, 2), bytes(16), 7))
    carry(server, client)
    (shape,) = client.events()
    assert isinstance(shape, Piece) and shape.serial == 0 and shape.parts[0].dx == 7
    with pytest.raises(RemoteProtocolError, match="outside a picture"):
        client.receive(pack_piece(Piece(0, 1, (RAW,))), 0)


@pytest.mark.parametrize(
    ("piece", "why"),
    [
        (Piece(2, 1, (RAW,)), "picture 2 where 1"),
        (Piece(1, 2, (RAW,)), "generation 2"),
        (Piece(1, 1, (Part(PartType.DRAW, Rect(0, 0, 9, 1)),)), "in a picture of 8 × 6"),
    ],
    ids=["serial", "generation", "place"],
)
def test_viewer_refuses_pieces_out_of_order_or_place(piece: Piece, why: str) -> None:
    _, client = ends()
    with pytest.raises(RemoteProtocolError, match=why):
        client.receive(pack_piece(piece), 0)


@pytest.mark.parametrize("kind", [PartType.MOVE, PartType.DRAW])
def test_viewer_refuses_pictures_that_copy_all_again_and_again(kind: PartType) -> None:
    _, client = ends()
    copies = (Part(kind, Rect(0, 0, 8, 6)),) * (COPIED_MAX // 2)
    for serial in (1, 2, 3):
        client.receive(pack_piece(Piece(serial, 1, copies, last=False)), 0)
        client.receive(pack_piece(Piece(serial, 1, copies)), 0)
    client.receive(pack_piece(Piece(4, 1, copies, last=False)), 0)
    with pytest.raises(RemoteProtocolError, match="64 times its own at most"):
        client.receive(pack_piece(Piece(4, 1, (*copies, copies[0]))), 0)


def test_viewer_refuses_pictures_before_a_mode_and_huge_ones() -> None:
    client = ViewClient(Watch(), 0)
    with pytest.raises(RemoteProtocolError, match="no mode announced"):
        client.receive(pack_piece(Piece(1, 0, ())), 0)
    with pytest.raises(RemoteProtocolError, match=f"{PIXELS_MAX} pixels at most"):
        client.receive(encode_picture_message(ModeChanged(16_384, 16_384, 1)), 0)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"\x10" + bytes(31), "text only"),
        (encode_picture_message(Watch()), "only once"),
        ('{"type":"key","code":256,"down":true}', "code"),
        ('{"type":"pointer","x":99999,"y":0}', "x"),
        ('{"type":"size","width":0,"height":5}', "width"),
        (encode_picture_message(Text("x" * 5_000)), "4096"),
        ('{"type":"watching"}', "watching"),
        ('{"type":"watch","later":' + "[" * 50_000, "nested"),
    ],
    ids=["binary", "watch", "key", "pointer", "size", "text", "from daemon", "nested"],
)
def test_daemon_refuses_bad_messages(message: str | bytes, why: str) -> None:
    server, _ = ends()
    with pytest.raises(RemoteProtocolError, match=why):
        server.receive(message, 0)


def test_watch_must_come_first_and_in_time() -> None:
    server = ViewServer(0)
    with pytest.raises(RemoteProtocolError, match="first"):
        server.receive(encode_picture_message(Hidden(True)), 0)
    with pytest.raises(PeerLost, match="no watch"):
        ViewServer(0).handle_timeout(HELLO_MAX_NS)
    with pytest.raises(PeerLost, match="no watching"):
        ViewClient(Watch(), 0).handle_timeout(HELLO_MAX_NS)


def test_pings_are_answered_and_the_others_clock_is_measured() -> None:
    server, client = ends()
    client.handle_timeout(0)
    carry(client, server, 3 * NS_PER_MS)
    carry(server, client, 4 * NS_PER_MS)
    assert client.keepalive.clock.rtt_ns == 4 * NS_PER_MS
    server.receive(encode_message(Ping(9)), NS_PER_S)
    assert server.data_to_send() == [encode_message(Pong(9, NS_PER_S))] and isinstance(server.keepalive, Keepalive)


def test_typing_and_leaving_are_events() -> None:
    server, client = ends()
    for message in (Key(0xC8, True), Bye("done")):
        client.send_message(message)
    carry(client, server)
    assert server.events() == [Key(0xC8, True), Bye("done")]
