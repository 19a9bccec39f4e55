"""What an X server refuses, or sends too much of, costs only that: the cursor, the keys or the clipboard."""

from __future__ import annotations

import gc
import struct
import weakref

import pytest

from millrace.errors import RemoteProtocolError
from millrace.pixels.cursors import ARROW, ARROW_SIZE
from millrace.pixels.rects import Point, Size
from millrace.wire.x11 import looks, requests
from millrace.wire.x11.client import X11Client
from millrace.wire.x11.events import CursorShape, Ready, Resized
from millrace.wire.x11.said import Said, no_more
from millrace.wire.x11.unread import Unread
from tests.fuzz import xserver
from tests.fuzz.xserver import HEIGHT, MAJORS, ROOT, WIDTH

from .test_x11 import copying, inside, says, sent


def arrow(x: int, y: int) -> CursorShape:
    return CursorShape(Point(x, y), Point(0, 0), ARROW_SIZE, ARROW)


def test_cursor_of_a_program_that_has_ended_is_an_arrow_until_the_next() -> None:
    """X refuses to tell what it looks like."""
    wire = inside()
    wire.events(), sent(wire)
    says(wire, xserver.error(12, 10, 138, 4) + xserver.cursor_changed())
    assert sent(wire) == [requests.query_pointer(ROOT)] and wire.events() == []
    says(wire, xserver.reply(13, struct.pack("<IIhhhhH", ROOT, 0, 700, 500, 700, 500, 0), 1))
    assert wire.events() == [arrow(700, 500)] and sent(wire) == [requests.get_cursor(MAJORS[b"XFIXES"][0])]
    says(wire, xserver.cursor(14))
    (shape,) = wire.events()
    assert isinstance(shape, CursorShape) and shape.size == Size(4, 3)


@pytest.mark.parametrize("side", [513, 768])
def test_cursor_that_is_too_large_is_an_arrow_and_takes_no_memory(side: int) -> None:
    wire, most = inside(), 0
    wire.events(), sent(wire)
    data = xserver.cursor(12, side, side) + xserver.cursor_changed()
    for n in range(0, len(data), 4096):
        says(wire, data[n : n + 4096])
        most = max(most, wire.partial_bytes)
    assert wire.events() == [arrow(5, 6)] and most < 8192 < looks.ANSWER_MAX and wire.partial_bytes == 0
    assert sent(wire) == [requests.get_cursor(MAJORS[b"XFIXES"][0])]
    says(wire, xserver.cursor(13, 512, 512))
    (shape,) = wire.events()
    assert isinstance(shape, CursorShape) and shape.size == Size(512, 512)


def test_small_cursor_in_too_long_an_answer_ends_the_connection() -> None:
    """Of the answer only the head is taken, so the cursor has no pixels."""
    wire = inside()
    words = looks.ANSWER_MAX // 4
    with pytest.raises(RemoteProtocolError, match=f"a cursor of 100 × 100 in {32 + words * 4} bytes"):
        says(wire, xserver.cursor(12, 100, 100)[:4] + struct.pack("<I", words) + xserver.cursor(12, 100, 100)[8:32])
        says(wire, bytes(4 * words))


def test_server_without_xtest_is_shown_and_not_typed_into() -> None:
    wire = X11Client(b"", 0)
    there = xserver.extensions()
    says(wire, b"".join([xserver.setup(), *there[:3], xserver.reply(4), *there[4:7]]))
    assert wire.events() == [Ready("The X"), Resized(Size(WIDTH, HEIGHT))]
    sent(wire)
    wire.send_key(0x1E, True)
    wire.send_pointer(Point(1, 2), 1, False)
    assert sent(wire) == [] and not wire.takes_input and inside().takes_input


def test_clipboard_that_is_refused_leaves_the_screen() -> None:
    """Any program may destroy the windows of others."""
    wire = inside()
    wire.send_clip_watch()
    says(wire, b"".join(xserver.names()))
    wire.events(), sent(wire)
    wire.send_clip_request()
    window = int.from_bytes(sent(wire)[0][4:8], "little")
    says(wire, xserver.converted(window))
    assert [asked[0] for asked in sent(wire)] == [20]
    # Three requests followed the names, two made the window and asked for the text.
    says(wire, xserver.error(13 + xserver.NAMES + 3 + 2, 3, 20, 0) + xserver.damaged(1, 2, 3, 4))
    assert wire.behind


def test_messages_are_taken_whole_unless_they_wait_and_what_is_passed_over_never() -> None:
    unread, sizes = Unread(), lambda head: (10, 12)
    unread.add(b"0123456789abc")
    assert unread.take(sizes, wait=True) is None and unread.more and len(unread) == 13
    assert unread.take(sizes, wait=False) == b"0123456789"
    unread.pass_over(5)
    assert unread.take(sizes, wait=False) is None and not unread.more and len(unread) == 0
    unread.add(b"deABCDEFGHIJK")
    assert unread.take(sizes, wait=False) == b"ABCDEFGHIJ"
    with pytest.raises(RemoteProtocolError, match="11 bytes; 10 at most"):
        unread.take(lambda head: (11, 10), wait=False)


def test_what_follows_an_answer_or_a_refusal_is_said() -> None:
    wire = inside()
    wire.events(), sent(wire)
    number, focus, pointer = wire._requests._sent, requests.get_focus(), requests.query_pointer(ROOT)
    asked = Said(focus, lambda part: [Said(pointer)], lambda part: [Said(pointer), Said(focus, no_more, no_more)])
    wire._say([asked, asked, Said(pointer)])
    assert sent(wire) == [focus, focus, pointer]
    says(wire, xserver.reply(number + 1))
    assert sent(wire) == [pointer]
    says(wire, xserver.error(number + 2))
    assert sent(wire) == [pointer, focus]
    says(wire, xserver.error(number + 6))
    wire._say([Said(focus, no_more)])
    assert sent(wire) == [focus]
    with pytest.raises(RemoteProtocolError, match="refused request"):
        says(wire, xserver.error(number + 7))


def test_client_whose_server_answers_nothing_is_freed_without_a_collection() -> None:
    wire = copying()
    says(wire, xserver.attached())
    wire.send_release()
    wire.send_check()
    asked = [said.request[:2] for said in wire._requests._waiting.values()]
    assert bytes((MAJORS[b"MIT-SHM"][0], 4)) in asked and len(asked) >= 4
    left = weakref.ref(wire)
    gc.disable()
    try:
        del wire
        assert left() is None
    finally:
        gc.enable()
