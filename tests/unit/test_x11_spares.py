"""Keys of an X display that a daemon has given a meaning and not given back: of millrace.wire.x11.spares."""

from __future__ import annotations

from millrace.wire.x11 import requests, xkb
from millrace.wire.x11.spares import IDLE_NS
from tests.fuzz import xserver
from tests.fuzz.xserver import KEYBOARD, ROOT

from .test_x11_keyboard import GERMAN, MARK_NAME, Display, ended


def test_what_a_killed_daemon_has_left_is_given_back_at_the_next_attach_and_no_other_key() -> None:
    own: xserver.Groups = [(2, [0x1004E00, 0x1004E00])]
    one = Display(GERMAN | {240: own, 248: own, 253: [(2, [0x32, 0x22])]}, listed=((240, 0x1004E00),), watched=False)
    assert requests.intern_atom(b"MILLRACE_KEYS") in one.begun and xkb.get_map(KEYBOARD) in one.begun
    due_ns = one.wire.next_timeout()
    assert due_ns is not None and due_ns <= IDLE_NS
    one.wire.handle_timeout(IDLE_NS)
    assert one.sent() == [requests.change_keysyms(240, 0), requests.delete_property(ROOT, MARK_NAME)]
    assert ended(one) == []


def test_layout_is_not_asked_for_when_nothing_was_left() -> None:
    assert xkb.get_map(KEYBOARD) not in Display(GERMAN, watched=False).begun
