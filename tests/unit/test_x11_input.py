"""When an X display takes what a viewer types, and what is told of what can not be typed: of doors.x11.door."""

from __future__ import annotations

from millrace.absent import nothing
from millrace.graph.pictures import Characters, KeyPress
from millrace.graph.screenfacts import SILENT_S
from millrace.pixels.rects import Point
from millrace.units import NS_PER_S
from millrace.wire.x11.keyboard import ANSWER_NS
from tests.fuzz import xserver
from tests.gops import WATCHER

from .test_x11 import Served


def test_characters_that_can_not_be_typed_are_told_once_a_text_and_not_which() -> None:
    one = Served()
    one.screens.seat.take(WATCHER)
    source = one.screen.controlled(WATCHER, "typing")
    source.takes(True, lambda: None)
    one.turns(xserver.error(one.wire._requests._sent))
    for second in range(4):
        for _ in range(0 if second == 2 else 3):
            source.key(KeyPress(0, True, "日"))
            source.key(KeyPress(0, False))
        source.key(KeyPress(0x1E, True, "a"))
        one.screens.second(second * NS_PER_S)
    told = [(found.stage, found.cause, found.subject, found.evidence) for found in one.told]
    assert told == [("screen", "no key", one.screen.key, {"characters": 3})] * 2


def lacking_layout(one: Served, told: list[str]) -> int:
    """It does not tell its layout; returns the number of what it was asked to see whether it answers at all."""
    one.screens.seat.take(WATCHER)
    assert not one.screen.controlled(WATCHER, "typing").takes(True, lambda: told.append("room"))
    one.wire.handle_timeout(0)
    asked = one.wire._requests._sent
    assert one.wire.unanswered
    one.wire.handle_timeout(ANSWER_NS)
    return asked


def test_layout_that_is_not_told_is_told_of_and_keys_no_longer_wait() -> None:
    one, told = Served(), list[str]()
    asked = lacking_layout(one, told)
    one.turns(xserver.reply(asked))
    for second in range(3):
        one.screens.second(ANSWER_NS + second * NS_PER_S)
    found = [(one.stage, one.cause, one.evidence) for one in one.told]
    assert found == [("screen", "no layout", {"waited_ms": 5000.0})] and told == ["room"]


def test_server_that_answers_nothing_is_told_of_once_and_not_of_its_layout_besides() -> None:
    one, told = Served(), list[str]()
    asked = lacking_layout(one, told)
    one.turns(b"")
    for second in range(2 * SILENT_S):
        one.screens.second(ANSWER_NS + second * NS_PER_S)
    assert [found.cause for found in one.told] == ["no answer"] and told == ["room"] and one.door.silent_s
    one.turns(xserver.reply(asked))
    one.screens.second(NS_PER_S)
    assert len(one.told) == 1 and not one.door.silent_s


def test_display_takes_all_characters_without_a_key() -> None:
    assert Served().screen.characters is Characters.ALL, "its layout may be any"


def test_nothing_is_taken_while_the_server_does_not_read_and_no_key_before_it_has_told_its_layout() -> None:
    one, told = Served(), list[str]()
    one.screens.seat.take(WATCHER)
    source = one.screen.controlled(WATCHER, "typing")
    assert not source.takes(True, lambda: told.append("the layout")), "it is asked for"
    one.turns(xserver.damaged(0, 0, 1, 1))
    assert told == []
    one.turns(xserver.error(one.wire._requests._sent))
    assert told == [], "it has not told yet which keys have a meaning of ours"
    names = [number for number, said in one.wire._requests._waiting.items() if said.request[0] == 16]
    one.turns(b"".join(map(xserver.error, names)))
    assert told == ["the layout"] and source.takes(True, nothing)
    one.full = True
    assert not source.takes(True, lambda: told.append("room"))
    one.door.room.tell()
    assert told == ["the layout"]
    one.full = False
    one.turns(xserver.damaged(0, 0, 1, 1))
    assert told == ["the layout", "room"] and source.takes(False, nothing)


def test_server_that_answers_nothing_to_what_is_typed_is_told_once() -> None:
    one = Served()
    one.screens.seat.take(WATCHER)
    source = one.screen.controlled(WATCHER, "typing")

    def seconds(count: int) -> list[str]:
        one.told.clear()
        for second in range(count):
            one.screens.second(second * NS_PER_S)
        return [found.cause for found in one.told]

    assert seconds(SILENT_S + 1) == [] and not one.door.silent_s, "nothing was asked"
    for n in range(SILENT_S + 1):
        source.pointer(Point(n, 0), 0, False)
        one.turns(xserver.reply(one.wire._requests._sent))
        source.pointer(Point(n, 1), 0, False)
        assert seconds(1) == [], "it answers, one after the other"
        one.turns(xserver.reply(one.wire._requests._sent))
    source.key(KeyPress(0x1E, True, "a"))
    asked = one.wire._requests._sent
    source.pointer(Point(1, 1), 0, False)
    assert seconds(SILENT_S) == [] and not one.door.silent_s
    assert seconds(3) == ["no answer"] and one.door.silent_s == SILENT_S + 2
    one.turns(xserver.reply(asked))
    assert seconds(1) == [] and not one.door.silent_s
