"""The screens of a guest: their list, their keyboard, and the rights to watch and to type."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from millrace.budget import Budget
from millrace.errors import BudgetError, GraphError, RightsError
from millrace.graph.guarded import GuardedClipboard
from millrace.graph.model import Ids
from millrace.graph.pictures import KeyPress, Mode, Overlay
from millrace.graph.screen import SCREEN_BYTES, Screen
from millrace.graph.screenfacts import MODES_MAX
from millrace.graph.screens import SCREENS_MAX, Listed, Screens
from millrace.graph.seat import Watcher
from millrace.pixels.rects import Point, Rect, Size
from millrace.rights.model import EVERYTHING, GUEST_RIGHTS, Principal, Right, parse_rights, show_rights
from millrace.units import NS_PER_S

MODE = Mode(8, 4, 32)


class Source:
    def key(self, press: KeyPress) -> None: ...

    def takes(self, key: bool, again: Callable[[], None]) -> bool:
        return True

    def pointer(self, at: Point, buttons: int, relative: bool) -> None: ...

    def size_wish(self, size: Size) -> None: ...

    def paint(self, tracks: frozenset[str]) -> None: ...

    def watched(self, interval_ns: int | None) -> None: ...


class Failing:
    """A source, and a clipboard, in which one thing fails."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __getattr__(self, name: str) -> Callable[..., bool]:
        def ask(*args: object) -> bool:
            if name == self._what:
                raise RuntimeError(f"no {name} here")
            return False

        return ask


class Rig:
    def __init__(self, limit: int = 1024 * 1024) -> None:
        self.told: list[tuple[str, str]] = []
        self.budget = Budget(limit=limit)
        self.screens = Screens("alice", Ids(), self.budget, self.changed)

    def changed(self, change: str, listed: Listed) -> None:
        self.told.append((change, listed.key))

    def add(self, label: str = "VGA") -> Screen:
        return self.screens.add(Source(), label, "door/7")

    def news(self) -> list[tuple[str, str]]:
        told, self.told = self.told, []
        return told


def watcher(may: str, key: str = "viewer/1") -> Watcher:
    return Watcher(key, Principal("token/1", parse_rights(may), frozenset({"alice"})))


def show(screen: Screen, mode: Mode = MODE) -> None:
    screen.set_mode(mode, memoryview(bytearray(mode.bytes)), 0)


def test_screens_are_listed_in_order_of_appearance_until_they_are_removed() -> None:
    rig = Rig()
    assert rig.screens.first is None and rig.screens.find("screen/0") is None
    first, second = rig.add("VGA"), rig.add("a\x1b[31m")
    assert [(one.key, one.label, one.door) for one in rig.screens] == [
        ("screen/0", "VGA", "door/7"), ("screen/1", "a\\x1b[31m", "door/7"),
    ]  # fmt: skip
    assert rig.screens.first is not None and rig.screens.first.screen is first
    rig.screens.remove(first)
    rig.screens.remove(first)
    assert rig.screens.first.screen is second
    assert rig.news() == [("new", "screen/0"), ("new", "screen/1"), ("remove", "screen/0")]
    with pytest.raises(GraphError, match="has ended"):
        show(first)
    rig.screens.close()
    assert len(rig.screens) == 0 and rig.budget.held == 0


def test_list_changes_with_mode_readers_and_keyboard_but_not_with_each_picture() -> None:
    rig = Rig()
    screen = rig.add()
    listed = rig.screens.find(screen.key)
    assert listed is not None and listed.state == "blank"
    rig.news()
    show(screen)
    assert listed.state == "idle" and rig.news() == [("change", "screen/0")]
    screen.painted([Rect(0, 0, 2, 2)], 5)
    show(screen)
    screen.set_relative(False)
    assert rig.news() == []
    screen.set_relative(True)
    assert screen.relative and rig.news() == [("change", "screen/0")]
    show(screen, Mode(4, 4, 16))
    reader = screen.read(watcher("watch"))
    assert listed.state == "running"
    reader.end()
    assert listed.state == "idle" and rig.news() == [("change", "screen/0")] * 3
    who = watcher("type")
    for _ in range(2):
        rig.screens.seat.take(who)
    rig.screens.seat.leave(watcher("type"))
    assert rig.news() == [("change", "screen/0")]
    rig.screens.seat.leave(who)
    assert rig.screens.seat.who is None and rig.news() == [("change", "screen/0")]


def test_list_tells_few_of_too_many_modes_and_the_newest_within_a_second() -> None:
    rig = Rig()
    screen = rig.add()
    rig.news()
    for number in range(100):
        show(screen, Mode(4 + number, 4, 4 * (4 + number)))
    assert rig.news() == [("change", "screen/0")] * (MODES_MAX - 1)
    for told in (["change"], []):
        rig.screens.second(NS_PER_S)
        assert [change for change, _ in rig.news()] == told


def test_screen_without_room_is_refused_and_leaves_nothing() -> None:
    rig = Rig(limit=2 * SCREEN_BYTES)
    rig.add()
    with pytest.raises(BudgetError):
        rig.add()
    assert len(rig.screens) == 1 and rig.budget.held == SCREEN_BYTES
    rig = Rig()
    for _ in range(SCREENS_MAX):
        rig.add()
    with pytest.raises(GraphError, match=f"{SCREENS_MAX} screens, the maximum"):
        rig.add()
    assert len(rig.screens) == SCREENS_MAX


