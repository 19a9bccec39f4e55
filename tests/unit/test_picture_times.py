"""The ledger of a picture, and what encoders count: the sum is always the time from painting to drawing."""

from __future__ import annotations

import pytest

from millrace.outlets.encoded import EncodedPicture
from millrace.outlets.picturecounts import ENCODE_MS, PictureCounts, Tally, tallied
from millrace.outlets.picturetimes import KEPT, STAGES, PictureTimes, StageTotals, ViewerTimes
from millrace.pixels.rects import Rect
from millrace.units import NS_PER_MS, NS_PER_S
from millrace.wire.peer.pictures import Part, PartType

MS = NS_PER_MS


def picture(painted_ms: int = 1_000, number: int = 1, **more: int) -> EncodedPicture:
    times = {name: value * MS for name, value in more.items()}
    return EncodedPicture(1, painted_ms * MS, (), True, 0, number=number, **times)


def told(*ms: int) -> ViewerTimes:
    return ViewerTimes(*(at * MS for at in ms))


def test_times_of_pictures_are_averaged_stage_by_stage() -> None:
    totals = StageTotals()
    times = PictureTimes(0, totals)
    times.sent(1, picture(encode_ns=5, wait_ns=3, door_ns=1), 1_010 * MS)
    times.drawn(1, told(1_018, 1_030, 1_034, 1_041), -4 * MS, 1_060 * MS)
    assert times.latency_ns == 41 * MS and times.skew_ns == -4 * MS
    assert [times.breakdown[stage] for stage in STAGES] == [one * MS for one in (1, 2, 5, 2, 8, 12, 4, 7)]
    times.sent(2, picture(1_100, 2, encode_ns=5, wait_ns=3), 1_110 * MS)
    times.drawn(2, told(1_118, 1_130, 1_134, 1_151), None, 1_160 * MS)
    assert times.latency_ns == 43 * MS and times.skew_ns is None and times.shown == 2
    assert round(sum(times.breakdown.values())) == times.latency_ns
    assert totals.pictures == 2 and sum(totals.ns.values()) == (41 + 51) * MS and totals.ns["draw"] == 24 * MS


