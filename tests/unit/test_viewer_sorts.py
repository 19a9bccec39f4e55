"""Viewers of more sorts than a guest has encoders: each shares the nearest, is told so, and nobody takes them all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from millrace.codec.picturesettings import PictureSettings
from millrace.errors import GraphError
from millrace.guest.viewers import EACH_MAX, ENCODERS_MAX
from millrace.guest.viewersort import Sort
from millrace.outlets.picturechoice import Formats
from millrace.rights.model import Principal, parse_rights
from millrace.units import NS_PER_S
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
        assert sorted(ordered, key=lambda one: one.unlike(wanted)) == there
    assert wanted.unlike(wanted) < min(one.unlike(wanted) for one in there)


def test_viewer_can_only_share_pictures_of_its_screen_that_it_decodes() -> None:
    assert sort().serves(sort(fps=1, scale=0.1))
    assert not sort()._replace(screen="screen/2").serves(sort())
    assert not sort()._replace(formats=Formats("vp8", False, False, False)).serves(sort())


def person(number: int) -> Principal:
    """One of several people."""
    return Principal(f"token/{number}", parse_rights("see"), frozenset({"alice"}))


def crowd(desk: Desk, screen: str, settings: list[dict[str, str]], who: int = 1) -> list[Remote]:
    """Viewers of so many sorts, no more of one person than may have encoders of their own."""
    return [
        Remote(desk, Watch(screen=screen, settings=one), principal=person(who + number // EACH_MAX))
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
    desk.run(1_100)
    assert made(desk) == ENCODERS_MAX and shared_with(late, desk).settings == nearest
    assert [told.settings for told in late.news(Configured)] == [nearest.as_dict()]
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
    crowd(desk, first.screen.key, [{"fps": str(1 + number)} for number in range(EACH_MAX)])
    desk.run(60)
    late = Remote(desk, Watch(screen=second.screen.key), principal=person(1))
    other = Remote(desk, Watch(screen=second.screen.key), principal=person(2))
    desk.run(60)
    assert isinstance(late.ended, GraphError) and f"token/1 has {EACH_MAX} encoders" in str(late.ended)
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
    assert told[-1].settings == wanted.as_dict() and restless.session.encoders.due_ns is None
    screen.fill(SPOT, 66, desk.now_ns)
    desk.run(1_100)
    assert np.array_equal(watcher.canvas, screen.pixels) and restless.ended is None and watcher.ended is None


def test_lone_viewers_encoder_goes_on_with_another_rate_or_number_of_pictures() -> None:
    desk = Desk()
    screen = desk.add()
    remote = Remote(desk)
    desk.run(1_100)
    (group,) = desk.groups
    for number in range(60):
        remote.say(ChangeView({"fps": str(60 - number), "picture": f"{1 + number}M"}))
        desk.run(5)
        assert group.sort.settings == remote.session.settings == remote.session.shares
        assert screen.interval_ns == NS_PER_S // (60 - number) and group.sort.rate == (1 + number) * 1_000_000
    assert len(desk.groups) == 1 and made(desk) == 1
    assert [told.settings["fps"] for told in remote.news(Configured)] == list(range(60, 0, -1))
    # Those that share it are left what they have.
    other = Remote(desk, Watch(formats=["raw"], settings={"fps": "1", "picture": "60M"}))
    desk.run(1_100)
    assert made(desk) == 1
    other.say(ChangeView({"fps": "30"}))
    desk.run(30)
    assert made(desk) == 2 and group.sort.settings == remote.session.settings


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
