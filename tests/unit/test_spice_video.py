"""Video of a SPICE screen: what is decoded, what passes through, and what is bounded."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from millrace.budget import MACHINES, PROGRAMS
from millrace.doors.spice import streams
from millrace.doors.spice.screen import STEP_COST
from millrace.doors.spice.stamps import StampMap
from millrace.doors.spice.streams import (
    CATCH_UP,
    DECODE_COST,
    DECODER_BYTES,
    FRAME_BYTES,
    PASSED_PARTS_MAX,
    RECT_BYTES,
    STREAM_BYTES,
    WAITING_BYTES,
)
from millrace.errors import GraphError, RemoteProtocolError
from millrace.graph.tracks import TRACKS_MAX
from millrace.media.format import VideoFormat
from millrace.media.packet import End, Kind, Packet, Parameters
from millrace.pixels.rects import Rect
from millrace.units import NS_PER_MS, NS_PER_S
from tests.fuzz import spiceserver as server
from tests.gops import WATCHER
from tests.spicemachine import HEIGHT, WHOLE, WIDTH, Machine, Sink, machine
from tests.spicewire import noise, sent


def smooth(seed: int = 0) -> server.Pixels:
    """A picture that survives 4:2:0."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 216, (4, 6, 4), np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    return np.ascontiguousarray(coarse)


def close_to(one: server.Pixels, other: server.Pixels) -> bool:
    return float(np.abs(one[:, :, :3].astype(int) - other[:, :, :3]).mean()) < 8


def test_mjpeg_is_decoded_into_the_screen() -> None:
    made, picture = machine(), smooth()
    made.watch()
    clip = [Rect(0, 0, WIDTH, 32)]
    made.says(server.stream_create(4, WHOLE, 1, clip), server.stream_data(4, 1000, server.jpeg(picture)))
    assert close_to(made.watch()[:32], picture[:32]) and not close_to(made.watch()[32:], picture[32:])
    made.says(
        server.message(124, struct.pack("<I", 4) + server.clip(None)), server.stream_data(4, 1040, server.jpeg(picture))
    )
    assert close_to(made.watch(), picture) and made.door.screen is not None and not made.door.screen.overlays
    half = Rect(0, 0, 48, 32)
    made.says(server.stream_data_sized(4, 1080, half, Rect(0, 0, WIDTH, HEIGHT), server.jpeg(picture)))
    assert close_to(made.watch()[:32, :48], picture[::2, ::2])
    made.says(server.message(125, struct.pack("<I", 4)), server.stream_data(4, 1120, b"of no stream any more"))
    for data in (b"", b"no jpeg", server.jpeg(picture)[:40], server.jpeg(noise(200, 200))):
        with pytest.raises(RemoteProtocolError, match="SPICE video can't be decoded"):
            made.says(server.stream_create(4, WHOLE, 1), server.stream_data(4, 1160, data))


def test_vp8_passes_through_as_a_track_below_an_overlay() -> None:
    made, frames = machine(), server.vp8(smooth(), 6)
    made.watch()
    assert made.door.screen is not None and made.reader is not None
    at = Rect(8, 4, WIDTH - 16, HEIGHT - 8)
    made.says(server.stream_create(4, at, 2, size=WHOLE), server.stream_data(4, 5000, frames[0]))
    (track,) = made.tracks
    (lying,) = made.door.screen.overlays
    assert lying.track == track.info.key and lying.at == at and made.tracks.find(lying.track) is track
    made.reader.set_leave_out(frozenset({lying.track}))
    sink, painted = Sink(), made.painted
    track.join(sink, WATCHER, made.now_ns)
    for n, frame in enumerate(frames[1:]):
        made.says(server.stream_data(4, 5040 + 40 * n, frame))
    assert isinstance(sink.items[0], Parameters) and sink.items[0].format == VideoFormat(WIDTH, HEIGHT)
    packets = [item for item in sink.items if isinstance(item, Packet)]
    assert [packet.payload for packet in packets] == frames and (made.painted == painted).all()
    assert all(packet.pts_ns < later.pts_ns <= packet.pts_ns + 40 * NS_PER_MS for packet, later in pairwise(packets))
    made.says(server.message(124, struct.pack("<I", 4) + server.clip([Rect(0, 0, 40, 40)])))
    assert made.door.screen.overlays[0].clip == (Rect(8, 4, 32, 36),)
    made.says(server.message(126))
    assert not made.door.screen.overlays and not list(made.tracks) and made.tracks.find(lying.track) is None
    assert isinstance(sink.items[-1], End)


