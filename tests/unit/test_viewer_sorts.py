"""Viewers of more sorts than a guest has encoders: each shares the nearest, is told so, and nobody takes them all."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from millrace.codec.picturesettings import PictureSettings
from millrace.errors import GraphError
from millrace.guest.ratelimits import PACE_NS, WHOLE_NS
from millrace.guest.sharing import EACH_MAX, ENCODERS_MAX
from millrace.guest.viewersort import Sort
from millrace.outlets.picturechoice import Formats
from millrace.rights.model import Principal, parse_rights
from millrace.units import NS_PER_MS, NS_PER_S
from millrace.wire.peer.messages import Configured, Fault
from millrace.wire.peer.pictures import ChangeView, Hidden, Watch
from tests.watch import SPOT, Desk, Remote

RAW = Formats(None, False, False, False)


def sort(picture: str | int = "auto", fps: int = 30, scale: float = 1.0, rate: int | None = None) -> Sort:
    """A sort of viewers of one screen; `rate` is of those with auto."""
    return Sort("screen/1", PictureSettings(picture, fps, scale), picture if isinstance(picture, int) else rate, RAW)


# What is wanted, and what there is, the nearest first.
@pytest.mark.parametrize(("wanted", "there"), [
    (sort(fps=60), [sort(fps=60, rate=250_000), sort(fps=59), sort(fps=30), sort(fps=1)]),
    (sort(fps=20), [sort(fps=20, rate=9_000_000), sort(fps=60, rate=4_000_000), sort(fps=19)]),
    (sort(fps=20), [sort(fps=21), sort(fps=60), sort(fps=20, rate=9_000_000), sort(fps=1)]),
    (sort(), [sort(fps=1), sort(scale=0.9), sort(scale=0.5), sort(scale=0.1, fps=60)]),
    (sort(scale=0.5), [sort(scale=0.5, fps=1), sort(scale=0.6), sort(), sort(scale=0.4)]),
    (sort(), [sort("lossless"), sort(rate=32_000_000), sort(rate=250_000)]),
    (sort("lossless"), [sort(), sort(rate=32_000_000), sort(50_000)]),
    (sort("lossless", fps=20), [sort("lossless", fps=30), sort(fps=20), sort("lossless", fps=19)]),
    (sort(rate=2_000_000), [sort(rate=1_400_000), sort(rate=700_000), sort(rate=4_000_000), sort(), sort("lossless")]),
    # As much less than the line takes would cost more than is saved.
    (sort(rate=32_000_000), [sort(rate=40_000_000), sort(), sort(rate=250_000)]),
    # Whoever chooses the most is sent no more, if that can be.
    (sort(3_000_000), [sort(1_000_000), sort(50_000), sort(4_000_000), sort()]),
])  # fmt: skip
def test_nearest_is_the_least_coarse(wanted: Sort, there: list[Sort]) -> None:
    for ordered in (there, there[::-1]):
        assert sorted(ordered, key=lambda one: one.distance(wanted)) == there
    assert wanted.distance(wanted) < min(one.distance(wanted) for one in there)


def test_viewer_can_only_share_pictures_of_its_screen_that_it_decodes() -> None:
    assert sort().serves(sort(fps=1, scale=0.1))
    assert not sort()._replace(screen="screen/2").serves(sort())
    assert not sort()._replace(formats=Formats("vp8", False, False, False)).serves(sort())


def test_videos_of_a_machine_are_for_viewers_that_ask_for_no_less() -> None:
    assert all(one.as_sent for one in (sort(), sort("lossless"), sort(fps=60), sort(rate=250_000)))
    assert not any(one.as_sent for one in (sort(fps=29), sort(scale=0.9), sort(5_000_000)))


def person(number: int) -> Principal:
    """One of several people."""
    return Principal(f"token/{number}", parse_rights("see"), frozenset({"alice"}))


def crowd(desk: Desk, screen: str, settings: list[dict[str, str]], each: int = 1) -> list[Remote]:
    """Viewers of so many sorts, `each` of them one person's."""
    return [
        Remote(desk, Watch(screen=screen, settings=one), principal=person(100 + number // each))
        for number, one in enumerate(settings)
    ]


def shared_with(late: Remote, desk: Desk) -> Sort:
    """The sort of the encoder that a viewer shares."""
    (group,) = [group for group in desk.groups if late.session in group.sessions]
    return group.sort


def made(desk: Desk) -> int:
    """How many encoders there are."""
    return len(desk.viewers.groups)


COARSE = [{"fps": str(1 + number), "scale": "0.1"} for number in range(ENCODERS_MAX - 5)]
"""What shares no encoder with anybody who wants to see something."""


@pytest.mark.parametrize(("wanted", "nearest"), [
    ({"fps": "60"}, PictureSettings(fps=50)),
    ({"fps": "9"}, PictureSettings(fps=50)),
    ({"scale": "0.6"}, PictureSettings(scale=0.75)),
    ({"scale": "0.7", "fps": "60"}, PictureSettings(scale=0.75)),
    ({"picture": "lossless", "fps": "20"}, PictureSettings("lossless", fps=25)),
    ({"picture": "3M"}, PictureSettings(2_000_000, fps=50)),
    ({"picture": "9M"}, PictureSettings(8_000_000, fps=50)),
])  # fmt: skip
def test_viewer_beyond_the_last_encoder_shares_the_nearest_and_is_told_so(
    wanted: dict[str, str], nearest: PictureSettings
) -> None:
    desk = Desk()
    screen = desk.add()
    better: list[dict[str, str]] = [
        {"fps": "50"}, {"scale": "0.75"}, {"picture": "lossless", "fps": "25"},
        {"picture": "2M", "fps": "50"}, {"picture": "8M", "fps": "50"},
    ]  # fmt: skip
    remotes = crowd(desk, screen.screen.key, [*COARSE, *better])
    desk.run(100)
    assert made(desk) == ENCODERS_MAX
    late = Remote(desk, Watch(settings=wanted), principal=person(9))
    desk.run(30)
    assert made(desk) == ENCODERS_MAX and shared_with(late, desk).settings == nearest
    assert [told.settings for told in late.news(Configured)] == [nearest.as_dict()]
    desk.run(1_100)
    late.say(ChangeView({}))
    desk.run(30)
    assert not late.news(Configured), "nothing was changed"
    late.say(ChangeView(dict(wanted)))
    desk.run(30)
    assert [told.settings for told in late.news(Configured)] == [nearest.as_dict()]
    # As soon as there is room, it has its own.
    remotes[0].leave()
    desk.run(1_100)
    own = shared_with(late, desk).settings
    assert made(desk) == ENCODERS_MAX and own == late.session.settings != nearest
    assert [told.settings for told in late.news(Configured)] == [own.as_dict()]
    screen.fill(SPOT, 66, desk.now_ns)
    desk.run(1_100)
    assert late.canvas.any() and remotes[-1].ended is None


def test_one_person_takes_half_of_the_encoders_and_then_shares_its_own() -> None:
    desk = Desk()
    screen = desk.add()
    key = screen.screen.key
    settings: list[dict[str, Any]] = [{"fps": str(1 + number)} for number in range(ENCODERS_MAX)]
    remotes = [Remote(desk, Watch(screen=key, settings=one), principal=person(1)) for one in settings]
    desk.run(100)
    assert made(desk) == EACH_MAX < ENCODERS_MAX
    assert all(shared_with(one, desk).settings.fps == EACH_MAX for one in remotes[EACH_MAX:])
    other = Remote(desk, Watch(screen=key, settings={"fps": "60"}), principal=person(2))
    desk.run(100)
    assert shared_with(other, desk).settings.fps == 60 and not other.news(Configured)
    # Another sort in place of the one that only it has is no further encoder.
    remotes[0].say(ChangeView({"fps": "55"}))
    desk.run(30)
    assert shared_with(remotes[0], desk).settings.fps == 55 and made(desk) == EACH_MAX + 1
    screen.fill(SPOT, 66, desk.now_ns)
    desk.run(100)
    assert np.array_equal(other.canvas, screen.pixels)


def owned(desk: Desk) -> dict[str, int]:
    """How many encoders each person has."""
    return dict(Counter(group.owner for group in desk.viewers.groups))


def test_those_that_have_most_give_encoders_up_until_all_have_as_many() -> None:
    desk = Desk()
    screen = desk.add()
    key = screen.screen.key
    remotes = crowd(desk, key, [{"fps": str(1 + number), "scale": "0.1"} for number in range(ENCODERS_MAX)], EACH_MAX)
    desk.run(100)
    late = Remote(desk, Watch(screen=key), principal=person(9))
    desk.run(100)
    assert shared_with(late, desk).settings == PictureSettings() and made(desk) == ENCODERS_MAX
    assert not late.news(Configured) and not late.news(Fault)
    screen.fill(SPOT, 66, desk.now_ns)
    desk.run(2_100)
    assert np.array_equal(late.canvas, screen.pixels)
    # Its viewer shares the nearest, is told so, and not moved to and fro; nobody is ended.
    (displaced,) = [one for one in remotes if one.session.shares != one.session.settings]
    assert owned(desk) == {"token/100": EACH_MAX - 1, "token/101": EACH_MAX, "token/9": 1}
    assert displaced.session.shares == shared_with(displaced, desk).settings
    assert abs(displaced.session.settings.fps - displaced.session.shares.fps) == 1
    assert [told.settings for told in displaced.news(Configured)] == [displaced.session.shares.as_dict()]
    assert displaced.canvas.any() and not any(one.ended for one in remotes)
    for number in range(ENCODERS_MAX):
        Remote(desk, Watch(screen=key, settings={"fps": str(20 + number)}), principal=person(9))
    desk.run(100)
    before = list(desk.viewers.groups)
    desk.run(5_000)
    assert sorted(owned(desk).values()) == [10, 11, 11] and desk.viewers.groups == before, "nobody takes one back"
    assert all(one.session.shares and one.ended is None for one in desk.remotes)


def test_whoever_has_most_gives_up_what_others_can_stand_in_for() -> None:
    desk = Desk()
    first, second = desk.add(), desk.add("other", "door/8")
    owner = person(1)
    alone = Remote(desk, Watch(screen=second.screen.key), principal=owner)
    own: list[dict[str, str]] = [{"fps": str(4 * number)} for number in range(1, EACH_MAX - 1)]
    remotes = [Remote(desk, Watch(screen=first.screen.key, settings=one), principal=owner) for one in own]
    near = Remote(desk, Watch(screen=first.screen.key, settings={"fps": "49"}), principal=owner)
    guest = Remote(desk, Watch(screen=first.screen.key, settings={"fps": "49"}), principal=person(7))
    crowd(desk, first.screen.key, [{"scale": "0.1", "fps": str(1 + number)} for number in range(EACH_MAX)])
    desk.run(100)
    assert made(desk) == ENCODERS_MAX
    late = Remote(desk, Watch(screen=first.screen.key, settings={"scale": "0.5"}), principal=person(9))
    desk.run(1_100)
    assert shared_with(late, desk).settings.scale == 0.5
    kept = [one for one in (alone, near, guest) if one.session.shares == one.session.settings]
    assert kept == [alone, near, guest], "what has no other that is like it, and what another person sees"
    assert sum(one.session.shares != one.session.settings for one in remotes) == 1


def test_viewer_that_loses_the_only_encoder_of_its_screen_waits_for_another() -> None:
    desk = Desk()
    screens = [desk.add(f"{number}", f"door/{number}") for number in range(EACH_MAX + 1)]
    keys = [one.screen.key for one in screens]
    remotes = [Remote(desk, Watch(screen=key), principal=person(1)) for key in keys[:-1]]
    remotes += crowd(desk, keys[-1], [{"fps": str(1 + number)} for number in range(EACH_MAX)])
    desk.run(100)
    late = Remote(desk, Watch(screen=keys[-1], settings={"scale": "0.5"}), principal=person(9))
    desk.run(3_100)
    (displaced,) = [one for one in remotes if one.session.shares is None]
    (fault,) = displaced.news(Fault)
    assert f"{ENCODERS_MAX} encoders" in fault.message and not fault.fatal and late.session.shares is not None
    late.leave()
    desk.run(1_100)
    assert displaced.session.shares == displaced.session.settings and not any(one.ended for one in remotes)


def test_viewer_that_can_share_no_encoder_is_told_that_there_are_too_many() -> None:
    desk = Desk()
    first, second = desk.add(), desk.add("other", "door/8")
    crowd(desk, first.screen.key, [{"fps": str(1 + number)} for number in range(ENCODERS_MAX)])
    desk.run(60)
    late = Remote(desk, Watch(screen=second.screen.key))
    unseen = Remote(desk, Watch(screen=second.screen.key, settings={"picture": "off"}))
    desk.run(60)
    assert isinstance(late.ended, GraphError) and f"{ENCODERS_MAX} encoders" in str(late.ended)
    assert not second.screen.readers and unseen.ended is None
    unseen.say(ChangeView({"picture": "auto"}))
    desk.run(60)
    (fault,) = (one for one in unseen.news(Fault) if "encoders" in one.message)
    assert f"{ENCODERS_MAX} encoders" in fault.message and fault.code == "graph" and unseen.ended is None


def test_person_that_has_its_encoders_at_another_screen_is_told_that_these_are_the_most() -> None:
    desk = Desk()
    first, second = desk.add(), desk.add("other", "door/8")
    crowd(desk, first.screen.key, [{"fps": str(1 + number)} for number in range(EACH_MAX)], EACH_MAX)
    desk.run(60)
    late = Remote(desk, Watch(screen=second.screen.key), principal=person(100))
    other = Remote(desk, Watch(screen=second.screen.key), principal=person(2))
    desk.run(60)
    assert isinstance(late.ended, GraphError) and f"token/100 has {EACH_MAX} encoders" in str(late.ended)
    assert other.ended is None and len(second.screen.readers) == 1


# -- changes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [
    lambda number: {"scale": f"0.{1 + number % 9}"},
    lambda number: {"picture": "lossless" if number % 2 else "auto"},
    lambda number: {"picture": "off" if number % 2 else "auto"},
    lambda number: {"scale": f"0.{1 + number % 9}", "fps": str(1 + number % 60), "picture": ("auto", "2M")[number % 2]},
])  # fmt: skip
def test_viewer_that_changes_its_settings_all_the_time_has_one_new_encoder_a_second(change: Any) -> None:
    desk = Desk()
    screen = desk.add()
    watcher, restless = Remote(desk, Watch(settings={"fps": "20"})), Remote(desk)
    desk.run(100)
    before = len(desk.groups)
    for number in range(1_000):
        restless.say(ChangeView(change(number)))
        desk.run(5)
    assert 3 <= len(desk.groups) - before <= 6
    wanted = restless.session.settings
    desk.run(1_100)
    told = restless.news(Configured)
    # The newest wish has won, although nobody asks any more, and the viewer was told so.
    if wanted.picture != "off":
        assert shared_with(restless, desk).settings == wanted and restless.session.shares == wanted
    assert told[-1].settings == wanted.as_dict() and restless.session.limits.due_ns is None
    screen.fill(SPOT, 66, desk.now_ns)
    desk.run(1_100)
    assert np.array_equal(watcher.canvas, screen.pixels) and restless.ended is None and watcher.ended is None


