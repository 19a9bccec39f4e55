"""How a rectangle is sent, in which tiles, and how full the line is."""

from __future__ import annotations

import numpy as np
import pytest

from millrace.outlets.line import QUEUED_MAX_NS, Line
from millrace.outlets.picturechoice import Formats, How, Room, choice, tiles
from millrace.pixels.difference import part_of
from millrace.pixels.rects import Rect
from millrace.units import NS_PER_S


@pytest.mark.parametrize(
    ("codecs", "formats", "shown"),
    [
        ([], [], Formats(None, False, False, False)),
        (["vp8", "avc1"], ["raw", "zstd", "palette", "jpeg", "png"], Formats("avc1", True, True, True)),
        (["vp8", "new"], ["zstd", "new"], Formats("vp8", False, True, False)),
        (["opus"], ["palette"], Formats(None, False, False, False)),
    ],
)
def test_formats_are_those_that_a_viewer_names(codecs: list[str], formats: list[str], shown: Formats) -> None:
    assert Formats.named(codecs, formats) == shown


def test_choices_follow_the_size_and_what_is_left_of_the_line() -> None:
    room, all_ = Room(20_000, 60_000), Formats()
    text, big = 60_000, 400_000
    assert choice(15_000, text, True, room, all_, False) is How.LOSSLESS
    assert choice(30_000, text, True, room, all_, False) is How.VIDEO
    assert choice(30_000, text, False, room, all_, False) is How.LOSSLESS
    assert choice(70_000, big, False, room, all_, False) is How.VIDEO
    assert choice(19_000, 18_000, True, room, all_, False) is How.VIDEO, "film, although it would fit"
    assert choice(19_000, 9_000, True, room, all_, False) is How.LOSSLESS, "a strip"
    assert choice(19_000, 18_000, False, room, all_, False) is How.LOSSLESS
    assert choice(70_000, big, False, room, Formats(None), False) is How.JPEG
    assert choice(70_000, big, False, room, Formats(None, False), False) is How.LATER
    assert choice(70_000, big, False, room, all_, True) is How.LATER
    assert choice(15_000, 10_000, True, room, all_, True) is How.LOSSLESS
    assert room.less(5_000) == Room(15_000, 55_000)


@pytest.mark.parametrize(
    "rect", [Rect(0, 0, 1920, 1080), Rect(3, 5, 1001, 700), Rect(5, 7, 9, 18), Rect(7, 0, 5000, 3)]
)
def test_tiles_cover_a_rectangle_once(rect: Rect) -> None:
    seen = np.zeros((1100, 5100), np.uint8)
    for tile in tiles(rect):
        part_of(seen, tile)[:] += 1
        assert tile.area <= 65_536 * 1.1
    assert part_of(seen, rect).all() and seen.sum() == rect.area


def test_line_is_filled_and_empties() -> None:
    line = Line(8_000_000)
    assert line.share == 33_333 and line.queued_ns(0) == 0
    line.sent(100_000, 5 * NS_PER_S)
    assert line.queued_ns(5 * NS_PER_S) == NS_PER_S // 10
    line.sent(100_000, 5 * NS_PER_S)
    assert line.free_ns() == 5 * NS_PER_S + NS_PER_S // 5 - QUEUED_MAX_NS
    assert line.queued_ns(6 * NS_PER_S) == 0
