"""Video of a SPICE screen: what is decoded, what passes through, and what is bounded."""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import pytest

from millrace.doors.spice.streams import DECODER_BYTES, RECT_BYTES, STREAM_BYTES, StampMap
from millrace.errors import BudgetError, GraphError, RemoteProtocolError
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
    limit = len(frames[0]) + len(frames[1])
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
    assert streamed == before + STREAM_BYTES + 60 * RECT_BYTES
    made.says(server.stream_data(4, 1000, server.jpeg(picture)))
    assert made.budget.held == streamed + WIDTH * HEIGHT * DECODER_BYTES
    made.says(server.message(125, struct.pack("<I", 4)))
    assert made.budget.held == before
    made = Machine(limit=1 << 20)
    made.says(server.surface(WIDTH, HEIGHT))
    with pytest.raises(BudgetError):
        for n in range(30):
            made.says(server.stream_create(n, WHOLE, 1), server.stream_data(n, 1000, server.jpeg(picture)))


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