def test_pictures_are_counted_over_the_last_second() -> None:
    rig = Rig()
    screen = rig.add()
    listed = rig.screens.first
    assert listed is not None
    show(screen)
    rig.screens.second(0)
    assert listed.fps == 0
    rig.screens.second(NS_PER_S)
    for n in range(30):
        screen.painted([Rect(n % 8, 0, 1, 1)], n)
    rig.screens.second(NS_PER_S * 5 // 2)
    assert listed.fps == 20
    rig.screens.second(NS_PER_S * 5 // 2)
    assert listed.fps == 20
    rig.screens.second(NS_PER_S * 7 // 2)
    assert listed.fps == 0


def test_time_without_a_screen_does_not_count() -> None:
    rig = Rig()
    rig.add()
    rig.screens.second(0)
    assert rig.screens.first is not None
    rig.screens.remove(rig.screens.first.screen)
    rig.screens.second(NS_PER_S)
    screen = rig.add()
    show(screen)
    rig.screens.second(1_000 * NS_PER_S)
    assert rig.screens.first.fps == 0, "it is not known since when it has painted"
    screen.painted([Rect(0, 0, 1, 1)], 1)
    rig.screens.second(1_001 * NS_PER_S)
    assert rig.screens.first.fps == 1


def test_typing_implies_watching_and_watching_implies_seeing() -> None:
    assert show_rights(parse_rights("watch")) == ["see", "watch"]
    assert show_rights(parse_rights("type")) == ["see", "watch", "type"]
    assert show_rights(parse_rights("control")) == ["see", "control"]
    assert show_rights(parse_rights("clipboard")) == ["see", "watch", "clipboard"]
    everything = ["see", "hear", "speak", "watch", "type", "clipboard", "control", "link", "admin"]
    assert show_rights(EVERYTHING) == everything
    of_screens = Right.WATCH | Right.TYPE | Right.CLIPBOARD
    assert not GUEST_RIGHTS & of_screens, "a guest's own programs have no part in its screens"


def test_only_the_right_to_type_takes_the_keyboard() -> None:
    rig = Rig()
    for may in ("hear,speak,control,link", "watch"):
        with pytest.raises(RightsError, match="token/1 may not type in guest alice"):
            rig.screens.seat.take(watcher(may))
    assert rig.screens.seat.who is None
    rig.screens.seat.take(watcher("all"))


def test_numbers_of_stored_rights_never_change() -> None:
    numbers = {"SEE": 1, "HEAR": 2, "SPEAK": 4, "CONTROL": 8, "LINK": 16, "ADMIN": 32, "WATCH": 64, "TYPE": 128}
    numbers["CLIPBOARD"] = 256
    assert {right.name: right.value for right in Right} == numbers


ASKED: dict[str, Callable[[Screen, Watcher], object]] = {
    "key": lambda screen, who: screen.controlled(who, "typing").key(KeyPress(0x1E, True)),
    "takes": lambda screen, who: screen.controlled(who, "typing").takes(True, lambda: None),
    "pointer": lambda screen, who: screen.controlled(who, "pointing").pointer(Point(1, 1), 0, False),
    "size_wish": lambda screen, who: screen.controlled(who, "resizing").size_wish(Size(8, 8)),
    "paint": lambda screen, who: (screen.read(who), screen.painted([], 0, overlays=[Overlay("video", MODE.whole)])),
    "watched": lambda screen, who: screen.read(who),
}


@pytest.mark.parametrize("what", ASKED)
def test_error_of_a_source_is_its_door_s_and_not_the_viewer_s(what: str) -> None:
    """Of millrace.graph.guarded."""
    rig, who, failed = Rig(), watcher("type"), []
    rig.screens = Screens("alice", Ids(), rig.budget, failed=lambda door, error: failed.append((door, str(error))))
    screen = rig.screens.add(Failing(what), "VGA", "door/7")
    show(screen)
    rig.screens.seat.take(who)
    for _ in range(2):
        assert ASKED[what](screen, who) is not False, "what has failed takes everything: nothing waits for it"
    assert failed == [("door/7", f"no {what} here")]


def test_error_of_a_clipboard_is_its_door_s_and_not_the_viewer_s() -> None:
    for what in ("clip_offered", "clip_withdrawn", "clip_wanted"):
        failed: list[str] = []
        guarded = GuardedClipboard(Failing(what), lambda error, failed=failed: failed.append(str(error)))  # type: ignore[misc]
        for _ in range(2):
            getattr(guarded, what)()
        assert failed == [f"no {what} here"]


def test_error_of_a_source_that_nobody_takes_is_raised() -> None:
    rig, who = Rig(), watcher("type")
    screen = rig.screens.add(Failing("key"), "VGA", "door/7")
    rig.screens.seat.take(who)
    with pytest.raises(RuntimeError, match="no key here"):
        screen.controlled(who, "typing").key(KeyPress(0x1E, True))