@pytest.mark.parametrize("tracks", [True, False])
def test_vp8_is_decoded_for_a_viewer_that_cannot_compose_it(tracks: bool) -> None:
    made, picture = machine(tracks=tracks), smooth()
    frames = server.vp8(picture, 30)
    made.says(server.stream_create(4, WHOLE, 2), *(server.stream_data(4, 40 * n, frames[n]) for n in range(10)))
    if tracks:
        assert not close_to(made.painted, np.roll(picture, 9, axis=1)), "nobody looks"
    made.watch()
    for n in range(10, 14):
        made.says(server.stream_data(4, 40 * n, frames[n]))
    assert close_to(made.watch(), np.roll(picture, 13, axis=1))
    held = made.budget.held
    made.door.close()
    assert made.budget.held < held


def test_a_column_of_a_screen_is_no_track_of_its_own() -> None:
    made, picture = machine(), smooth()[:, :32]
    column = Rect(32, 0, 32, HEIGHT)
    made.says(server.stream_create(4, column, 2), server.stream_data(4, 0, server.vp8(picture, 1)[0]))
    assert not list(made.tracks) and made.door.screen is not None and not made.door.screen.overlays
    assert close_to(made.painted[:, 32:64], picture)


def test_frames_for_the_decoder_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    made, frames = machine(), server.vp8(noise(WIDTH, HEIGHT), 12)
    limit = len(frames[0]) + len(frames[1]) + 2 * FRAME_BYTES
    monkeypatch.setattr("millrace.doors.spice.streams.UNDECODED_BYTES", limit)
    before = made.budget.shares()["connection"]
    made.says(server.stream_create(4, WHOLE, 2))
    held = []
    for n, frame in enumerate(frames):
        made.says(server.stream_data(4, 40 * n, frame))
        held.append(made.budget.shares()["connection"] - before)
    held = [size - STREAM_BYTES - RECT_BYTES for size in held]
    assert held[1] == limit < sum(map(len, frames)) and held[2:] == [0] * 10
    before = made.painted
    made.watch()
    made.says(server.stream_data(4, 600, frames[3]))
    assert (made.painted == before).all(), "without its key it waits for the next one"
    made.says(server.stream_data(4, 640, frames[0]))
    assert not (made.painted == before).all()


def test_decoders_and_clips_of_streams_are_charged() -> None:
    made, picture = machine(), smooth()
    before, clip = made.budget.held, [Rect(n, 0, 1, 1) for n in range(60)]
    made.says(server.stream_create(4, WHOLE, 1, clip))
    streamed = made.budget.held
    assert streamed == before + STREAM_BYTES + 60 * (RECT_BYTES + 16)
    made.says(server.stream_data(4, 1000, server.jpeg(picture)))
    assert made.budget.held == streamed + WIDTH * HEIGHT * DECODER_BYTES
    made.says(server.message(125, struct.pack("<I", 4)))
    assert made.budget.held == before


def test_frames_without_bytes_to_speak_of_are_counted_too() -> None:
    made, key = machine(), server.vp8(smooth(), 1)[0]
    made.says(server.stream_create(4, WHOLE, 2), server.stream_data(4, 0, key))
    before = made.budget.shares()["connection"]
    made.says(*(server.stream_data(4, n, b"\1") for n in range(2000)))
    assert made.budget.shares()["connection"] == before + 2000 * (1 + FRAME_BYTES)
    passed = made.door._videos._streams[4].passed
    assert passed is not None and passed.undecoded_bytes == len(key) + FRAME_BYTES + 2000 * (1 + FRAME_BYTES)


