"""What a viewer's session sends and when: by its line, its memory and what it asks for, in virtual time."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from millrace.budget import MIB, VIEWERS, Account, Budget
from millrace.graph.pictures import Shape
from millrace.guest.cursor import SentCursor
from millrace.guest.viewer import HIDDEN_NS
from millrace.guest.viewerpictures import SHORT_NS
from millrace.outlets.encoded import PIECE_BYTES, EncodedPicture, cut_pieces
from millrace.pixels.rects import Rect, Size
from millrace.sim.net import Path
from millrace.units import NS_PER_MS
from millrace.wire.peer.messages import Fault
from millrace.wire.peer.pictures import Hidden, Part, PartType, Refresh, Taken
from tests.painting import photo
from tests.watch import SPOT, Desk, Remote


def test_hidden_viewer_is_sent_nothing_and_then_only_what_it_lacks() -> None:
    desk = Desk()
    screen = desk.add()
    remote = Remote(desk)
    desk.run(30)
    remote.say(Hidden(True))
    screen.fill(SPOT, 1, desk.now_ns)
    screen.point(1, 1)
    desk.run(300)
    assert len(remote.pieces) == 1 and not remote.cursor.shown
    remote.say(Hidden(False))
    desk.run(30)
    assert np.array_equal(remote.canvas, screen.pixels) and not remote.pieces[-1].key and remote.cursor.x == 1
    remote.say(Hidden(True))
    desk.run(HIDDEN_NS // NS_PER_MS + 1_100)
    assert screen.interval_ns is None and not screen.screen.readers
    screen.fill(SPOT, 9, desk.now_ns)
    remote.say(Hidden(False))
    desk.run(60)
    assert np.array_equal(remote.canvas, screen.pixels) and remote.pieces[-1].key


def test_refresh_brings_a_key_picture() -> None:
    desk = Desk()
    desk.add()
    remote = Remote(desk)
    desk.run(30)
    remote.say(Refresh("decoder failed"))
    desk.run(50)
    assert [piece.key for piece in remote.pieces] == [True, True]


def test_viewer_that_asks_for_refreshes_all_the_time_gets_one_a_second() -> None:
    desk = Desk()
    screen = desk.add()
    greedy, other = Remote(desk), Remote(desk)
    desk.run(30)
    for colour in range(60):
        screen.fill(SPOT, colour, desk.now_ns)
        greedy.say(Refresh("again"))
        desk.run(50)
    assert 3 <= sum(piece.key for piece in greedy.pieces[1:]) <= 4
    before = len(greedy.pieces)
    desk.run(1_100)
    assert greedy.pieces[before:][-1].key, "the last one was asked for too early, and comes"
    assert np.array_equal(greedy.canvas, screen.pixels) and np.array_equal(other.canvas, screen.pixels)


def test_shapes_that_the_screen_has_dropped_are_not_kept_for_its_viewers() -> None:
    desk = Desk()
    screen, sent = desk.add(), SentCursor()
    wire = Remote(desk).session.wire
    shape = Shape(1, Size(16, 16), bytes(1024))
    screen.screen.define_shape(shape)
    screen.point(3, 3)
    sent.send(screen.screen, Size(64, 48), wire, desk.now_ns)
    assert sent._knows(shape)
    kept = weakref.ref(shape)
    shape = Shape(1, Size(16, 16), bytes(range(256)) * 4)
    screen.screen.define_shape(shape)
    assert kept() is None and not sent._knows(shape)


def test_pictures_that_wait_for_the_sound_hold_nothing_up() -> None:
    desk = Desk()
    screen = desk.add()
    remote = Remote(desk, acks=False)
    desk.run(30)
    for colour in range(20):
        screen.fill(SPOT, colour, desk.now_ns)
        desk.run(40)
        remote.say(Taken(remote.pieces[-1].serial, 3))
    assert np.array_equal(remote.canvas, screen.pixels) and len(remote.pieces) >= 20


def test_line_is_never_filled_and_the_newest_picture_wins() -> None:
    desk = Desk()
    screen = desk.add(width=320, height=200)
    remote = Remote(desk, path=Path(20 * NS_PER_MS, rate_bps=8_000_000))
    for colour in range(200):
        screen.fill(Rect(0, 0, 320, 200), colour, desk.now_ns)
        desk.run(30)
    # A picture takes 256 ms on this line: what arrives is never older than the one before it and itself.
    assert max(remote.ages[2:]) < 2 * 256 * NS_PER_MS + 100 * NS_PER_MS
    assert len(remote.ages) >= 6_000 / 256 * 0.8
    assert 6_000_000 < (remote.session.flow.rate or 0) < 10_000_000
    desk.run(800)
    assert np.array_equal(remote.canvas, screen.pixels)


def test_lone_viewers_encoder_changes_its_rate_and_begins_no_new_picture() -> None:
    desk = Desk()
    desk.add()
    remote = Remote(desk)
    desk.run(30)
    for rate in (4_500_000, 1_100_000, 90_000_000):
        remote.session.flow.line.rate = rate
        remote.session.regroup()
    desk.run(50)
    assert len(desk.groups) == 1 and len(remote.pieces) == 1 and desk.groups[0].sort.rate is None
    remote.session.flow.line.rate = 4_800_000
    remote.session.regroup()
    assert desk.groups[0].sort.rate == 4_000_000
    # Another viewer is not slowed down by it.
    other = Remote(desk)
    desk.run(50)
    assert len(desk.groups) == 2 and np.array_equal(other.canvas, remote.canvas)
    remote.leave()
    assert [len(group.sessions) for group in desk.groups] == [0, 1]


def filled(budget: Budget, room: int) -> Account:
    """What leaves viewers so many bytes."""
    return budget.open("other", {"all": int(budget.limit * VIEWERS) - budget.held - room}, 1.0)


@pytest.mark.parametrize("encodes", [True, False])
def test_viewer_whose_picture_has_no_room_is_told_once_and_sent_it_when_there_is(encodes: bool) -> None:
    desk = Desk(encodes=encodes)
    screen = desk.add(width=800, height=600)
    photo(screen.pixels, Rect(0, 0, 800, 600), 1)
    one, two = Remote(desk), Remote(desk)
    desk.run(2_000)
    budget = desk.home.admission.budget
    other = filled(budget, MIB // 16)
    two.pieces.clear()
    two.say(Refresh("damaged"))
    desk.run(3_100)
    (fault,) = two.news(Fault)
    assert fault.code == "limit" and not fault.fatal
    assert fault.message.startswith("the next picture comes when there is room: guest default holds ")
    assert not two.pieces and two.session.account.part("sending") == 0 and budget.refusals
    screen.fill(SPOT, 50, desk.now_ns)
    desk.run(50)
    assert np.array_equal(one.canvas, screen.pixels) and two.ended is None and one.ended is None
    tried = budget.refusals
    other.close()
    desk.run(1_100)
    assert np.array_equal(two.canvas, screen.pixels) and budget.refusals == tried
    # It was told once, and is told when that is over; the next time it is told again.
    assert not two.news(Fault)
    desk.run(SHORT_NS // NS_PER_MS + 1_100)
    assert two.news(Fault) == [Fault("room", "there is room for the pictures again")] and not one.news(Fault)
    desk.run(SHORT_NS // NS_PER_MS + 1_100)
    assert not two.news(Fault)
    other = filled(budget, MIB // 16)
    photo(screen.pixels, Rect(0, 0, 800, 600), 2)
    screen.screen.painted([Rect(0, 0, 800, 600)], desk.now_ns)
    desk.run(1_100)
    assert len(two.news(Fault)) == 1 and two.ended is None
    other.close()
    desk.run(2_100)
    assert np.array_equal(two.canvas, screen.pixels) and np.array_equal(one.canvas, screen.pixels)


def test_viewer_whose_pictures_have_room_now_and_then_is_told_once() -> None:
    desk = Desk()
    screen = desk.add(width=800, height=600)
    remote, budget = Remote(desk), desk.home.admission.budget
    desk.run(2_000)
    for seed in range(8):
        other = filled(budget, MIB // 16)
        sent, refused = len(remote.pieces), budget.refusals
        photo(screen.pixels, Rect(0, 0, 800, 600), seed)
        screen.screen.painted([Rect(0, 0, 800, 600)], desk.now_ns)
        desk.run(300)
        assert budget.refusals > refused
        other.close()
        desk.run(1_100)
        assert len(remote.pieces) > sent
    assert [fault.code for fault in remote.news(Fault)] == ["limit"]


def test_picture_that_was_begun_is_sent_to_its_end_although_there_is_no_room_any_more() -> None:
    desk = Desk()
    desk.add()
    remote = Remote(desk)
    desk.run(300)
    raw, pictures = Part(PartType.RAW, Rect(0, 0, 64, 48), bytes([7]) * 64 * 48 * 4), remote.session.pictures
    assert pictures.push(EncodedPicture(9, desk.now_ns, (raw,) * 40, False, 40 * len(raw.data)))
    steps = pictures.send(False)
    next(steps)
    refusals = desk.home.admission.budget.refusals
    filled(desk.home.admission.budget, 0)
    pictures.settle(None, desk.now_ns)
    assert desk.home.admission.budget.refusals > refusals and not list(steps)
    desk.run(100)
    assert remote.pieces[-1].last and remote.ended is None and (remote.canvas[:, :, :3] == 7).all()


def test_pointer_without_room_is_shown_when_there_is() -> None:
    desk = Desk()
    screen, remote = desk.add(), Remote(desk)
    screen.screen.define_shape(Shape(1, Size(2, 2), bytes(16)))
    desk.run(1_100)
    budget = desk.home.admission.budget
    other = filled(budget, 0)
    screen.point(9, 8)
    desk.run(500)
    tries = budget.refusals
    assert not remote.cursor.shown and 0 < tries < 4, "it is not tried all the time"
    other.close()
    desk.run(1_100)
    assert (remote.cursor.x, remote.cursor.y) == (9, 8) and remote.ended is None


def test_large_picture_is_cut_into_pieces() -> None:
    parts = [Part(PartType.RAW, Rect(0, n, 1, 1), bytes(100_000)) for n in range(7)]
    pieces = list(cut_pieces(parts))
    assert [part for piece in pieces for part in piece] == parts and len(pieces) == 4
    assert all(sum(len(part.data) for part in piece) <= PIECE_BYTES for piece in pieces)
    assert list(cut_pieces([])) == [[]]
