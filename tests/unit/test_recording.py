"""Recordings and other files of a viewer, read back with FFmpeg's libraries."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from millrace.client.canvas import Canvas
from millrace.client.recording import RecordedSound, Recording
from millrace.client.steps import CursorShape, Paint, Shift
from millrace.client.stills import PngFile, Y4mStream, planes_of, y4m_file
from millrace.codec.opus import OpusEncoder
from millrace.codec.parameters import CodecParameters
from millrace.codec.settings import CodecSettings
from millrace.dsp.measure import tone_onsets
from millrace.errors import ConfigError, MillraceError, OutputLost
from millrace.media.audio import AudioPacket
from millrace.pixels.blockcode import read
from millrace.pixels.difference import part_of
from millrace.pixels.rects import Rect, Size
from millrace.sim.desktop import CODE, Desktop
from millrace.sim.painted import CLICK_HZ, CLICK_S, click
from millrace.units import NS_PER_MS, NS_PER_S
from millrace.wire.peer.pictures import CursorChanged
from tests.places import small_disk

SIZE = Size(560, 160)
START = 400 * 86_400 * NS_PER_S
STEREO = CodecParameters(1, "opus", 48_000, ["front-left", "front-right"], 312)


class Clock:
    """The daemon's clock, which stands unless it is moved."""

    def __init__(self) -> None:
        self.now_ns = START

    def __call__(self) -> int:
        return self.now_ns


async def encoded(recording: Recording) -> None:
    """Wait until nothing is being encoded."""
    while recording._encoding is not None and not recording._encoding.done():
        await asyncio.sleep(0.001)
    await asyncio.sleep(0)


def record(
    path: Path, work: Callable[[Recording, Canvas, Clock], Any], sound: bool = True, replace: bool = True,
    named: Callable[[Path], None] = lambda path: None,
) -> list[MillraceError]:  # fmt: skip
    """Run `work` with a recording; returns what ended it."""
    errors: list[MillraceError] = []

    async def main() -> None:
        clock = Clock()
        canvas, recording = Canvas(), Recording(path, sound, clock, errors.append, replace, named)
        canvas.resize(SIZE)
        recording.resized(canvas)
        await work(recording, canvas, clock)
        recording.close()

    asyncio.run(main())
    return errors


def pictures(path: Path) -> list[tuple[int, np.ndarray]]:
    """(ms, grey picture) of each."""
    with av.open(str(path)) as file:
        return [(round(f.time * 1000), f.to_ndarray(format="gray")) for f in file.decode(video=0)]