@pytest.mark.parametrize("frame", [b"", b"\0", b"\0\0\0\x9d\x01\x2b" + bytes(9)])
def test_what_can_be_no_frame_is_not_passed_on(frame: bytes) -> None:
    made, sink = machine(), Sink()
    made.says(server.stream_create(4, WHOLE, 2), server.stream_data(4, 0, server.vp8(smooth(), 1)[0]))
    (track,) = made.tracks
    track.join(sink, WATCHER, made.now_ns)
    before = len(sink.items)
    with pytest.raises(RemoteProtocolError, match="SPICE video can't be decoded"):
        made.says(server.stream_data(4, 40, frame))
    assert len(sink.items) == before


def test_what_is_decoded_at_once_to_catch_up_is_decoded_in_steps() -> None:
    made, frames = machine(), server.vp8(smooth(), 30)
    made.says(server.stream_create(4, WHOLE, 2), *(server.stream_data(4, 40 * n, frames[n]) for n in range(10)))
    made.watch()
    assert made.says(server.stream_data(4, 400, frames[10])) >= CATCH_UP * DECODE_COST // STEP_COST


def test_decoder_of_a_video_that_passes_through_goes_when_nobody_needs_it() -> None:
    made, frames = machine(), server.vp8(smooth(), 1) * 4
    made.watch()
    assert made.reader is not None and made.door.screen is not None
    made.says(server.stream_create(4, WHOLE, 2), server.stream_data(4, 0, frames[0]))
    held = made.budget.held
    made.says(server.stream_data(4, 40, frames[1]))
    assert made.budget.held >= held + WIDTH * HEIGHT * DECODER_BYTES - len(frames[0]) - FRAME_BYTES
    made.reader.set_leave_out(frozenset({made.door.screen.overlays[0].track}))
    made.says(server.stream_data(4, 80, frames[2]))
    assert made.budget.held <= held


# -- where they lie --------------------------------------------------------------------------------


def lying(made: Machine) -> list[tuple[Rect, tuple[Rect, ...]]]:
    """The overlays of the screen."""
    assert made.door.screen is not None
    return [(one.at, one.clip) for one in made.door.screen.overlays]


def clipped(number: int, parts: list[Rect]) -> bytes:
    return server.message(124, struct.pack("<I", number) + server.clip(parts))


def test_clip_that_would_draw_a_video_again_and_again_is_refused() -> None:
    made = machine()
    made.says(server.stream_create(4, WHOLE, 2), clipped(4, [Rect(0, 0, 40, 64), Rect(40, 0, 56, 64)]))
    assert lying(made) == [(WHOLE, (Rect(0, 0, 40, 64), Rect(40, 0, 56, 64)))]
    with pytest.raises(RemoteProtocolError, match="overlap"):
        made.says(clipped(4, [WHOLE] * 2))


def test_overlays_are_made_anew_only_if_they_have_changed() -> None:
    made, parts = machine(), [Rect(8 * n, 0, 4, 4) for n in range(8)]
    made.says(server.stream_create(4, WHOLE, 2, parts))
    assert made.door.screen is not None
    before = made.door.screen.overlays
    made.says(server.draw_fill(WHOLE, 1), server.stream_data(4, 0, server.vp8(smooth(), 1)[0]))
    assert made.door.screen.overlays is before
    made.says(server.heads(Rect(16, 8, 40, 30)))
    assert lying(made)[0][0] == WHOLE.moved(-16, -8)
    made.says(server.message(125, struct.pack("<I", 4)))
    assert not lying(made)


def test_video_that_is_seen_in_many_parts_is_decoded() -> None:
    made, picture = machine(), smooth()
    parts = [Rect(n, 0, 1, HEIGHT) for n in range(PASSED_PARTS_MAX + 1)]
    frames = server.vp8(picture, 30)
    made.says(server.stream_create(4, WHOLE, 2), server.stream_data(4, 0, frames[0]))
    assert len(lying(made)) == 1
    made.says(clipped(4, parts), server.stream_data(4, 40, frames[1]))
    assert not lying(made) and close_to(made.painted[:, :64], np.roll(picture, 1, axis=1)[:, :64])
    made.says(clipped(4, parts[1:]))
    assert len(lying(made)) == 1


