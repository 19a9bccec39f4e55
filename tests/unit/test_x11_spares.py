"""Keys of an X display that a daemon that was killed has left, and a server that does not tell its layout.

Of millrace.wire.x11.spares, keyboard and input.
"""

from __future__ import annotations

from millrace.wire.x11 import requests, xkb
from millrace.wire.x11.client import X11Client
from millrace.wire.x11.events import LayoutUntold
from millrace.wire.x11.keyboard import ANSWER_NS
from millrace.wire.x11.spares import IDLE_NS
from tests.fuzz import xserver
from tests.fuzz.xserver import KEYBOARD, ROOT

from .test_x11_keyboard import GERMAN, MARK_NAME, SHIFT, Display, ended, shown


def test_what_a_killed_daemon_has_left_is_given_back_at_the_next_attach_and_no_other_key() -> None:
    own: xserver.Groups = [(2, [0x1004E00, 0x1004E00])]
    one = Display(GERMAN | {240: own, 248: own, 253: [(2, [0x32, 0x22])]}, listed=((240, 0x1004E00),), watched=False)
    assert requests.intern_atom(b"MILLRACE_KEYS") in one.begun and xkb.get_map(KEYBOARD) in one.begun
    due_ns = one.wire.next_timeout()
    assert due_ns is not None and due_ns <= IDLE_NS
    one.wire.handle_timeout(IDLE_NS)
    assert one.sent() == [requests.change_keysyms(240, 0), requests.delete_property(ROOT, MARK_NAME)]
    assert ended(one) == []


def test_what_was_left_is_given_back_also_if_the_layout_was_told_before() -> None:
    one = Display(GERMAN | {240: [(2, [0x1004E00, 0x1004E00])]}, listed=((240, 0x1004E00),))
    assert one.begun.count(xkb.get_map(KEYBOARD)) == 2
    one.wire.handle_timeout(IDLE_NS)
    assert one.sent() == [requests.change_keysyms(240, 0), requests.delete_property(ROOT, MARK_NAME)]


def test_layout_is_not_asked_for_when_nothing_was_left() -> None:
    assert xkb.get_map(KEYBOARD) not in Display(GERMAN, watched=False).begun


# -- a server that does not answer -----------------------------------------------------------------


def untold(one: Display) -> list[object]:
    return [event for event in one.wire.events() if isinstance(event, LayoutUntold)]


def awaited(one: Display, now_ns: int) -> None:
    """A deadline of the client has come, at first to learn of the time."""
    due_ns = one.wire.next_timeout()
    assert due_ns is not None and due_ns <= now_ns
    one.now_ns = now_ns
    one.wire.handle_timeout(now_ns)


def test_layout_that_is_not_told_is_waited_for_a_while_and_then_keys_are_pressed_by_their_place() -> None:
    one, begun_ns = Display(GERMAN), 60 * ANSWER_NS
    one.says(xserver.keyboard_changed(8, 248, 7))
    (asked,) = one.sent()
    assert asked == xkb.get_map(KEYBOARD) and one.wire.keys_wait
    awaited(one, begun_ns)
    assert one.wire.next_timeout() == begun_ns + ANSWER_NS and one.wire.keys_wait and not untold(one)
    assert one.sent() == [requests.get_focus()], "does it answer at all?"
    one.wire.handle_timeout(begun_ns + ANSWER_NS - 1)
    assert one.wire.keys_wait and not one.wire.lacks_layout
    awaited(one, begun_ns + ANSWER_NS)
    assert untold(one) == [LayoutUntold(ANSWER_NS)] and one.wire.lacks_layout and not one.wire.keys_wait
    assert one.wire.next_timeout() is None, "it is told once"
    for code, meaning in ((SHIFT, "Shift"), (0x15, "z")):
        one.wire.send_key(code, True, meaning)
        one.wire.send_key(code, False)
    assert [shown(done) for done in one.sent()] == [50, -50, 29, -29], "nothing is asked for in vain"
    one.number += 6
    one.says(xserver.keyboard(one.number - 5, GERMAN, {}))
    assert not one.wire.lacks_layout and one.typed(0x2C, "z") == [29, -29], "its layout counts as soon as it is told"


def test_server_that_answers_slowly_is_waited_for() -> None:
    one = Display(GERMAN)
    for _ in range(3):
        one.wire.send_key(0, True, "@")
    numbers = [number for number, asked in enumerate(one.sent(), one.number + 1) if asked[1] == 4]
    for at, number in enumerate(numbers):
        awaited(one, 9 * at * ANSWER_NS // 10 + 1)
        one.says(xserver.keyboard_state(number))
    assert one.wire.next_timeout() is None and not one.wire.lacks_layout and not untold(one)


def test_layout_that_was_never_told_is_not_waited_for_either() -> None:
    one = X11Client(b"", 0)
    one.receive(b"".join([xserver.setup(), *xserver.extensions()]), 0)
    while one.unfinished:
        one.receive(b"", 0)
    one.send_keys_watch()
    for now_ns in (0, ANSWER_NS):
        assert one.keys_wait
        one.handle_timeout(now_ns)
    one.data_to_send()
    assert one.lacks_layout and one.send_key(0x10, True, "q")
    assert shown(bytes(one.data_to_send()[0].data)) == 24