@pytest.mark.parametrize("change", [
    lambda number: {"fps": "20" if number % 3 else "30"},
    lambda number: {"picture": "off" if number % 2 else "9M"},
])  # fmt: skip
def test_viewer_that_changes_between_encoders_of_others_is_sent_one_whole_picture_a_second(change: Any) -> None:
    desk = Desk()
    desk.add()
    wishes = [Watch(settings={"fps": fps, "picture": "9M"}) for fps in ("20", "30")]
    others = [Remote(desk, wish, principal=person(2)) for wish in wishes]
    restless = Remote(desk, wishes[1])
    desk.run(1_500)
    before = len(restless.pieces)
    for number in range(800):
        restless.say(ChangeView(change(number)))
        desk.run(5)
    assert 3 <= len(restless.pieces) - before <= 5 and len(desk.groups) == 2
    assert [len(one.pieces) for one in others] == [1, 1] and restless.ended is None


def test_viewer_that_connects_again_and_again_is_sent_four_whole_pictures_a_second() -> None:
    desk = Desk()
    desk.add()
    Remote(desk)
    desk.run(100)
    served = [0]
    for _ in range(1_200):
        restless = Remote(desk, principal=person(1))
        desk.run(10)
        served.append(served[-1] + bool(restless.pieces))
        restless.leave()
    rate = NS_PER_S // WHOLE_NS
    assert served[600] <= 512 + 7 * rate and served[-1] - served[600] <= 7 * rate
    # Others are not kept waiting, and who waits has its turn.
    restless, other = Remote(desk, principal=person(1)), Remote(desk, principal=person(2))
    desk.run(30)
    assert other.pieces
    desk.run(1_500)
    assert restless.pieces and restless.session.shares