def test_picture_of_another_size_and_place_takes_the_video_there_and_back() -> None:
    made, small, large = machine(), server.vp8(smooth(), 1)[0], server.vp8(smooth().repeat(2, axis=0), 1)[0]
    at, elsewhere = Rect(0, 0, 64, 40), Rect(10, 8, 80, 48)
    made.watch()
    made.says(server.stream_create(4, at, 2, [Rect(0, 0, 70, 50)], size=WHOLE), server.stream_data(4, 0, small))
    assert lying(made) == [(at, ())]
    tall = Rect(0, 0, WIDTH, 2 * HEIGHT)
    made.says(server.stream_data_sized(4, 40, elsewhere, tall, large))
    assert lying(made) == [(elsewhere, (Rect(10, 8, 60, 42),))], "what covers it covers it there"
    assert close_to(made.painted[8:50, 10:70], streams_stretched(large, elsewhere)[:42, :60])
    made.says(server.stream_data(4, 80, small))
    assert lying(made) == [(at, ())]


def streams_stretched(frame: bytes, at: Rect) -> server.Pixels:
    """What a frame shows in a box, by nearest pixels."""
    pixels = streams.PictureDecoder("vp8", 1 << 20).decode(frame)
    assert pixels is not None
    high, wide = pixels.shape[:2]
    rows, columns = np.arange(at.height) * high // at.height, np.arange(at.width) * wide // at.width
    return pixels[rows[:, None], columns]


@pytest.mark.parametrize("again", [[], [server.surface(50, 40)]])
def test_videos_of_a_surface_go_with_it(again: list[bytes]) -> None:
    made, sink = machine(), Sink()
    made.says(server.stream_create(4, WHOLE, 2), server.stream_data(4, 0, server.vp8(smooth(), 1)[0]))
    (track,) = made.tracks
    track.join(sink, WATCHER, made.now_ns)
    made.says(*(again or [server.destroy()]))
    assert isinstance(sink.items[-1], End) and not lying(made)
    made.says(server.stream_data(4, 40, b"of no stream any more"))


# -- without room ----------------------------------------------------------------------------------


def filled(made: Machine, left: int) -> Any:
    """Somebody else leaves so many bytes of the guest's memory; returns the account."""
    return made.budget.open("other", {"all": int(made.budget.limit * PROGRAMS) - made.budget.held - left})


def test_video_without_room_is_left_out_and_costs_no_channel() -> None:
    made, picture = machine(), smooth()
    frames = server.vp8(picture, 30)
    made.watch()
    other = filled(made, 1000)
    made.says(server.stream_create(4, WHOLE, 2), server.stream_data(4, 0, frames[0]))
    assert "no room in the guest's memory for a video of 96 × 64" in made.door.trouble and not lying(made)
    made.says(server.message(125, struct.pack("<I", 4)))
    assert not made.door.trouble
    other.close()
    # There is room for it, and then none to decode it.
    other = filled(made, 20_000 + sum(map(len, frames[:3])))
    made.says(server.stream_create(4, WHOLE, 2), *(server.stream_data(4, 40 * n, frames[n]) for n in range(3)))
    assert "no room" in made.door.trouble and not close_to(made.painted, np.roll(picture, 2, axis=1))
    made.says(server.draw_fill(Rect(0, 0, 8, 8), 0x102030))
    assert made.painted[0, 0, 0] == 0x30, "all else is drawn"
    other.close()
    for n in range(3, 6):
        made.says(server.stream_data(4, 40 * n, frames[n]))
    assert close_to(made.painted, np.roll(picture, 5, axis=1)) and not made.door.trouble and not made.missed


