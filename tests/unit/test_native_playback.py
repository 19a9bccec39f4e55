"""A native playback stream: nobody who follows the ring's rules waits for ever, whenever the other side writes."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from millrace.doors.native.playback import NativePlayback
from millrace.doors.native.state import PlaybackState
from millrace.dsp.convert import SampleFormat
from millrace.graph.model import Stream
from millrace.media.format import AudioFormat
from millrace.sim.rig import Rig
from millrace.units import Frames, default_map
from millrace.wire.native.ring import Ring, ring_bytes

FORMAT = AudioFormat(SampleFormat.F32LE, 48_000, default_map(2))
TARGET = 9600


class RacedRing(Ring):
    """A ring whose client writes `late` frames at the last moment at which it can't see that the reader waits."""

    late: Frames = 0

    @property
    def reader_waits(self) -> bool:
        return super().reader_waits

    @reader_waits.setter
    def reader_waits(self, waits: bool) -> None:
        if waits and not super().reader_waits:
            late, self.late = self.late, 0
            self.append(late)
        Ring.reader_waits.fset(self, waits)  # type: ignore[attr-defined]

    def append(self, frames: Frames) -> None:
        self.put(self.written, memoryview(np.full((frames, 2), 0.5, np.float32).tobytes()))
        self.written += frames


class Scene(Rig):
    """A stream and its client, which rings only where it must, as docs/native.md says."""

    def __init__(self, state: PlaybackState | None = None) -> None:
        super().__init__()
        self.told: list[str] = []
        self.ring = RacedRing(mmap.mmap(-1, ring_bytes(TARGET, FORMAT.frame_bytes)), TARGET, FORMAT.frame_bytes)
        self.node = Stream(self.graph.ids.take(), "film", FORMAT.positions)
        self.graph.add_stream(self.node, self.sink)
        self.stream = NativePlayback(
            self.graph, self.node, state or PlaybackState(FORMAT, TARGET), self.ring, lambda: None,
            lambda what, why: self.told.append(what), lambda: None,
        )  # fmt: skip
        self.heard = self.capture()

    def write(self, frames: Frames) -> None:
        self.ring.append(frames)
        if self.ring.reader_waits:
            Ring.reader_waits.fset(self.ring, False)  # type: ignore[attr-defined]
            self.stream.resume()

    @property
    def played(self) -> Frames:
        """Frames that were mixed."""
        return int(np.count_nonzero(self.heard.sound[:, 0]))


def test_start_in_small_writes_is_noticed() -> None:
    scene = Scene()
    for _ in range(48):
        scene.write(100)
    scene.run(1)
    assert scene.played == 4800


def test_write_during_flush_is_played() -> None:
    scene = Scene()
    scene.write(TARGET)
    scene.run(0.01)
    before = scene.played
    scene.ring.late = 6000
    scene.stream.flush()
    scene.run(1)
    assert scene.played - before == 6000


def test_write_at_end_of_drain_is_played() -> None:
    scene = Scene()
    scene.write(1000)
    scene.ring.late = 6000
    scene.stream.drain()
    scene.run(1)
    assert scene.told[0] == "drained" and scene.played == 7000


# After 6,240 frames the last 480 are in the graph when the ring is empty; after 5,000 frames nothing is left anywhere.
@pytest.mark.parametrize("frames", [5000, 6240])
@pytest.mark.parametrize("hold", ["cork", "suspend"])
def test_paused_stream_with_empty_ring_continues(hold: str, frames: Frames) -> None:
    scene = Scene()
    scene.write(frames)
    while scene.stream.fill:
        scene.run(0.005)
    assert scene.node.active
    for on in (True, False):
        scene.stream.cork(on) if hold == "cork" else scene.graph.suspend(scene.sink, on)
    if hold == "suspend":
        scene.stream.resume()
    scene.run(0.5)
    assert scene.played == frames
    scene.write(4800)
    scene.run(0.5)
    assert scene.played == frames + 4800


def test_drain_of_corked_empty_stream_ends_when_uncorked() -> None:
    scene = Scene()
    scene.stream.cork(True)
    scene.stream.drain()
    assert scene.told == []
    scene.stream.cork(False)
    assert scene.told == ["drained"]


def test_drain_with_nothing_queued_ends_though_its_sink_is_suspended() -> None:
    scene = Scene()
    scene.graph.suspend(scene.sink, True)
    scene.stream.drain()
    assert scene.told == ["drained"]


def test_drain_after_underrun_plays_the_resamplers_tail() -> None:
    scene = Scene(PlaybackState(AudioFormat(SampleFormat.F32LE, 44_100, default_map(2)), TARGET))
    scene.write(4800)
    scene.run(0.5)
    before = scene.played
    assert scene.told == ["underrun"]
    scene.stream.drain()
    scene.run(0.5)
    assert scene.told == ["underrun", "drained"] and scene.played > before
