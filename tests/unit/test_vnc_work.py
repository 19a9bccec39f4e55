"""A VNC server's updates are worked off in steps, whatever they ask for, and what waits meanwhile is charged."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from millrace.budget import Budget
from millrace.errors import RemoteProtocolError
from millrace.graph.pictures import MOVES_MAX, Move
from millrace.graph.screen import Reader
from millrace.io.client import ClientConnection
from millrace.pixels.rects import RECTS_MAX, Damage, Rect, few
from millrace.wire.vnc.inflate import INFLATED_BYTES, PIECE_BYTES, Inflater
from millrace.wire.vnc.messages import AudioData, CursorShape, Resized
from millrace.wire.vnc.work import WORK_MAX, Work
from tests.fuzz import vncserver
from tests.fuzz.vncserver import noise, update
from tests.gops import WATCHER
from tests.unit.test_vnc_pictures import client, passed, said
from tests.unit.test_vnc_screen import Hall
from tests.vncdear import DEAR, FILL, HEIGHT, SPOTS, WIDTH
from tests.watch import words

STEP_MOST = 11 * WORK_MAX // 5
"""The last part of a step may cost more than what was left."""


def large() -> Hall:
    """A guest whose VNC server has a large screen."""
    one = Hall()
    one.says(vncserver.rect(0, 0, WIDTH, HEIGHT, -223))
    assert one.door.screen is not None
    one.door.clipboard = one.door.screen.clipboard()
    return one


@pytest.mark.parametrize("kind", DEAR)
def test_dear_updates_take_many_steps_of_bounded_cost(kind: str) -> None:
    one, (least, say) = large(), DEAR[kind]
    data, steps = say(), 0
    while data or one.wire.unfinished:
        chunk, data = (b"", data) if one.wire.unfinished else (data[:65536], data[65536:])
        one.wire.receive(chunk, 0)
        one.door.receive(0)
        assert one.wire.work.spent < STEP_MOST
        steps += bool(one.wire.work.over)
    assert steps >= least


def test_inflating_is_bounded_by_what_goes_in_and_by_what_comes_out() -> None:
    """Many bytes may inflate to nothing, and few to a thousand times as many."""
    nothing = b"\x78\x01" + b"\0\0\0\xff\xff" * 100_000
    many = zlib.compress(bytes(10_000_000), 9)
    for packed, size in ((nothing, 10), (many, 10_000_000)):
        work = Work()
        stream = Inflater(work)
        stream.begin(len(packed))
        reading, need, steps, at = stream.read(size), 0, 0, 0
        with pytest.raises((StopIteration, RemoteProtocolError)):
            need = next(reading)
            while True:
                work.spent = 0
                assert need <= PIECE_BYTES
                need, at, steps = reading.send(packed[at : at + need]), at + need, steps + 1
        assert at > len(packed) - PIECE_BYTES and steps > size // (5 * INFLATED_BYTES) + len(packed) // (
            2 * PIECE_BYTES
        )


def test_stream_that_goes_on_after_its_end_is_refused() -> None:
    """What follows would be kept, charged to nobody."""
    packed = zlib.compress(bytes(400)) + bytes(3000)
    said_twice = vncserver.rect(0, 0, 10, 10, 6, struct.pack(">I", len(packed)) + packed)
    with pytest.raises(RemoteProtocolError, match="after its end"):
        said(client(), update(said_twice))


def test_of_several_sizes_in_a_row_only_the_last_is_told() -> None:
    vnc = client()
    sizes = b"".join(vncserver.rect(0, 0, 10 + n, 20, -223) for n in range(200))
    said(vnc, struct.pack(">BxH", 0, 0xFFFF) + sizes + vncserver.rect(0, 0, 0, 0, -224))
    assert [event.size.width for event in vnc.events() if isinstance(event, Resized)] == [209]


def test_sound_comes_in_pieces_and_whole() -> None:
    vnc, samples = client(), noise(300, 500).tobytes()
    said(vnc, b"\xff\1\0\2" + struct.pack(">I", len(samples)) + samples + b"\xff\1\0\2" + bytes(4) + b"\2")
    pieces = [event.payload for event in vnc.events() if isinstance(event, AudioData)]
    assert b"".join(pieces) == samples and max(map(len, pieces)) == 64 * 1024


def test_large_cursor_is_made_in_bands() -> None:
    pixels, mask = noise(300, 200), np.packbits(np.tile([1, 0, 0], 60_800)[: 304 * 200].reshape(200, 304), axis=1)
    vnc = said(client(), update(vncserver.cursor(pixels, mask.tobytes())))
    (shape,) = vnc.events()
    expected = pixels.copy()
    expected[:, :, 3] = 255
    expected[np.unpackbits(mask, axis=1)[:, :300] == 0] = 0
    assert isinstance(shape, CursorShape) and shape.pixels == expected.tobytes()


# -- painting ------------------------------------------------------------------------------------

PHOTO = noise(WIDTH, HEIGHT)


@pytest.mark.parametrize("dx", (-30, 0, 30))
@pytest.mark.parametrize("dy", (-200, -3, 0, 3, 200))
def test_copy_that_overlaps_its_origin_is_exact_either_way(dx: int, dy: int) -> None:
    one = large()
    one.says(vncserver.raw(0, 0, PHOTO))
    wide, high = WIDTH - 30, HEIGHT - 200
    from_x, from_y = max(0, -dx), max(0, -dy)
    steps = passed(one.door, update(vncserver.copied(from_x + dx, from_y + dy, wide, high, from_x, from_y)))
    expected = PHOTO.copy()
    moved = PHOTO[from_y : from_y + high, from_x : from_x + wide].copy()
    expected[from_y + dy : from_y + dy + high, from_x + dx : from_x + dx + wide] = moved
    assert steps > 1 and np.array_equal(one.shown, expected)


def reader_of(one: Hall) -> Reader:
    listed = one.screens.first
    assert listed is not None
    return listed.screen.read(WATCHER)


def test_many_rectangles_are_told_as_a_few_and_the_first_copies_as_moves() -> None:
    one = large()
    reader = reader_of(one)
    one.says(vncserver.raw(0, 0, PHOTO))
    first = reader.take(0)
    assert first is not None
    first.release()
    copies = [vncserver.copied(100 + n, 50, 1, 1, 5, 5) for n in range(MOVES_MAX + 4)]
    spots = [vncserver.rect(spot.x, spot.y, 1, 1, 7, FILL) for spot in SPOTS[:3000]]
    one.says(*copies, *spots)
    picture = reader.take(1)
    assert picture is not None
    assert picture.moves == tuple(Move(Rect(100 + n, 50, 1, 1), 95 + n, 45) for n in range(MOVES_MAX))
    painted = [Rect(100 + MOVES_MAX + n, 50, 1, 1) for n in range(4)] + SPOTS[:3000]
    expected = Damage()
    expected.add_all(few(painted))
    assert picture.damage == expected.rects and len(picture.damage) <= RECTS_MAX


MOVED = update(vncserver.copied(0, 0, WIDTH, HEIGHT - 200, 0, 200))


def halfway(one: Hall) -> None:
    """Begin to paint a large move."""
    one.wire.receive(MOVED, 0)
    one.door.receive(0)
    assert one.wire.painting and one.wire.unfinished


def test_nobody_is_shown_an_update_that_is_half_painted() -> None:
    one = large()
    reader = reader_of(one)
    one.says(vncserver.raw(0, 0, PHOTO))
    before = reader.take(0)
    assert before is not None
    before.release()
    one.says(vncserver.raw(0, 0, PHOTO[:9, :9]))
    halfway(one)
    assert reader.next_timeout() is None and reader.take(1) is None
    passed(one.door, b"")
    picture = reader.take(1)
    assert picture is not None and np.array_equal(picture.plane[: HEIGHT - 200], PHOTO[200:])
    assert not picture.moves and picture.damage, "it lacked what was painted before the move"


def test_reader_that_saw_the_beginning_of_a_move_is_sent_it_as_pixels() -> None:
    """It would move what was already moved once more."""
    for holds in (False, True):
        one = large()
        reader = reader_of(one)
        one.says(vncserver.raw(0, 0, PHOTO))
        held = reader.take(0)
        assert held is not None
        if not holds:
            held.release()
        halfway(one)
        held.release()
        passed(one.door, b"")
        picture = reader.take(1)
        assert picture is not None and bool(picture.moves) is not holds and bool(picture.damage) is holds
        picture.release()
        one.says(vncserver.copied(0, 0, 9, 9, 9, 9))
        later = reader.take(2)
        assert later is not None and later.moves, "from then on moves are true again"


# -- the account ---------------------------------------------------------------------------------


def test_what_waits_to_be_painted_stays_charged_until_it_is() -> None:
    one, budget = large(), Budget()
    account = budget.open("session")
    connection = ClientConnection(
        one.wire, one.door.receive, lambda why: None, partial=lambda size: account.hold("partial", size)
    )
    connection._runner.over = lambda: True
    data = memoryview(update(vncserver.raw(0, 0, PHOTO)))
    while data:
        data = data[connection.receive(data[:65536], 0) :]
    held = []
    while connection.unfinished:
        connection.receive(memoryview(b""), 0)
        held.append(account.held)
    assert len(held) > 3 and min(held[:-1]) > PHOTO.nbytes and account.held == budget.held == 0
    assert np.array_equal(one.shown, PHOTO)


def test_text_for_the_server_is_made_in_steps() -> None:
    vnc, steps = client(), 0
    vnc.send_clip_text(words("ä" * 500_000))
    while vnc.unfinished:
        vnc.receive(b"", 0)
        assert vnc.work.spent <= STEP_MOST
        steps += 1
    assert steps > 5 and len(vnc.data_to_send()) == 8 + 500_000
