"""Viewers that share encoders, each rule by itself: who gives one up, what becomes of its viewers, who is charged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from millrace.budget import ENCODERS, GUEST_BYTES_MAX, MACHINES, MIB, PROGRAMS, SHARES
from millrace.errors import BudgetError, CodecError, PeerLost
from millrace.graph.pictures import Cursor, Shape
from millrace.guest.sharing import RETRY_NS, Sharing, _displaced
from millrace.guest.viewergroup import Group
from millrace.outlets.encoded import EncodedPicture
from millrace.pixels.rects import Point, Size
from millrace.rights.model import Principal, parse_rights
from millrace.sim.net import Path
from millrace.units import NS_PER_MS
from millrace.wire.peer.messages import Fault
from millrace.wire.peer.pictures import ChangeView, Part, PartType, Watch
from tests.watch import SPOT, Desk, Remote


def person(number: int) -> Principal:
    """One of several people."""
    return Principal(f"token/{number}", parse_rights("see"), frozenset({"alice"}))


def watching(desk: Desk, fps: int, who: int = 1) -> Remote:
    """A person's viewer that wants so many pictures a second."""
    return Remote(desk, Watch(formats=["raw"], settings={"fps": str(fps)}), principal=person(who))


def sharing(desk: Desk) -> Sharing:
    return desk.viewers._sharing


def group_of(desk: Desk, remote: Remote) -> Group:
    (group,) = [group for group in desk.viewers.groups if remote.session in group.sessions]
    return group


def spare(desk: Desk, who: int, before: Group | None = None) -> int | None:
    """The pictures a second of the encoder that would be given up for this person."""
    group = sharing(desk)._spare(f"token/{who}", desk.viewers.groups, before)
    return None if group is None else group.sort.settings.fps


def guest(*wishes: tuple[int, int]) -> tuple[Desk, Any, list[Remote]]:
    """A screen with a viewer of each (pictures a second, person)."""
    desk = Desk()
    screen = desk.add()
    remotes = [watching(desk, fps, who) for fps, who in wishes]
    desk.run(100)
    return desk, screen, remotes


# -- who gives one up ----------------------------------------------------------------------------


def test_one_is_given_up_only_for_whoever_has_two_fewer() -> None:
    """With one fewer, the other would have to give it back."""
    desk, _, _ = guest((10, 1), (20, 1), (30, 2))
    assert spare(desk, 2) is None and spare(desk, 9) is not None
    watching(desk, 40)
    desk.run(30)
    assert spare(desk, 2) is not None


def test_one_that_somebody_else_shares_too_is_given_up_last() -> None:
    wishes = ((10, 1), (11, 1), (40, 1))
    desk, _, _ = guest(*wishes)
    assert spare(desk, 9) == 10, "11 pictures a second are nearest to it"
    desk, _, _ = guest(*wishes, (10, 7))
    assert spare(desk, 9) == 11


def test_one_is_not_given_up_for_its_own_viewer() -> None:
    desk, _, remotes = guest((10, 1), (11, 1), (40, 1), (10, 9), (11, 9), (40, 9))
    assert spare(desk, 9) == 10 and spare(desk, 9, group_of(desk, remotes[3])) == 11


# -- when there is no memory for more --------------------------------------------------------------


def test_viewers_share_encoders_before_their_memory_is_what_the_machine_and_its_programs_need() -> None:
    desk = Desk(encodes=True)
    budget = desk.home.admission.budget
    budget.limit = 16 * MIB
    machine = budget.open("connection", {"itself": MIB}, MACHINES)
    screen = desk.add()
    one = [watching(desk, fps) for fps in range(10, 16)]
    desk.run(300)
    assert len(desk.viewers.groups) == 2, "one person fills no more than half of the encoders' memory"
    others = [watching(desk, fps, who) for who in (2, 3, 4) for fps in (20, 30)]
    desk.run(2_000)
    assert {group.owner for group in desk.viewers.groups} == {"token/1", "token/2", "token/3"}
    screen.fill(SPOT, 7, desk.now_ns)
    desk.run(300)
    assert all(np.array_equal(remote.canvas, screen.pixels) and not remote.news(Fault) for remote in one + others)
    assert budget.refusals == 0 and not budget.is_free(3 * MIB, ENCODERS) and budget.is_free(3 * MIB, PROGRAMS)
    budget.open("film").may_spare(lambda: pytest.fail("who sees pictures already demands no memory for others"))
    desk.run(2_000)
    machine.hold("itself", 4 * MIB, MACHINES)


def test_viewer_without_room_for_its_encoder_is_told_stays_and_sees_the_screen_when_there_is_room() -> None:
    desk = Desk(encodes=True)
    budget = desk.home.admission.budget
    budget.limit = 3 * MIB
    screen = desk.add()
    remote = watching(desk, 10)
    desk.run(3_000)
    (told,) = remote.news(Fault)
    assert not told.fatal and told.code == "limit" and "no room for this picture encoder" in told.message
    budget.limit = 64 * MIB
    desk.run(3_000)
    assert np.array_equal(remote.canvas, screen.pixels)


def test_viewer_is_told_of_the_same_trouble_once_whatever_its_figures_and_again_when_it_comes_back() -> None:
    desk = Desk(encodes=True)
    budget = desk.home.admission.budget
    budget.limit = 3 * MIB
    screen = desk.add()
    remote, said = watching(desk, 10), list[str]()
    for limit in (3, 2, 3, 2):
        budget.limit = limit * MIB
        desk.run(2_000)
        said += [fault.message for fault in remote.news(Fault)]
    assert len(said) == 1 and "of the 2 MiB" in said[0]
    budget.limit = 64 * MIB
    desk.run(3_000)
    assert np.array_equal(remote.canvas, screen.pixels) and not remote.news(Fault)
    budget.limit = 2 * MIB
    sharing(desk)._failed(group_of(desk, remote), BudgetError("there is no room any more"))
    desk.run(3_000)
    assert [fault.message for fault in remote.news(Fault)] == ["there is no room any more"]


