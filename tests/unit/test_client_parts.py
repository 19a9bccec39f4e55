"""A listener's parts: what its microphone sends and when, and which problems it reports."""

from __future__ import annotations

import asyncio
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.client import microphone
from millrace.client.bus import Bus, Change
from millrace.client.microphone import (
    CHOICES,
    PACKET_FRAMES,
    PERIOD_FRAMES,
    LoopSource,
    MicrophoneSender,
    make_microphone,
)
from millrace.client.micuplink import MICROPHONE
from millrace.dsp.convert import Samples
from millrace.errors import ConfigError, PeerLost
from millrace.media.audio import AudioPacket
from millrace.playout.decode import PacketDecoder
from millrace.sim.signals import sine
from millrace.units import NS_PER_S, default_map
from millrace.wire.native.messages import Objects
from millrace.wire.peer.messages import (
    FormatChanged,
    Silence,
)
from tests.microphones import MS, NOW, Source, parts

# -- watchers ------------------------------------------------------------------------------------------


class UnwillingBus(Bus):
    """A connection whose daemon does not answer the first request in time."""

    def __init__(self) -> None:
        super().__init__(Path("nowhere"), "test", "")
        self.asked = 0

    async def call(self, method: str, *, timeout_s: float | None = None, **args: Any) -> Any:
        self.asked += 1
        first = self.asked == 1
        await asyncio.sleep(0)
        if first:
            raise PeerLost("no answer to watch")
        self._told(Objects(synced=True))
        self._told(Objects(synced=True))


@pytest.mark.parametrize("together", [False, True])
def test_watcher_asks_again_if_first_request_failed(together: bool) -> None:
    async def main() -> None:
        bus = UnwillingBus()

        async def watches() -> list[Change]:
            changes = bus.watch()
            return [await anext(changes)]

        first = asyncio.create_task(watches())
        if not together:
            await asyncio.wait([first])
        later = [asyncio.create_task(watches()) for _ in range(2)]
        async with asyncio.timeout(5):
            assert await asyncio.gather(*later) == [[Change("synced")]] * 2
        with pytest.raises(PeerLost):
            await first
        assert bus.asked == 2, "one answered request serves all watchers"

    asyncio.run(main())


# -- where a microphone's sound comes from -----------------------------------------------------------


def frames_of(text: str) -> Samples:
    """One round of a source that goes round and round."""
    source = make_microphone(text)
    assert isinstance(source, LoopSource) and source.name == text
    return source._frames


def test_tone_loops_seamlessly_with_one_frequency_per_channel() -> None:
    one, two = frames_of("tone:440"), frames_of("tone:440,660")
    assert one.shape == (48_000, 1) and two.shape == (48_000, 2) and one.dtype == np.float32
    assert (two[:, 0] == one[:, 0]).all() and np.abs(one).max() == pytest.approx(0.5, abs=1e-3)
    for channel, hz in ((two[:, 0], 440), (two[:, 1], 660)):
        assert int(np.abs(np.fft.rfft(channel)).argmax()) == hz
        seam = abs(float(channel[0] - channel[-1]))
        assert seam <= np.abs(np.diff(channel)).max() + 1e-6
    assert make_microphone("tone:440,660").positions == default_map(2)
    assert frames_of("tone:1").any() and frames_of("tone:23999").any()
    assert not frames_of("null").any() and make_microphone("null").positions == default_map(1)