@pytest.mark.parametrize("codec", ["vp8", "mjpeg"])
@pytest.mark.parametrize("lacks", ["create", "clip"])
def test_video_without_room_begins_when_there_is_some(codec: str, lacks: str) -> None:
    """With its newest clip and the reports that were asked for, at a frame that needs none before it."""
    made, picture = machine(), smooth()
    frames = server.vp8(picture, 2) if codec == "vp8" else [server.jpeg(picture)] * 2
    made.watch()
    begins = server.stream_create(4, WHOLE, 2 if codec == "vp8" else 1), server.stream_data(4, 0, frames[0])
    many = [Rect(x, y, 4, 4) for x in range(0, 96, 8) for y in range(0, 64, 8)]
    if lacks == "clip":
        made.says(*begins)
    other = filled(made, 100)
    made.budget.open("film").may_spare(lambda: asked.append(1))
    asked: list[int] = []
    made.says(*(begins if lacks == "create" else ()), clipped(4, many))
    others = [other, filled(made, 100)]
    why, demands = made.door.trouble, len(asked)
    assert "no room in the guest's memory for a video of 96 × 64" in why and not lying(made)
    wanted = server.message(319, struct.pack("<4I", 4, 1, 1, 1000))
    made.says(wanted, clipped(4, [Rect(0, 0, 96, 32)]), *(server.stream_data(4, 40 * n, frames[0]) for n in (1, 2)))
    assert made.door.trouble == why and len(asked) == demands, "to ask again takes nothing from anybody"
    for other in others:
        other.close()
    sent(made.wire)
    made.says(server.stream_data(4, 120, frames[1]))
    assert bool(made.door.trouble) == (codec == "vp8"), "a frame that needs one before it begins nothing"
    made.says(server.draw_fill(WHOLE, 1), server.stream_data(4, 160, frames[0]))
    assert not made.door.trouble and not made.missed and sent(made.wire), "it reports"
    if codec == "vp8":
        assert lying(made) == [(WHOLE, (Rect(0, 0, 96, 32),))]
    else:
        assert close_to(made.watch()[:32], picture[:32]) and not close_to(made.watch()[32:], picture[32:])
    made.says(server.message(125, struct.pack("<I", 4)))
    assert not made.door._videos._streams and not {"video", "waiting"} & made.door._account.parts.keys()


def test_videos_that_wait_are_charged_and_go_with_their_surface() -> None:
    made = machine()
    made.says(server.surface(64, 64, 7))
    held, other = made.budget.held, filled(made, 0)
    made.says(*(server.stream_create(number, WHOLE, 1, surface=number * 7) for number in (0, 1)))
    waiting = made.door._videos._waiting
    assert set(waiting) == {0, 1} and made.budget.held - other.held - held == 2 * WAITING_BYTES
    made.says(server.destroy(7))
    assert set(waiting) != set(made.door._videos._waiting) == {0} and made.door.trouble
    made.budget.open("all", {"": int(made.budget.limit * MACHINES) - made.budget.held - 100}, MACHINES)
    made.says(clipped(0, [Rect(x, 0, 4, 4) for x in range(0, 96, 8)]))
    assert not made.door._videos._waiting and made.door.trouble
    made.says(server.stream_data(0, 0, server.jpeg(smooth())))
    assert made.door.trouble and not made.missed


def test_video_without_room_that_is_no_track_goes_on_with_its_next_key_frame() -> None:
    made, picture = machine(tracks=False), smooth()
    frames = server.vp8(picture, 4)
    other = filled(made, 2 * STREAM_BYTES)
    made.says(server.stream_create(4, WHOLE, 2), server.stream_data(4, 0, frames[0]))
    assert "no room" in made.door.trouble
    made.budget.open("film").may_spare(lambda: pytest.fail("a question is no demand"))
    made.says(server.stream_data(4, 20, frames[0]))
    other.close()
    before = made.painted
    made.says(server.stream_data(4, 40, frames[1]))
    assert (made.painted == before).all()
    made.says(server.stream_data(4, 80, frames[0]), server.stream_data(4, 120, frames[1]))
    assert close_to(made.painted, np.roll(picture, 1, axis=1)) and not made.door.trouble


