"""What happens to one machine is told its viewers in rounds: newest states only, in the guest's turns, and bounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from millrace.budget import MIB
from millrace.errors import BudgetError, CodecError, GraphError, PeerLost
from millrace.graph.seat import Watcher
from millrace.guest.viewergroup import Group
from millrace.guest.viewerpictures import ViewerPictures
from millrace.guest.viewers import VIEWERS_MAX
from millrace.guest.viewersending import INTERNAL, UNSENT_BYTES_MAX, UNSENT_MAX
from millrace.outlets.encoded import PIECE_BYTES
from millrace.outlets.pictureflow import HOLDS_MAX
from millrace.pixels.rects import Rect, Size
from millrace.rights.model import OWNER
from millrace.sim.net import Path
from millrace.units import NS_PER_MS, NS_PER_S
from millrace.wire.peer.clips import ClipboardState
from millrace.wire.peer.messages import Fault
from millrace.wire.peer.pictures import (
    ChangeView,
    CursorChanged,
    KeyboardHeld,
    ModeChanged,
    Refresh,
    Screens,
    Shown,
    TakeKeyboard,
    Taken,
)
from tests.plainpictures import PlainPictures
from tests.watch import SPOT, Desk, Remote


def watched(viewers: int, **options: Any) -> tuple[Desk, Any, list[Remote]]:
    """A screen with so many viewers, who have seen it."""
    desk = Desk(**options)
    screen = desk.add()
    screen.fill(SPOT, 200, desk.now_ns)
    remotes = [Remote(desk) for _ in range(viewers)]
    desk.run(60)
    for remote in remotes:
        assert np.array_equal(remote.canvas, screen.pixels)
        remote.told.clear()
    return desk, screen, remotes


# -- floods --------------------------------------------------------------------------------------


def looks_during(monkeypatch: pytest.MonkeyPatch, desk: Desk, flood: Any) -> int:
    """How many viewers are looked at while a flood is read in one go, and told."""
    looked = [0]
    for kind, name in ((Group, "next_timeout"), (type(desk.viewers), "tell")):
        before = getattr(kind, name)

        def counted(self: Any, *args: Any, before: Any = before) -> Any:
            looked[0] += len(self.sessions) if isinstance(self, Group) else 1
            return before(self, *args)

        monkeypatch.setattr(kind, name, counted)
    flood()
    assert looked[0] == 0, "nothing is done for a viewer before the round"
    desk.turns.run()
    return looked[0]


def test_flood_of_pointer_positions_is_looked_at_once_for_each_viewer(monkeypatch: pytest.MonkeyPatch) -> None:
    desk, screen, remotes = watched(20)

    def flood() -> None:
        for x in range(3_000):
            screen.point(x % 50, 7, 1 + x % 3)

    assert looks_during(monkeypatch, desk, flood) <= 3 * len(remotes)
    desk.run(60)
    for remote in remotes:
        assert len(remote.news(CursorChanged)) <= 2 and (remote.cursor.x, remote.cursor.shape) == (2_999 % 50, 3)
        assert len(remote.shapes) <= 2


def test_flood_of_modes_is_told_once_to_each_viewer(monkeypatch: pytest.MonkeyPatch) -> None:
    desk, screen, remotes = watched(20)

    def flood() -> None:
        for width in range(1, 501):
            screen.show(width, 9, desk.now_ns)

    assert looks_during(monkeypatch, desk, flood) <= 8 * len(remotes)
    desk.run(100)
    for remote in remotes:
        assert len(remote.news(ModeChanged)) == 1 and remote.canvas.shape == (9, 500, 4)
        (screens,) = remote.news(Screens)
        assert screens.screens[0].width == 500


def test_flood_of_paint_is_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    desk, screen, remotes = watched(20)

    def flood() -> None:
        for colour in range(1_000):
            screen.fill(SPOT, colour % 256, desk.now_ns)

    assert looks_during(monkeypatch, desk, flood) <= 3 * len(remotes)
    desk.run(60)
    assert all(np.array_equal(remote.canvas, screen.pixels) for remote in remotes)


def test_flood_of_screens_that_come_and_go_leaves_viewers_with_the_newest() -> None:
    desk, screen, remotes = watched(5)
    desk.remove(screen)
    for _ in range(200):
        desk.remove(desk.add())
    last = desk.add()
    last.fill(SPOT, 77, desk.now_ns)
    desk.run(1_100)
    for remote in remotes:
        assert remote.session.listed is not None and remote.session.listed.screen is last.screen
        assert np.array_equal(remote.canvas, last.pixels) and len(remote.gone) == 1
        assert len(remote.news(Screens)) <= 2


def test_keyboard_that_changes_hands_all_the_time_is_told_in_its_newest_state() -> None:
    desk, _, (one, two, three) = watched(3)
    for _ in range(300):
        one.say(TakeKeyboard(True))
        two.say(TakeKeyboard(True))
    desk.run(30)
    assert [held.who for held in three.news(KeyboardHeld)] == [two.session.name]
    assert two.keyboard == (True, two.session.name) and one.keyboard == (False, two.session.name)


def test_texts_copied_in_a_machine_are_announced_in_their_newest_state() -> None:
    desk, _, (remote,) = watched(1)
    board = desk.home.screens.open_clipboard(Board(), "door/7")
    desk.run(30)
    for _ in range(500):
        board.copied()
    desk.run(30)
    told = remote.news(ClipboardState)
    assert len(told) <= 2 and told[-1].number == 500


class Board:
    """A machine's clipboard that nobody uses."""

    def clip_offered(self) -> None: ...

    def clip_withdrawn(self) -> None: ...

    def clip_wanted(self) -> None: ...