def test_lone_viewers_encoder_goes_on_with_another_rate_or_number_of_pictures() -> None:
    desk = Desk()
    screen = desk.add()
    remote = Remote(desk)
    desk.run(1_100)
    (group,) = desk.groups
    for number in range(60):
        remote.say(ChangeView({"picture": f"{1 + number}M"}))
        desk.run(5)
        assert group.sort.settings == remote.session.settings == remote.session.shares
        assert group.sort.rate == (1 + number) * 1_000_000
    for number in range(10):
        remote.say(ChangeView({"fps": str(60 - number)}))
        assert group.sort.settings == remote.session.settings and screen.interval_ns == NS_PER_S // (60 - number)
        desk.run(PACE_NS // NS_PER_MS)
    assert len(desk.groups) == 1 and made(desk) == 1
    assert [told.settings["fps"] for told in remote.news(Configured)] == [30] * 60 + list(range(60, 50, -1))
    # Those that share it are left what they have.
    other = Remote(desk, Watch(formats=["raw"], settings={"fps": "51", "picture": "60M"}))
    desk.run(1_100)
    assert made(desk) == 1
    other.say(ChangeView({"fps": "30"}))
    desk.run(30)
    assert made(desk) == 2 and group.sort.settings == remote.session.settings


def test_machine_is_told_four_times_a_second_at_most_how_often_a_viewer_wants_pictures() -> None:
    desk = Desk()
    screen = desk.add()
    remote = Remote(desk)
    desk.run(1_100)
    told: list[int | None] = []
    screen.watched = lambda interval_ns: told.append(interval_ns)  # type: ignore[method-assign]
    for number in range(400):
        remote.say(ChangeView({"fps": str(1 + number % 60)}))
        desk.run(5)
    assert 7 <= len(told) <= 10
    desk.run(300)
    assert told[-1] == NS_PER_S // remote.session.settings.fps and remote.session.shares == remote.session.settings
    assert len(desk.groups) == 1


def test_viewer_that_there_was_no_room_for_is_shown_pictures_when_there_is() -> None:
    desk = Desk(encodes=True)
    screen = desk.add()
    raw = Watch(formats=["raw"])
    Remote(desk, raw)
    late = Remote(desk, raw)
    desk.run(2_300)
    late.say(Hidden(True))
    desk.run(8_000)
    budget = desk.home.admission.budget
    other = budget.open("other", {"all": int(budget.limit) - budget.held - 7_000}, 1.0)
    late.say(Hidden(False))
    desk.run(10)
    assert (
        late.news(Fault) and late.session.shares is None and [len(one.sessions) for one in desk.viewers.groups] == [1]
    )
    other.close()
    screen.fill(SPOT, 77, desk.now_ns)
    desk.run(2_500)
    assert late.session.shares is not None and np.array_equal(late.canvas, screen.pixels)
    held = budget.held
    late.say(Hidden(True))
    desk.run(8_000)
    assert budget.held < held, "what a viewer takes of an encoder is given back when it leaves"
