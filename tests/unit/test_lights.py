"""Locks that are on where a viewer types and off in the machine, or the other way."""

from __future__ import annotations

from millrace.graph.lights import CAPS, NUM, Lights
from millrace.pixels.rects import Rect
from millrace.wire.peer.pictures import Key, Watch
from tests.watch import Desk, Remote

A, CAPS_LOCK, NUM_LOCK, KEYPAD_7 = 0x1E, 0x3A, 0x45, 0x47


def test_lock_that_is_wrong_is_pressed_once_until_the_machine_tells_again() -> None:
    lights = Lights()
    assert lights.wrong(A, CAPS) == [], "it has not told"
    lights.told(NUM)
    assert lights.wrong(A, None) == [] == lights.wrong(A, NUM)
    assert lights.wrong(A, NUM | CAPS) == [CAPS_LOCK] and lights.wrong(A, NUM | CAPS) == []
    lights.told(NUM | CAPS)
    assert lights.wrong(A, NUM | CAPS) == [] and lights.wrong(A, NUM) == [CAPS_LOCK]


def test_lock_whose_key_is_pressed_is_not_known() -> None:
    lights = Lights()
    lights.told(NUM)
    # The light comes later.
    assert lights.wrong(CAPS_LOCK, NUM | CAPS) == [] and lights.wrong(A, NUM | CAPS) == []
    assert lights.wrong(KEYPAD_7, 0) == [NUM_LOCK]


def test_num_lock_matters_to_the_keypad_only() -> None:
    lights = Lights()
    lights.told(0)
    assert lights.wrong(A, NUM) == [] == lights.wrong(CAPS_LOCK, NUM)
    lights.told(0)
    assert lights.wrong(KEYPAD_7, NUM | CAPS) == [CAPS_LOCK, NUM_LOCK]


def test_machine_gets_the_lock_before_the_key() -> None:
    desk = Desk()
    screen = desk.add()
    screen.fill(Rect(0, 0, 9, 9), 7, desk.now_ns)
    anna = Remote(desk, Watch(name="anna", formats=["raw"], keyboard=True))
    desk.run(60)
    screen.screen.lights.told(0)
    for key in (Key(A, True, "A", CAPS), Key(A, False), Key(A, True, "A", CAPS)):
        anna.say(key)
    assert screen.typed == [(CAPS_LOCK, True), (CAPS_LOCK, False), (A, True, "A"), (A, False), (A, True, "A")]