def test_pictures_and_sound_have_the_times_of_the_daemons_clock(tmp_path: Path) -> None:
    """Clicks are heard at the flashes, though the sound pauses between them."""
    painted: dict[int, int] = {}

    async def work(recording: Recording, canvas: Canvas, clock: Clock) -> None:
        desktop, sound, encoder = Desktop(SIZE), RecordedSound(recording), OpusEncoder(2, CodecSettings())
        sound.set_format(STEREO)
        burst = np.zeros((960, 2), np.float32)
        burst[: len(click(48_000))] = click(48_000)[:, None]
        for step in range(0, 2_200, 100):
            clock.now_ns = START + step * NS_PER_MS
            desktop.paint(clock.now_ns)
            painted[desktop.number] = step
            canvas.pixels[:] = desktop.picture
            recording.draw(canvas, [], clock.now_ns)
            await encoded(recording)
            for offset in range(0, 100, 20):
                at = step + offset
                if at % 1000 < 200:
                    # What is heard from `at` on is encoded 312 frames before.
                    block = burst if at % 1000 == 0 else np.zeros_like(burst)
                    data = encoder.encode(block)
                    packet = AudioPacket(1, 960, at // 20, at * 48, START + at * NS_PER_MS, data)
                    sound.push(packet, 0)
                else:
                    sound.silence()
        clock.now_ns += 500 * NS_PER_MS
        assert sound.lost_packets == 0 and sound.played_frames == 3 * 10 * 960

    assert record(tmp_path / "a.mkv", work) == []
    shown = pictures(tmp_path / "a.mkv")
    stamps = [read(picture, CODE) for _, picture in shown]
    assert all(
        stamp is not None and painted[stamp.number] == ms for stamp, (ms, _) in zip(stamps, shown[:-1], strict=False)
    )
    assert shown[-1][0] == 2_100 + 500 and len(shown) == 23
    with av.open(str(tmp_path / "a.mkv")) as file:
        frames = [(frame.pts, frame.to_ndarray()[0]) for frame in file.decode(audio=0)]
        assert file.streams.video[0].codec_context.name == "h264"
    assert frames[0][0] in (0, 1)
    heard = np.concatenate([one for _, one in frames])
    clicks = tone_onsets(heard, 48_000, CLICK_HZ, round(CLICK_S * 48_000))
    assert len(clicks) == 3 and all(abs(int(at) % 48_000) < 100 for at in clicks), clicks


def test_busy_pictures_replace_each_other_and_the_last_is_kept(tmp_path: Path) -> None:
    last = 0

    async def work(recording: Recording, canvas: Canvas, clock: Clock) -> None:
        nonlocal last
        desktop = Desktop(SIZE)
        for _ in range(200):
            clock.now_ns += NS_PER_MS
            desktop.paint(clock.now_ns)
            canvas.pixels[:] = desktop.picture
            recording.draw(canvas, [], clock.now_ns)
        last = desktop.number
        await encoded(recording)
        await asyncio.sleep(0.01)
        await encoded(recording)

    assert record(tmp_path / "a.mkv", work, sound=False) == []
    found = [stamp.number for _, picture in pictures(tmp_path / "a.mkv") if (stamp := read(picture, CODE))]
    assert found[-1] == last and found == sorted(found) and len(found) < 100


def test_another_size_begins_another_file_and_the_cursor_is_seen(tmp_path: Path) -> None:
    async def work(recording: Recording, canvas: Canvas, clock: Clock) -> None:
        canvas.pixels[:] = 0
        canvas.apply([CursorShape(3, np.full((40, 40, 4), 255, np.uint8))])
        recording.draw(canvas, [], START)
        await encoded(recording)
        clock.now_ns += NS_PER_S
        recording.cursor(canvas, CursorChanged(3, 110, 60, 10, 10))
        await encoded(recording)
        canvas.resize(Size(641, 241))
        recording.resized(canvas)
        canvas.pixels[:] = 0
        canvas.pixels[240, :], canvas.pixels[:, 640] = 255, 255
        recording.draw(canvas, [], clock.now_ns)
        await encoded(recording)
        sound, data = RecordedSound(recording), OpusEncoder(2, CodecSettings()).encode(np.zeros((960, 2), np.float32))
        sound.set_format(STEREO)
        for n in range(-1, 10):
            sound.push(AudioPacket(1, 960, n + 1, n * 960, clock.now_ns + n * 20 * NS_PER_MS, data), 0)
        clock.now_ns += 200 * NS_PER_MS

    named: list[Path] = []
    (tmp_path / "a-2.mkv").write_bytes(b"of yesterday")
    assert record(tmp_path / "a.mkv", work, named=named.append) == []
    assert named == [tmp_path / "a.mkv", tmp_path / "a-3.mkv"]
    assert (tmp_path / "a-2.mkv").read_bytes() == b"of yesterday"
    (first, second, *_), third = pictures(tmp_path / "a.mkv"), pictures(tmp_path / "a-3.mkv")
    assert first[1].max() < 30 and second[1][55:85, 105:135].min() > 200 and second[0] == 1_000
    assert [ms for ms, _ in third] == [0, 200], "each file begins at 0"
    # Its sides are odd, and H.264 has 4:2:0.
    assert third[0][1].shape == (242, 642) and third[0][1][240:, :].min() > 200 < third[0][1][:, 640:].min()
    with av.open(str(tmp_path / "a-3.mkv")) as file:
        heard = [frame.pts for frame in file.decode(audio=0)]
    assert heard[0] in (0, 1) and len(heard) == 10


def test_a_recording_is_not_made_through_a_link_unasked(tmp_path: Path) -> None:
    link = tmp_path / "link.mkv"
    link.symlink_to(tmp_path / "victim")

    async def work(recording: Recording, canvas: Canvas, clock: Clock) -> None:
        recording.draw(canvas, [], clock.now_ns)
        await encoded(recording)

    (error,) = record(link, work, sound=False, replace=False)
    assert "is a link to a file that does not exist" in str(error) and not (tmp_path / "victim").exists()
    assert record(link, work, sound=False) == [] and (tmp_path / "victim").exists()


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    async def work(recording: Recording, canvas: Canvas, clock: Clock) -> None:
        noise = np.random.default_rng(1)
        for _ in range(40):
            canvas.pixels[:] = noise.integers(0, 256, canvas.pixels.shape, np.uint8)
            clock.now_ns += 33 * NS_PER_MS
            recording.draw(canvas, [], clock.now_ns)
            await encoded(recording)

    with small_disk(tmp_path / "d"):
        (error,) = record(tmp_path / "d" / "a.mkv", work)
    assert isinstance(error, OutputLost) and "a.mkv: " in str(error) and "the recording ends here" in str(error)
    (error,) = record(tmp_path / "nowhere" / "a.mkv", work)
    assert "No such file" in str(error)


@pytest.mark.parametrize("change", [{"codec": "s16"}, {"positions": ["mono"] * 6, "mapping": list(range(6))}])
def test_sound_that_cannot_be_stored_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    values = {"generation": 1, "codec": "opus", "rate": 48_000, "positions": ["mono"]} | change
    sound = RecordedSound(Recording(tmp_path / "a.mkv", True, Clock(), lambda error: None))
    with pytest.raises(ConfigError, match="Opus, in stereo"):
        sound.set_format(CodecParameters(**values))
    sound.push(AudioPacket(1, 960, 0, 0, START, b"x"), 0)
    sound.set_format(STEREO)
    sound.push(AudioPacket(1, 961, 0, 0, START, b"x"), 0)
    for sequence in (1, 2, 5):
        sound.push(AudioPacket(1, 960, sequence, 0, START, b"x"), 0)
    assert sound.lost_packets == 2 and sound.played_frames == 3 * 960


def test_a_png_has_the_exact_picture_with_the_cursor_once(tmp_path: Path) -> None:
    desktop, canvas, done = Desktop(SIZE, "scroll"), Canvas(), []
    canvas.resize(SIZE)
    face = PngFile(tmp_path / "a.png", lambda: done.append(1))
    # A daemon without time sends its first picture bit by bit, and may move what is not there yet.
    left, right = Rect(0, 0, 300, SIZE.height), Rect(300, 0, SIZE.width - 300, SIZE.height)
    for step in (Paint(left, part_of(desktop.picture, left)), Shift(Rect(310, 0, 250, SIZE.height), 5, 0)):
        face.draw(canvas, canvas.apply([step]), START)
        assert not canvas.whole and os.listdir(tmp_path) == []
    canvas.apply([Paint(right, part_of(desktop.picture, right))])
    canvas.apply([CursorShape(1, np.full((9, 9, 4), 255, np.uint8))])
    face.cursor(canvas, CursorChanged(1, 500, 100))
    for _ in range(2):
        face.draw(canvas, [], START)
        canvas.pixels[:] = 0
    expected = desktop.picture[:, :, 2::-1].copy()
    expected[100:109, 500:509] = 255
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), expected) and done == [1]
    assert os.listdir(tmp_path) == ["a.png"]