def test_frames_that_have_no_room_are_not_kept_and_passed_on_all_the_same() -> None:
    made, frames, sink = machine(), server.vp8(noise(WIDTH, HEIGHT), 6), Sink()
    made.says(server.stream_create(4, WHOLE, 2))
    (track,) = made.tracks
    track.join(sink, WATCHER, made.now_ns)
    filled(made, len(frames[0]) + len(frames[1]))
    made.says(*(server.stream_data(4, 40 * n, frame) for n, frame in enumerate(frames)))
    assert [item.payload for item in sink.items if isinstance(item, Packet)] == frames
    passed = made.door._videos._streams[4].passed
    assert passed is not None and not passed.undecoded_bytes and not made.missed


def test_video_for_which_there_is_no_track_is_decoded() -> None:
    made, picture = machine(), smooth()
    for _ in range(TRACKS_MAX):
        made.tracks.add(Kind.VIDEO)
    made.says(server.stream_create(4, WHOLE, 2), server.stream_data(4, 0, server.vp8(picture, 1)[0]))
    assert not lying(made) and close_to(made.painted, picture)


def test_video_that_is_too_large_to_decode_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "DECODED_PIXELS_MAX", WIDTH * HEIGHT - 1)
    made, frame = machine(), server.vp8(smooth(), 1)[0]
    made.watch()
    before = made.painted
    made.says(server.stream_create(4, WHOLE, 2), *(server.stream_data(4, 40 * n, frame) for n in range(3)))
    assert "a video of 6144 pixels is not decoded" in made.door.trouble and (made.painted == before).all()
    assert len(lying(made)) == 1, "viewers may draw it"
    assert made.reader is not None and made.door.screen is not None
    made.reader.set_leave_out(frozenset({made.door.screen.overlays[0].track}))
    made.says(server.stream_data(4, 200, frame))
    assert not made.door.trouble


def test_impossible_streams_are_refused() -> None:
    for messages in (
        [server.stream_create(1, WHOLE, 3)], [server.stream_create(n, WHOLE, 1) for n in range(300)],
        [server.stream_create(1, WHOLE, 2), server.stream_data(1, 0, b"\1abc")],
    ):  # fmt: skip
        made = machine(tracks=False)
        with pytest.raises(RemoteProtocolError):
            made.says(*messages)


def test_server_gets_the_reports_that_it_asked_for() -> None:
    made, frame = machine(), server.jpeg(smooth())
    made.says(server.stream_create(4, WHOLE, 1), server.message(319, struct.pack("<4I", 4, 99, 3, 1000)))
    sent(made.wire)
    for n in range(3):
        made.says(server.stream_data(4, 1000 + 22 * n, frame))
    ((kind, body),) = sent(made.wire)
    assert kind == 102 and struct.unpack("<IIIIIIiI", body) == (4, 99, 1000, 1044, 3, 0, 400, 0xFFFFFFFF)
    made.now_ns += 2 * NS_PER_S
    made.says(server.stream_data(4, 3000, frame))
    assert not sent(made.wire)


def test_stamps_are_mapped_to_host_time_less_what_waited() -> None:
    stamps, begin = StampMap(), 100 * NS_PER_S
    first = (1 << 32) - 60
    made = [
        stamps.host_ns((first + 40 * n) % (1 << 32), begin + (40 * n + late) * NS_PER_MS)
        for n, late in enumerate((0, 30, 5, 0, 12))
    ]
    assert [later - before for before, later in pairwise(made)] == [40 * NS_PER_MS] * 4
    assert made[0] == begin
    faster = stamps.host_ns((first + 200) % (1 << 32), begin + 195 * NS_PER_MS)
    assert made[-1] < faster == begin + 195 * NS_PER_MS
    jumped = stamps.host_ns(77_000_000, begin + 500 * NS_PER_MS)
    assert jumped == begin + 500 * NS_PER_MS


def test_tracks_of_a_guest_are_bounded() -> None:
    made = Machine()
    for _ in range(TRACKS_MAX):
        made.tracks.add(Kind.VIDEO)
    with pytest.raises(GraphError, match="the maximum"):
        made.tracks.add(Kind.VIDEO)