def test_large_picture_is_sent_in_steps_and_the_next_one_waits_for_it() -> None:
    desk, screen, (remote,) = watched(1)
    screen.show(800, 600, desk.now_ns)
    desk.run(100)
    pictures, sent, before = remote.session.pictures, remote.session.pictures.sent, remote.bytes
    screen.fill(Rect(0, 0, 800, 600), 200, desk.now_ns)
    desk.groups[0].pictures.handle_timeout(desk.now_ns + NS_PER_S)
    steps = pictures.send(False)
    next(steps)
    assert PIECE_BYTES // 2 < remote.bytes - before < 2 * PIECE_BYTES
    assert not pictures.ready(None) and pictures.sent == sent
    pictures.drop()
    remote.session.resized(Size(800, 600))
    assert next(steps, "ended") == "ended", "the rest of it is void"
    remote.say(Refresh("it lacks that"))
    desk.run(100)
    assert np.array_equal(remote.canvas, screen.pixels) and remote.ended is None


def test_error_in_a_round_ends_the_encoder_and_not_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    desk, screen, (remote,) = watched(1)
    monkeypatch.setattr(PlainPictures, "handle_timeout", lambda self, now_ns: 1 // 0)
    screen.point(5, 5)
    desk.turns.run()
    assert not desk.groups[0].sessions and not screen.screen.readers
    monkeypatch.undo()
    screen.fill(SPOT, 3, desk.now_ns)
    desk.run(6_500)
    assert np.array_equal(remote.canvas, screen.pixels) and remote.news(Fault)


def fails(*_: object) -> Any:
    raise ZeroDivisionError


def ended_alone(bad: Remote, others: list[Remote]) -> bool:
    """Whether an internal error has ended that viewer, and no other."""
    return str(bad.ended) == INTERNAL and all(one.ended is None for one in others)


@pytest.mark.parametrize("where", [ViewerPictures.send.__name__, ViewerPictures.send_cursor.__name__])
def test_error_in_what_one_viewer_is_sent_ends_it_and_not_what_the_others_see(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    desk, screen, (first, bad, last) = watched(3)
    monkeypatch.setattr(bad.session.pictures, where, fails)
    screen.point(5, 5)
    screen.fill(SPOT, 3, desk.now_ns)
    desk.run(1_100)
    assert ended_alone(bad, [first, last]) and bad.session not in desk.viewers.sessions
    for remote in (first, last):
        assert np.array_equal(remote.canvas, screen.pixels) and remote.cursor.x == 5 and not remote.news(Fault)
    assert len(desk.groups) == 1 and desk.groups[0].sessions == [first.session, last.session]


@pytest.mark.parametrize("where", ["tell_screens", "tell_gone"])
def test_error_in_telling_one_viewer_ends_it_and_not_what_the_others_are_told(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    desk, screen, (first, bad, last) = watched(3)
    monkeypatch.setattr(bad.session, where, fails)
    for told in (1, 2):
        desk.remove(screen)
        screen = desk.add()
        desk.run(1_100)
        for remote in (first, last):
            assert len(remote.gone) == told and remote.session.listed.screen is screen.screen
    assert ended_alone(bad, [first, last]) and bad.session not in desk.viewers.sessions


def test_viewer_that_can_not_be_told_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    desk, _, (bad,) = watched(1)
    tried = list[object]()
    monkeypatch.setattr(bad.session, "tell_screens", lambda *what: tried.append(what) or fails())
    for _ in range(3):
        desk.viewers.tell_later()
        desk.turns.run()
    assert len(tried) == 1


def test_error_in_looking_for_what_is_to_be_told_is_made_up_for_in_the_next_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk, screen, (remote,) = watched(1)
    desk.remove(screen)
    monkeypatch.setattr(desk.viewers, "_look", fails)
    after = desk.add()
    desk.turns.run()
    assert not remote.gone and not desk.turns.waiting
    monkeypatch.undo()
    desk.add("other", "door/9")
    desk.run(30)
    assert remote.gone and remote.session.listed.screen is after.screen


def test_viewers_of_an_encoder_that_has_ended_are_told_although_one_can_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    desk, screen, (bad, last) = watched(2)
    monkeypatch.setattr(bad.session, "tell_trouble", fails)
    desk.viewers._sharing._failed(desk.groups[0], CodecError("no more"))
    desk.run(1_100)
    assert [fault.message for fault in last.news(Fault)] == ["no more"] and ended_alone(bad, [last])
    screen.fill(SPOT, 3, desk.now_ns)
    desk.run(6_500)
    assert np.array_equal(last.canvas, screen.pixels)


# -- queues --------------------------------------------------------------------------------------


def test_viewer_that_reads_nothing_is_told_the_newest_when_it_reads_again() -> None:
    desk, screen, (remote, other) = watched(2)
    remote.reads, remote.unread = False, 10**6
    for width in range(1, 201):
        screen.show(width, 5, desk.now_ns)
        screen.point(width % 40, 3)
        other.say(TakeKeyboard(width % 2 == 0))
        remote.session.wire.keepalive.heard(desk.now_ns)
        desk.run(20)
    assert remote.ended is None and len(remote.session.sending._unsent) < 4
    assert remote.session.account.part("unsent") < 1_000
    screen.fill(SPOT, 8, desk.now_ns)
    remote.reads, remote.unread = True, 0
    desk.run(1_200)
    assert np.array_equal(remote.canvas, screen.pixels) and remote.keyboard == (False, other.session.name)
    (screens,) = remote.news(Screens)
    assert screens.screens[0].width == 200 and remote.cursor.x == 0


def test_what_waits_for_room_is_sent_as_soon_as_there_is_some() -> None:
    desk, screen, (remote,) = watched(1)
    desk.run(1_000 - (desk.now_ns // NS_PER_MS) % 1_000 + 50)
    remote.told.clear()
    remote.reads, remote.unread = False, 10**6
    screen.fill(SPOT, 77, desk.now_ns)
    remote.say(ChangeView({"fps": "0"}))
    desk.home.screens.seat.take(Watcher("native/9", OWNER))
    desk.viewers.tell_later()
    desk.run(300)
    remote.reads = True
    desk.run(100)
    assert not remote.told and not np.array_equal(remote.canvas, screen.pixels), "it has no way to know"
    remote.session.relieved()
    desk.run(100)
    assert remote.news(Fault) and remote.keyboard == (False, "native/9")
    assert np.array_equal(remote.canvas, screen.pixels)
    remote.session.closed()
    remote.session.relieved()
    desk.run(10)
    assert not remote.news(KeyboardHeld)[1:]


def test_answers_that_a_viewer_does_not_read_are_bounded_in_number_bytes_and_memory() -> None:
    desk, _, (many, large, poor) = watched(3)
    for remote in (many, large, poor):
        remote.reads, remote.unread = False, 10**6
    for _ in range(UNSENT_MAX + 2):
        many.say(ChangeView({"picture": "fine"}))
    large.session.sending._wire._out += ["x" * UNSENT_BYTES_MAX, "y"]
    large.session.flush()
    budget = desk.home.admission.budget
    budget.limit = budget.held + 1_000
    poor.session.sending._wire._out += ["x" * 2_000]
    poor.session.flush()
    for remote in (many, large, poor):
        assert not remote.session.sending._unsent and remote.session.sending.closed
    desk.run(1_100)
    assert isinstance(many.ended, PeerLost) and isinstance(large.ended, PeerLost)
    assert isinstance(poor.ended, BudgetError) and not poor.session.account.held


# -- limits --------------------------------------------------------------------------------------


def test_connections_that_have_not_said_what_they_want_are_viewers_too() -> None:
    desk = Desk()
    desk.add()
    remotes = [Remote(desk) for _ in range(VIEWERS_MAX)]
    held = desk.home.admission.budget.held
    with pytest.raises(GraphError, match="the maximum"):
        Remote(desk)
    assert not desk.viewers.sessions and desk.home.admission.budget.held == held
    remotes[0].leave()
    remotes.append(Remote(desk))
    desk.run(100)
    assert len(desk.viewers.sessions) == VIEWERS_MAX


# -- acknowledgements ----------------------------------------------------------------------------


def test_viewer_that_acknowledges_what_it_has_not_read_is_sent_no_more_than_one_that_does_not() -> None:
    desk = Desk()
    screen = desk.add(width=640, height=400)
    liar = Remote(desk, path=Path(NS_PER_MS, rate_bps=400_000), acks=False)
    silent = Remote(desk, path=Path(NS_PER_MS, rate_bps=400_000), acks=False)
    for colour in range(100):
        screen.fill(Rect(0, 0, 640, 400), colour, desk.now_ns)
        desk.run(30)
        serial = liar.session.wire.sent
        if serial:
            liar.say(Shown(serial, desk.now_ns, desk.now_ns))
            liar.say(Taken(serial))
    assert liar.session.pictures.sent == silent.session.pictures.sent == 1 and liar.bytes <= silent.bytes + 1_000
    assert liar.session.pictures.early >= 100 and liar.session.flow.rate is None and not liar.session.times.shown
    waiting = liar._passed().written - liar._passed().arrived
    assert liar.session.account.part("sending") >= waiting > MIB // 2
    # Once the bytes have arrived, the acknowledgement counts.
    desk.run(25_000)
    assert liar.session.flow.pictures <= 1 and liar.session.pictures.sent >= 2


def test_bytes_that_have_not_arrived_are_charged_whatever_was_acknowledged() -> None:
    desk, screen, (remote,) = watched(1)
    sending, pictures = remote.session.sending, remote.session.pictures
    assert not remote.session.account.part("sending")
    remote._ways.append((desk.now_ns + NS_PER_S, 3 * MIB))
    remote.bytes += 3 * MIB
    sending.bytes += 3 * MIB
    assert not pictures.ready(NS_PER_MS)
    pictures.settle(None, desk.now_ns)
    assert remote.session.account.part("sending") == 3 * MIB and sending.error is None
    remote._ways.clear()
    pictures.settle(None, desk.now_ns)
    assert not remote.session.account.part("sending") and pictures.ready(NS_PER_MS)
    budget = desk.home.admission.budget
    budget.limit = budget.held + MIB
    remote._ways.append((desk.now_ns + 9 * NS_PER_S, 3 * MIB))
    remote.bytes += 3 * MIB
    desk.run(2_100)
    # More than there is room for is on its way: nothing is added to that until it has arrived.
    screen.fill(SPOT, 50, desk.now_ns)
    desk.run(1_100)
    assert remote.ended is None and len(remote.news(Fault)) == 1 and not np.array_equal(remote.canvas, screen.pixels)
    desk.run(8_000)
    assert np.array_equal(remote.canvas, screen.pixels) and not remote.session.account.part("sending")


def test_repeated_acknowledgement_is_counted_once() -> None:
    desk, screen, (remote,) = watched(1)
    before = remote.session.times.shown
    screen.fill(SPOT, 9, desk.now_ns)
    desk.run(60)
    serial = remote.pieces[-1].serial
    for _ in range(50):
        remote.say(Shown(serial, desk.now_ns, desk.now_ns, 999))
    assert remote.session.times.shown == before + 1 and remote.session.times.skew_ns is None


@pytest.mark.parametrize("off_ns", [-3_600 * NS_PER_S, 3_600 * NS_PER_S, -(2**62)])
def test_times_that_can_not_be_change_neither_the_rate_nor_the_ledger(off_ns: int) -> None:
    rates = []
    for wrong_ns in (0, off_ns):
        desk = Desk()
        screen = desk.add(width=640, height=400)
        remote = Remote(desk, path=Path(5 * NS_PER_MS, rate_bps=20_000_000), acks=False)
        known = 0
        for colour in range(120):
            screen.fill(Rect(0, 0, 320, 100), colour, desk.now_ns)
            desk.run(30)
            for piece in remote.pieces[known:]:
                told_ns = desk.now_ns + wrong_ns
                remote.say(Shown(piece.serial, told_ns, told_ns, None, 0, told_ns, told_ns))
            known = len(remote.pieces)
        rates.append(remote.session.flow.rate or 0)
        assert wrong_ns == 0 or remote.session.times.latency_ns is None
    assert 0 < rates[1] <= 2 * rates[0]


def test_viewer_that_claims_a_fast_line_is_sent_no_more_than_a_few_megabytes_that_it_does_not_acknowledge() -> None:
    claimed = 1_000_000_000
    desk = Desk()
    screen = desk.add(width=800, height=600)
    # All arrives at once, at a viewer that is far away: the line would hold 60 MB.
    remote = Remote(desk, path=Path(250 * NS_PER_MS), acks=False, draws=False)
    desk.run(2_000)
    flow = remote.session.flow
    flow.line.rate = flow.viewer.rate = claimed
    sent, most = remote.session.pictures.sent, 0
    for colour in range(100):
        remote.session.wire.keepalive.heard(desk.now_ns)
        screen.fill(Rect(0, 0, 800, 600), colour, desk.now_ns)
        desk.run(40)
        most = max(most, flow.bytes_on_way)
    picture = 800 * 600 * 4 + 10_000
    assert remote.session.rtt_ns is not None and claimed * remote.session.rtt_ns // (8 * NS_PER_S) > 10 * HOLDS_MAX
    assert HOLDS_MAX < most <= HOLDS_MAX + picture and remote.session.pictures.sent - sent <= HOLDS_MAX // picture + 1
