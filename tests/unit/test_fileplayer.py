"""A listener's sound in a file: packets land at their positions, and gaps become silence within limits."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from millrace.cli.listen import _Limit
from millrace.client.fileplayer import BEHIND_NS, SILENCE_MAX_S, FilePlayer
from millrace.codec.parameters import CodecParameters
from millrace.codec.pcm import encode_pcm
from millrace.dsp.convert import Samples
from millrace.media.audio import AudioPacket
from millrace.units import NS_PER_S, Frames, Positions, default_map
from tests import virtual

RATE, FRAMES = 48_000, 480


class File:
    """What was written, silence as zeros."""

    name = "file"

    def __init__(self) -> None:
        self.formats: list[tuple[int, Positions]] = []
        self.parts: list[Samples] = []
        self.closed = False

    def open(self, rate: int, positions: Positions) -> None:
        self.formats.append((rate, positions))

    def write(self, block: Samples) -> None:
        self.parts.append(block.copy())

    def skip(self, frames: Frames) -> None:
        self.parts.append(np.zeros((frames, 1), np.float32))

    def close(self) -> None:
        self.closed = True

    @property
    def sound(self) -> list[float]:
        return [float(frame) for part in self.parts for frame in part[:, 0]]


class Scene:
    """Packets of a ramp: the value of each frame is its position in units of 2⁻²⁰."""

    def __init__(self) -> None:
        self.file = File()
        self.player = FilePlayer(self.file)
        self.sequence = 0
        self.now_ns = 0
        self.format(1)

    def format(self, generation: int) -> None:
        self.player.set_format(CodecParameters(generation, "f32", RATE, list(default_map(1))))

    def push(self, position: Frames, generation: int = 1, lost: int = 0) -> None:
        self.sequence += 1 + lost
        payload = encode_pcm("f32", ramp(position)[:, None])
        self.player.push(AudioPacket(generation, FRAMES, self.sequence, position, 0, payload), self.now_ns)


def ramp(start: Frames, frames: Frames = FRAMES) -> Samples:
    return np.arange(start, start + frames, dtype=np.float32) / 2**20


def test_packets_before_a_format_are_left_out() -> None:
    file = File()
    FilePlayer(file).push(AudioPacket(1, FRAMES, 1, 0, 0, bytes(4 * FRAMES)), 0)
    assert not file.parts and not file.formats


def test_packets_follow_each_other_and_gaps_are_silence() -> None:
    scene = Scene()
    scene.push(1_000)
    scene.push(1_000 + FRAMES)
    scene.player.silence()
    scene.push(1_000 + 4 * FRAMES)
    assert scene.file.sound == [*ramp(1_000, 2 * FRAMES), *[0.0] * (2 * FRAMES), *ramp(1_000 + 4 * FRAMES)]
    assert scene.player.played_frames == 5 * FRAMES and scene.player.lost_packets == 0
    scene.player.close(0)
    assert scene.file.closed and scene.file.formats == [(RATE, default_map(1))]


def test_overlapping_packets_add_only_what_is_new() -> None:
    scene = Scene()
    scene.push(1_000)
    scene.push(1_000 + FRAMES // 3)
    scene.push(1_000)
    scene.push(1_000 + FRAMES)
    assert scene.file.sound == [*ramp(1_000, 2 * FRAMES)]


def test_gap_is_no_longer_than_the_time_that_passed() -> None:
    """A peer may claim any gap: else one packet would fill the disk."""
    scene = Scene()
    scene.push(0)
    scene.push((SILENCE_MAX_S + 1) * RATE)
    assert scene.player.played_frames == 2 * FRAMES, "a gap that is too long is left out"
    at = (SILENCE_MAX_S + 1) * RATE
    for number in range(1, 20):
        scene.push(at + number * (SILENCE_MAX_S // 2) * RATE)
    assert scene.player.played_frames <= SILENCE_MAX_S * RATE + 25 * FRAMES, "no time has passed"
    filled = scene.player.played_frames
    scene.now_ns = 3600 * NS_PER_S
    scene.push(at + 20 * (SILENCE_MAX_S // 2) * RATE)
    assert scene.player.played_frames > filled + SILENCE_MAX_S // 3 * RATE


def test_lost_packets_are_counted_over_formats() -> None:
    scene = Scene()
    scene.push(0)
    scene.push(3 * FRAMES, lost=2)
    assert scene.player.lost_packets == 2
    scene.format(2)
    scene.push(4 * FRAMES, generation=2)
    scene.push(6 * FRAMES, generation=2, lost=1)
    assert scene.player.lost_packets == 3 and len(scene.file.formats) == 2


SECOND = NS_PER_S


def test_silence_before_between_and_after_is_in_its_place() -> None:
    scene = Scene()
    scene.player.begin(0)
    scene.player.begin(9 * SECOND)
    scene.now_ns = 2 * SECOND
    scene.push(70_000)
    scene.player.silence()
    scene.player.close(8 * SECOND)
    sound = scene.file.sound
    assert len(sound) == scene.player.played_frames == 8 * RATE
    assert sound[2 * RATE - FRAMES : 2 * RATE] == [*ramp(70_000)] and sum(map(bool, sound)) == FRAMES


def test_a_silent_recording_is_as_long_as_it_took_and_grows_meanwhile() -> None:
    scene = Scene()
    scene.player.begin(0)
    for at in range(0, 3601, 2):
        scene.player.passed(at * SECOND)
        behind_s = at - scene.player.played_frames / RATE
        assert behind_s <= 2 * BEHIND_NS / NS_PER_S and max(map(len, scene.file.parts), default=0) <= 22 * RATE
        scene.file.parts.clear()
    scene.player.close(3601 * SECOND)
    assert scene.player.played_frames == 3601 * RATE


def test_a_pause_of_minutes_ends_at_the_next_packets_position() -> None:
    scene = Scene()
    scene.player.begin(0)
    scene.now_ns = 10_000_000
    scene.push(0)
    scene.player.silence()
    # The daemon's clock is 100 ppm faster than this one.
    for at in range(0, 601, 2):
        scene.player.passed(at * SECOND)
    scene.now_ns = 600 * SECOND
    scene.push(600 * RATE + 600 * RATE // 10_000)
    assert scene.player.played_frames == 600 * RATE + 600 * RATE // 10_000 + FRAMES
    assert scene.file.sound[-FRAMES:] == [*ramp(600 * RATE + 600 * RATE // 10_000)]


def test_the_time_without_a_connection_is_silence_whatever_the_positions_are_then() -> None:
    scene = Scene()
    scene.player.begin(0)
    scene.now_ns = 10_000_000
    scene.push(900_000)
    scene.player.apart()
    scene.player.passed(3 * SECOND)
    scene.format(2)
    scene.now_ns = 4 * SECOND
    scene.push(480, generation=2)
    scene.push(960, generation=2)
    assert scene.file.sound[4 * RATE - FRAMES :] == [*ramp(480), *ramp(960)]
    # A late packet of a connection that stalls is not pushed aside by silence.
    scene.player.passed(60 * SECOND)
    scene.push(1440, generation=2)
    assert scene.file.sound[4 * RATE - FRAMES :] == [*ramp(480, 3 * FRAMES)]


def test_seconds_count_from_the_joining() -> None:
    """Until it has joined they count from the start; a later connection changes nothing."""

    async def stopped(joins_s: list[float]) -> float:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        limit = _Limit(8 * NS_PER_S)
        limit.begin(done.set)
        began = loop.time()
        for at in joins_s:
            await asyncio.sleep(began + at - loop.time())
            limit.joined(1)
        await done.wait()
        return loop.time() - began

    for joins_s, ends_s in (([], 8), ([3], 11), ([3, 7], 11)):
        assert virtual.run(stopped(joins_s)) == pytest.approx(ends_s, abs=0.01)