@pytest.mark.parametrize("text", ["tape", "null:x", "tone", "tone:", "wav:", "", "tone\x1b[2J:1"])
def test_unknown_microphone_lists_valid_ones(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make_microphone(text)
    assert CHOICES in str(refused.value) or "Hz" in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("text", ["tone:0", "tone:24000", "tone:x", "tone:440,", "tone:1,2,3", "tone:4_4", "tone:-5"])
def test_impossible_tone_lists_valid_ones(text: str) -> None:
    with pytest.raises(ConfigError, match="Hz, such as tone:440"):
        make_microphone(text)


def test_device_is_opened_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("millrace.backends.device.DeviceInput", asked.append)
    make_microphone("device:USB: headset")
    make_microphone("device")
    assert asked == ["USB: headset", ""]


def wav(path: Path, data: bytes, channels: int = 1, rate: int = 48_000, bits: int = 16, said: int | None = None) -> str:
    """A file of these bytes, whatever its header says."""
    size, frame = len(data) if said is None else said, channels * (bits // 8)
    head = struct.pack("<HHIIHH", 1, channels, rate, rate * frame & 0xFFFFFFFF, frame, bits)
    path.write_bytes(b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt \x10\0\0\0" + head + b"data"
                     + struct.pack("<I", size) + data)  # fmt: skip
    return f"wav:{path}"


@pytest.mark.parametrize(("bits", "data"), [
    (8, bytes([192, 64])), (16, struct.pack("<hh", 16384, -16384)), (24, b"\0\0\x40\0\0\xc0"),
    (32, struct.pack("<ii", 1 << 30, -(1 << 30))),
])  # fmt: skip
def test_wav_file_of_any_usual_width_is_read(bits: int, data: bytes, tmp_path: Path) -> None:
    assert frames_of(wav(tmp_path / "x.wav", data, bits=bits)).tolist() == [[0.5], [-0.5]]
    assert frames_of(wav(tmp_path / "x.wav", data, 2, bits=bits)).tolist() == [[0.5, -0.5]]


def test_wav_file_of_other_rate_is_resampled_to_its_end(tmp_path: Path) -> None:
    sound = sine(0.5, 1000.0, 16_000, 1)
    made = frames_of(wav(tmp_path / "x.wav", (sound * 32767).astype("<i2").tobytes(), rate=16_000))
    assert len(made) == 24_000 and int(np.abs(np.fft.rfft(made[:, 0])).argmax()) == 500


def test_truncated_wav_file_is_played_to_its_end(tmp_path: Path) -> None:
    for bits, channels in ((16, 2), (24, 2), (32, 1)):
        frame = channels * bits // 8
        for extra in range(frame):
            path = wav(tmp_path / "x.wav", bytes(10 * frame + extra), channels, bits=bits, said=20 * frame)
            assert frames_of(path).shape == (10, channels)


@pytest.mark.parametrize("shape", [
    {"bits": 64}, {"bits": 40}, {"channels": 3}, {"channels": 9}, {"rate": 0}, {"rate": 7}, {"rate": 2**32 - 1},
])  # fmt: skip
def test_unusable_wav_file_lists_supported_formats(shape: dict[str, int], tmp_path: Path) -> None:
    text = wav(tmp_path / "x.wav", bytes(720), **shape)
    with pytest.raises(ConfigError, match=r"x\.wav: one or two channels of 8 to 32 bits at 1 to 384 kHz are needed"):
        make_microphone(text)


def test_empty_wav_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for text in (f"wav:{tmp_path}/empty", wav(tmp_path / "x.wav", b""), wav(tmp_path / "y.wav", b"\0", said=2)):
        with pytest.raises(ConfigError, match="there is no sound in it"):
            make_microphone(text)
    for path, why in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory"), (Path("/dev/zero"), "RIFF")):
        with pytest.raises(ConfigError, match=why):
            make_microphone(f"wav:{path}")


class Clock:
    """Replaces the module `time`: time passes only during sleeps."""

    def __init__(self) -> None:
        self.now_ns = NOW
        self.slept: list[int] = []

    def monotonic_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds * NS_PER_S))
        self.now_ns += self.slept[-1]