def test_viewer_that_does_not_tell_when_a_picture_arrived_has_no_stages_of_its_own() -> None:
    times = PictureTimes(0, StageTotals())
    times.sent(1, picture(), 1_010 * MS)
    times.drawn(1, told(0, 1_030, 0, 1_041), None, 1_060 * MS)
    spent = {stage: ns // MS for stage, ns in times.breakdown.items()}
    assert spent["network"] == 20 and spent["decode"] == spent["sound"] == 0 and spent["draw"] == 11
    assert times.latency_ns == 41 * MS


def test_stages_never_overlap_whatever_the_encoder_says() -> None:
    times = PictureTimes(0, StageTotals())
    times.sent(1, picture(encode_ns=500, wait_ns=3, door_ns=700), 1_010 * MS)
    times.drawn(1, told(1_018, 1_030, 1_034, 1_041), None, 1_060 * MS)
    assert min(times.breakdown.values()) == 0 and sum(times.breakdown.values()) == times.latency_ns == 41 * MS


def test_picture_that_only_sharpens_or_brings_a_viewer_up_to_date_is_not_measured() -> None:
    times = PictureTimes(0, StageTotals())
    times.begin(1_005 * MS)
    times.sent(1, picture(), 1_010 * MS)
    times.drawn(1, told(1_020, 1_030, 1_030, 1_041), None, 1_060 * MS)
    assert times.latency_ns is None and times.shown == 1
    for serial, sent_ms in ((2, 1_110), (3, 1_310)):
        times.sent(serial, picture(1_100, 2), sent_ms * MS)
        times.drawn(serial, told(*[sent_ms + 10] * 4), None, (sent_ms + 20) * MS)
    assert times.latency_ns == 20 * MS


def test_picture_on_its_way_when_its_viewer_begins_anew_is_not_measured() -> None:
    times = PictureTimes(0, StageTotals())
    times.sent(1, picture(), 1_010 * MS)
    times.begin(1_020 * MS)
    assert times.drawn(1, told(*[31_000] * 4), 30_000 * MS, 31_000 * MS) is None
    assert times.latency_ns is None and times.skew_ns is None
    times.sent(2, picture(31_100, 2), 31_110 * MS)
    assert times.drawn(2, told(*[31_120] * 4), 6 * MS, 31_130 * MS) == 31_110 * MS and times.skew_ns == 6 * MS


def test_picture_that_is_sent_again_says_nothing_of_the_sound() -> None:
    times = PictureTimes(0, StageTotals())
    for serial, (painted_ms, number, skew_ms) in enumerate(((1_000, 1, 6), (1_000, 1, 301), (1_010, 2, 6)), 1):
        times.sent(serial, picture(painted_ms, number), 1_020 * MS)
        times.drawn(serial, told(*[1_030] * 4), skew_ms * MS, 1_060 * MS)
    assert times.skew_ns == 6 * MS


def test_replaced_picture_is_not_measured_and_keeps_the_skew() -> None:
    times = PictureTimes(0, StageTotals())
    for serial, drawn_ms in ((1, 1_030), (2, 0)):
        times.sent(serial, picture(1_000 + serial, serial), 1_010 * MS)
        times.drawn(serial, told(1_020, 1_020, 0, drawn_ms), 7 * MS if drawn_ms else None, 1_060 * MS)
    assert times.latency_ns == 29 * MS and times.skew_ns == 7 * MS and times.shown == 2


def test_skipped_pictures_are_those_between_two_that_were_sent() -> None:
    times = PictureTimes(0, StageTotals())
    for serial, number in enumerate((5, 6, 9, 9), 1):
        times.sent(serial, picture(1_000 + serial, number), 1_010 * MS)
    assert times.skipped == 2
    times.second(NS_PER_S, 1_000)
    assert (times.bitrate, times.fps, times.skipped_fps) == (8_000, 3.0, 2.0), "the last only sharpens the one before"
    times.begin(2 * NS_PER_S)
    times.sent(9, picture(2_100, 50), 2_200 * MS)
    times.sent(10, picture(2_200, 54), 2_300 * MS)
    times.second(3 * NS_PER_S, 2_000)
    assert (times.skipped, times.skipped_fps, times.fps, times.bitrate) == (5, 1.5, 1.0, 4_000), (
        "none of those from before it was sent a whole picture"
    )


def test_times_that_are_off_by_the_error_of_the_clock_are_cut() -> None:
    times = PictureTimes(0, StageTotals())
    times.sent(1, picture(), 1_010 * MS)
    times.drawn(1, told(1_008, 1_009, 1_030, 1_062), None, 1_060 * MS)
    assert times.latency_ns == 60 * MS and times.breakdown["network"] == times.breakdown["decode"] == 0


@pytest.mark.parametrize(
    "ms",
    [(0, 0, 0, 0), (0, 1_030, 0, 1_020), (0, 980, 0, 1_040), (0, 1_030, 0, 9_000), (1_031, 1_030, 0, 1_040),
     (1_020, 1_030, 1_025, 1_040), (1_020, 1_030, 1_045, 1_040)],
)  # fmt: skip
def test_impossible_times_of_a_viewer_are_left_out(ms: tuple[int, int, int, int]) -> None:
    times = PictureTimes(0, StageTotals())
    times.sent(1, picture(), 1_010 * MS)
    times.drawn(1, told(*ms), 10**15, 1_060 * MS)
    assert times.latency_ns is None and times.skew_ns is None and not times.breakdown


def test_times_of_pictures_without_answer_are_forgotten() -> None:
    times = PictureTimes(0, StageTotals())
    for serial in range(KEPT + 1):
        times.sent(serial, picture(1_000 + serial, serial), 2_000 * MS)
    times.drawn(0, told(*[2_003] * 4), None, 2_004 * MS)
    assert times.latency_ns is None
    times.drawn(KEPT, told(*[2_003] * 4), None, 2_004 * MS)
    assert times.latency_ns == (1_003 - KEPT) * MS


# -- counts --------------------------------------------------------------------------------------

AT = Rect(0, 0, 8, 8)
PARTS = (
    Part(PartType.ZSTD, AT, b"12345"), Part(PartType.MOVE, AT), Part(PartType.VIDEO, AT, b"123"),
    Part(PartType.DRAW, AT), Part(PartType.SHAPE, AT, b"1"),
)  # fmt: skip
TALLIES = {"zstd": Tally(1, 5), "move": Tally(1, 0), "video": Tally(2, 3)}


def test_parts_are_counted_by_kind_and_the_rest_of_a_video_with_it() -> None:
    assert tallied(PARTS) == TALLIES


def test_counts_add_up_and_recent_ones_are_those_of_the_last_second() -> None:
    counts = PictureCounts()
    for ms in (1, 3, 1_000):
        counts.encoded(ms * MS, ms == 3)
    for _ in range(2):
        counts.pushed(tallied(PARTS))
    counts.second()
    assert counts.recent is not None and counts.recent.made == 3 and counts.recent.kinds["zstd"] == Tally(2, 10)
    counts.pushed({"jpeg": Tally(1, 7)})
    counts.encoded(60 * MS, False)
    counts.second()
    recent = counts.recent
    assert (recent.made, recent.sent, recent.keys, recent.encode_ns) == (1, 1, 0, 60 * MS)
    assert recent.kinds == {"jpeg": Tally(1, 7)} and recent.buckets[ENCODE_MS.index(100)] == sum(recent.buckets) == 1
    other = PictureCounts()
    other.add(counts)
    other.add(counts)
    assert (other.made, other.keys, other.sent) == (8, 2, 6) and other.kinds["video"] == Tally(8, 12)
    assert counts.buckets == [1, 0, 1, 0, 0, 0, 1, 0, 1] and other.buckets == [2, 0, 2, 0, 0, 0, 2, 0, 2]