def test_larger_encoder_of_a_lone_viewer_may_take_the_room_of_the_one_before() -> None:
    desk = Desk(encodes=True)
    desk.home.admission.budget.limit = round(2.5 * MIB / SHARES[ENCODERS])
    desk.add()
    remote = watching(desk, 10)
    desk.run(300)
    remote.say(ChangeView(settings={"picture": "lossless"}))
    desk.run(3_000)
    (group,) = desk.viewers.groups
    assert group.sort.settings.picture == "lossless"


# -- the end of an encoder -----------------------------------------------------------------------


def test_viewers_whose_encoder_is_given_up_share_another_at_once_whatever_they_may_have() -> None:
    desk, screen, (one, other, _) = guest((10, 1), (10, 1), (40, 2))
    for remote in (one, other):
        remote.session.limits.moves._take = lambda now_ns: False
        assert not remote.session.limits.moves.allowed(desk.now_ns + 10**10)
    sharing(desk)._end(group_of(desk, one), _displaced)
    desk.turns.run()
    assert group_of(desk, one) is group_of(desk, other)
    screen.fill(SPOT, 7, desk.now_ns)
    desk.run(200)
    assert np.array_equal(one.canvas, screen.pixels)


def test_viewers_whose_encoder_has_failed_have_another_later_whatever_they_may_have() -> None:
    desk, _, (remote,) = guest((10, 1))
    remote.session.limits.moves._take = lambda now_ns: False
    sharing(desk)._failed(group_of(desk, remote), CodecError("no more"))
    desk.run(RETRY_NS // NS_PER_MS - 10)
    assert remote.news(Fault) and not desk.viewers.groups
    desk.run(1_100)
    assert group_of(desk, remote)


def test_picture_that_was_not_sent_when_its_encoder_ended_is_held_no_longer() -> None:
    desk, _, (remote, *_) = guest((10, 1), (40, 2))
    data = bytes(SPOT.area * 4)
    picture = EncodedPicture(1, 0, (Part(PartType.RAW, SPOT, data),), True, len(data))
    desk.run(500)
    before = remote.session.account.part("sending")
    for then in (lambda session: None, None):
        remote.session.push(picture)
        assert remote.session.account.part("sending") == before + len(data)
        if then is not None:
            sharing(desk)._end(group_of(desk, remote), then)
            desk.turns.run()
        else:
            sharing(desk).exit(remote.session)
        assert remote.session.account.part("sending") == before and not remote.session.pictures.due
        remote.session.limits.moves.renew()
        remote.session.regroup()
        desk.run(500)


def test_viewer_that_has_left_or_failed_meanwhile_is_given_no_encoder() -> None:
    desk, _, (left, failed, stays, _) = guest((10, 1), (10, 1), (10, 1), (40, 2))
    sharing(desk)._end(group_of(desk, left), _displaced)
    left.leave()
    failed.session.sending.fail(PeerLost("gone"))
    told = len(desk.changes)
    desk.turns.run()
    assert {key for _, key in desk.changes[told:]} == {stays.session.key} and group_of(desk, stays)
    assert not any(one.session in group.sessions for one in (left, failed) for group in desk.viewers.groups)


def test_viewer_that_shares_another_meanwhile_is_told_the_size_of_that() -> None:
    desk, screen, (remote,) = guest((10, 1))
    Remote(desk, Watch(formats=["raw"], settings={"scale": "0.5"}), principal=person(2))
    screen.fill(SPOT, 7, desk.now_ns)
    desk.run(500)
    remote.session.limits.moves.renew()
    sharing(desk)._end(group_of(desk, remote), _displaced)
    remote.say(ChangeView({"scale": "0.5", "fps": "30"}))
    assert remote.session in group_of(desk, remote).sessions
    desk.run(50)
    assert remote.canvas.shape[:2] == (24, 32)


# -- the pointer ---------------------------------------------------------------------------------


def pointed(desk: Desk, screen: Any, number: int) -> None:
    """The machine shows a pointer of a megabyte."""
    screen.screen.define_shape(Shape(number, Size(512, 512), bytes(MIB)))
    screen.screen.set_cursor(Cursor(number, Point(1, 1), Point(9, 9), True))


def test_shape_of_a_pointer_is_charged_until_it_has_arrived() -> None:
    desk = Desk()
    screen = desk.add()
    remote = Remote(desk, path=Path(delay_ns=NS_PER_MS, rate_bps=16_000_000))
    desk.run(900)
    account = remote.session.account
    assert account.part("sending") == 0
    pointed(desk, screen, 1)
    desk.run(50)
    assert 0.7 * MIB < account.part("sending") <= 1.1 * MIB
    desk.run(2_000)
    assert account.part("sending") == 0 and remote.session.sending.error is None


def test_shape_of_a_pointer_that_a_guest_has_no_memory_for_is_not_sent() -> None:
    desk = Desk()
    screen = desk.add()
    remote = Remote(desk)
    desk.run(900)
    pointed(desk, screen, 1)
    budget = desk.home.admission.budget
    budget.limit, sent = budget.held + MIB // 2, remote.bytes
    desk.run(50)
    assert remote.session.sending.error is None and remote.bytes - sent < 1_000
    budget.limit = GUEST_BYTES_MAX
    desk.run(1_100)
    assert remote.cursor.shape == 1 and remote.cursor.shown