def test_wav_loop_plays_at_real_time_and_catches_up_short_stalls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, blocks, times = Clock(), list[Samples](), list[int]()
    monkeypatch.setattr(microphone, "time", clock)
    source = LoopSource("loop", np.arange(700, dtype=np.float32)[:, None])

    def push(block: Samples) -> None:
        blocks.append(block)
        times.append((clock.now_ns - NOW) // MS)
        clock.now_ns += {5: 50 * MS, 12: 3 * NS_PER_S}.get(len(blocks), 0)
        if len(blocks) == 20:
            source._stop.set()

    source.start(push)
    assert source._thread is not None
    source._thread.join(10)
    source.stop()
    assert np.array_equal(np.concatenate(blocks)[:, 0], np.arange(20 * PERIOD_FRAMES) % 700)
    # 50 ms late: five periods at once, and then on time again. Three seconds late: that time is skipped.
    assert times[:12] == [10, 20, 30, 40, 50, 100, 100, 100, 100, 100, 110, 120]
    assert times[12:15] == [3120, 3130, 3140]
    assert max(clock.slept) == 10 * MS


def test_stopped_wav_loop_starts_again_from_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microphone, "time", Clock())
    source = LoopSource("loop", np.arange(700, dtype=np.float32)[:, None])
    for _ in range(2):
        first: list[Samples] = []
        came = threading.Event()

        def push(block: Samples, first: list[Samples] = first, came: threading.Event = came) -> None:
            if len(first) < 5:
                first.append(block)
            came.set()

        source.start(push)
        thread = source._thread
        assert came.wait(10) and thread is not None
        source.stop()
        assert not thread.is_alive() and first[0][0, 0] == 0
    LoopSource("never", np.zeros((1, 1), np.float32)).stop()


# -- what it sends ------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2])
def test_captured_sound_is_sent_in_whole_decodable_packets(channels: int) -> None:
    sent: list[str | bytes] = []
    sender = MicrophoneSender(Source(channels), MICROPHONE, sent.append)
    sound = sine(0.5, 440.0, 48_000, channels)
    sender.feed(sound)
    assert not sent and not sender.speaking, "nothing is sent unless requested"
    sender.begin(NOW)
    assert sender.speaking
    for at in range(0, len(sound), 777):
        sender.feed(sound[at : at + 777])
    first, *packets = parts(sent)
    assert isinstance(first, FormatChanged)
    assert first.format.codec == "opus" and first.format.positions == list(default_map(channels))
    assert first.format.coupled == channels - 1 and first.format.lookahead > 0
    decoder = PacketDecoder(first.format)
    heard: list[Samples] = []
    for number, packet in enumerate(packets):
        assert isinstance(packet, AudioPacket)
        assert (packet.generation, packet.sequence, packet.frames) == (first.format.generation, number, PACKET_FRAMES)
        assert packet.position == number * PACKET_FRAMES and packet.host_ns == NOW + number * 10 * MS
        assert decoder.fits(packet, NOW)
        heard += [part.block for part in decoder.decode(packet)]
    assert len(packets) == sender.sent_packets == len(sound) // PACKET_FRAMES
    whole = np.concatenate(heard)[first.format.lookahead :]
    error = whole - sound[: len(whole)]
    assert np.sqrt((error[4800:] ** 2).mean()) < 0.05 * np.sqrt((sound**2).mean())


def test_new_recording_contains_nothing_of_previous_one() -> None:
    sent: list[str | bytes] = []
    sender = MicrophoneSender(Source(), MICROPHONE, sent.append)
    sender.end()
    assert not sent, "it had not started"
    sender.begin(NOW)
    sender.feed(sine(0.025, channels=1))
    sender.end()
    assert not sender.speaking
    sender.feed(sine(0.1, channels=1))
    sender.begin(NOW + NS_PER_S)
    sender.feed(sine(0.015, channels=1)[: PACKET_FRAMES - 1])
    assert isinstance(sent[-1], str), "leftovers of the previous recording are not sent"
    sender.feed(sine(0.015, channels=1))
    told = list(parts(sent))
    kinds = [type(one) for one in told]
    assert kinds == [FormatChanged, AudioPacket, AudioPacket, Silence, FormatChanged, AudioPacket, AudioPacket]
    one, _, _, silence, two, third, _ = told
    assert isinstance(silence, Silence) and silence.position == 2 * PACKET_FRAMES
    assert isinstance(one, FormatChanged) and isinstance(two, FormatChanged)
    assert two.format.generation == one.format.generation + 1
    assert isinstance(third, AudioPacket) and third.generation == two.format.generation
    # Positions start over, without half a packet left from before; sequence numbers continue, so that no loss is seen.
    assert (third.position, third.host_ns, third.sequence) == (0, NOW + NS_PER_S, 2)