def test_a_png_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    canvas = Canvas()
    canvas.resize(SIZE)
    noise = np.random.default_rng(1).integers(0, 256, canvas.pixels.shape, np.uint8)
    canvas.apply([Paint(Rect(0, 0, SIZE.width, SIZE.height), noise)])
    with small_disk(tmp_path / "d"):
        with pytest.raises(OutputLost, match="no picture was written"):
            PngFile(tmp_path / "d" / "a.png", lambda: None).draw(canvas, [], START)
        assert os.listdir(tmp_path / "d") == []


class Slow(io.RawIOBase):
    """A pipe whose reader ends after some bytes."""

    def __init__(self, limit: int) -> None:
        self.data, self._limit = bytearray(), limit

    def write(self, data: Any) -> int:
        if len(self.data) >= self._limit:
            raise BrokenPipeError
        self.data += data[:100_000]
        return min(len(data), 100_000)


def test_y4m_has_a_steady_rate_and_ends_with_its_reader() -> None:
    desktop, canvas, over = Desktop(SIZE), Canvas(), threading.Event()
    ends: list[object] = []

    def ended(why: OutputLost | None) -> None:
        ends.append(why)
        over.set()

    canvas.resize(SIZE)
    canvas.pixels[:] = desktop.picture
    pipe = Slow(3 * (SIZE.width * SIZE.height * 3))
    stream = Y4mStream(pipe, "y4m:-", 60, ended)
    stream.draw(canvas, [], START)
    assert over.wait(20)
    canvas.resize(Size(900, 100))
    stream.draw(canvas, [], START)
    stream.close()
    assert ends == [None]
    header, _, rest = bytes(pipe.data).partition(b"\n")
    assert header == b"YUV4MPEG2 W560 H160 F60:1 Ip A1:1 C444"
    assert rest.startswith(b"FRAME\n" + planes_of(desktop.picture) + b"FRAME\n")
    luma = np.frombuffer(planes_of(desktop.picture), np.uint8)[: SIZE.width * SIZE.height]
    assert read(luma.reshape(SIZE.height, SIZE.width), CODE) is None  # nothing painted yet
    desktop.paint(START)
    luma = np.frombuffer(planes_of(desktop.picture), np.uint8)[: SIZE.width * SIZE.height]
    stamp = read(luma.reshape(SIZE.height, SIZE.width), CODE)
    assert stamp is not None and stamp.time_ns == START


def test_y4m_into_a_file(tmp_path: Path) -> None:
    with y4m_file(str(tmp_path / "a.y4m")) as file:
        file.write(b"x")
    assert (tmp_path / "a.y4m").read_bytes() == b"x"
