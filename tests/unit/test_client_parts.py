"""A listener's parts: what its microphone sends and when, and which problems it reports."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from millrace.client import microphone
from millrace.client.bus import Bus, Change
from millrace.client.dropouts import PULSE_NS, SKIP_NS, STALL_NS, UNSURE_NS, Dropouts
from millrace.client.microphone import (
    CHOICES,
    PACKET_FRAMES,
    PERIOD_FRAMES,
    LoopSource,
    MicrophoneSender,
    make_microphone,
)
from millrace.client.micuplink import MICROPHONE, WAITING_MAX, MicrophoneUplink
from millrace.dsp.convert import Samples
from millrace.errors import ConfigError, PeerLost
from millrace.media.audio import AudioPacket
from millrace.playout.decode import PacketDecoder
from millrace.sim.signals import sine
from millrace.units import NS_PER_MS, NS_PER_S, default_map
from millrace.wire.native.messages import Objects
from millrace.wire.peer.messages import (
    FormatChanged,
    FromListener,
    Microphone,
    Silence,
    decode_from_listener,
    unpack_media,
)

NOW = 7 * NS_PER_S
MS = NS_PER_MS


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


# -- what it sends ------------------------------------------------------------------------------------


class Source:
    """A microphone that captures what the test gives it."""

    name = "source"

    def __init__(self, channels: int = 1) -> None:
        self.positions = default_map(channels)
        self.push: Callable[[Samples], None] | None = None

    def start(self, push: Callable[[Samples], None]) -> None:
        self.push = push

    def stop(self) -> None:
        self.push = None


def parts(sent: list[str | bytes]) -> Iterator[FromListener | AudioPacket]:
    for message in sent:
        made = decode_from_listener(message) if isinstance(message, str) else unpack_media(message)
        assert made is not None
        yield made


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


# -- when -----------------------------------------------------------------------------------------


class FakeWebSocket:
    """A WebSocket that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[str | bytes] = []

    async def send_str(self, text: str) -> None:
        assert isinstance(text, str)
        self.sent.append(text)

    async def send_bytes(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        self.sent.append(data)


def spoken(test: Callable[[MicrophoneUplink, Source, FakeWebSocket, list[str]], Any]) -> None:
    """A test with a started microphone, and a WebSocket that takes everything."""

    async def main() -> None:
        source, websocket, said = Source(), FakeWebSocket(), list[str]()
        speech = MicrophoneUplink(source)
        speech.start()
        assert source.push is not None
        await test(speech, source, websocket, said)
        speech.stop()
        assert source.push is None

    asyncio.run(main())


async def captured(source: Source, seconds: float) -> None:
    """As a device does it, from a separate thread."""
    assert source.push is not None
    await asyncio.to_thread(source.push, sine(seconds, channels=1))
    await asyncio.sleep(0)


async def taken(speech: MicrophoneUplink, websocket: FakeWebSocket) -> list[type]:
    """Kinds of what has been sent by now."""
    websocket.sent.clear()
    sending = asyncio.create_task(speech.send_on(websocket))  # type: ignore[arg-type]
    for _ in range(WAITING_MAX * 3):
        await asyncio.sleep(0)
    sending.cancel()
    return [type(one) for one in parts(websocket.sent)]


def test_microphone_is_sent_while_allowed_and_recorded() -> None:
    async def test(speech: MicrophoneUplink, source: Source, websocket: FakeWebSocket, said: list[str]) -> None:
        await captured(source, 0.1)
        assert await taken(speech, websocket) == []
        speech.told(Microphone(allowed=True, wanted=False), NOW, said.append)
        await captured(source, 0.1)
        assert await taken(speech, websocket) == [] and said == []
        for _ in range(2):
            speech.told(Microphone(allowed=True, wanted=True), NOW, said.append)
        await captured(source, 0.02)
        assert await taken(speech, websocket) == [FormatChanged, AudioPacket, AudioPacket]
        for _ in range(2):
            speech.told(Microphone(allowed=True, wanted=False), NOW, said.append)
        await captured(source, 0.02)
        assert await taken(speech, websocket) == [Silence]
        assert said == ["something in the guest is recording", "nothing in the guest is recording any more"]

    spoken(test)


def test_microphone_without_right_is_never_sent() -> None:
    async def test(speech: MicrophoneUplink, source: Source, websocket: FakeWebSocket, said: list[str]) -> None:
        speech.told(Microphone(allowed=False, wanted=True), NOW, said.append)
        await captured(source, 0.1)
        assert await taken(speech, websocket) == [] and said == ["this guest does not allow it"]
        speech.told(Microphone(allowed=True, wanted=True), NOW, said.append)
        speech.told(Microphone(allowed=False, wanted=True), NOW, said.append)
        await captured(source, 0.1)
        assert await taken(speech, websocket) == [FormatChanged, Silence]
        assert said[1:] == [
            "something in the guest is recording",
            "this guest does not allow it",
            "nothing in the guest is recording any more",
        ]

    spoken(test)


def test_full_uplink_drops_newest_packets() -> None:
    async def test(speech: MicrophoneUplink, source: Source, websocket: FakeWebSocket, said: list[str]) -> None:
        speech.told(Microphone(allowed=True, wanted=True), NOW, said.append)
        await captured(source, 2.0)
        kinds = await taken(speech, websocket)
        assert kinds == [FormatChanged] + [AudioPacket] * (WAITING_MAX - 1)
        await captured(source, 0.01)
        assert await taken(speech, websocket) == [AudioPacket], "there is room again"

    spoken(test)


def test_lost_connection_discards_queued_packets() -> None:
    async def test(speech: MicrophoneUplink, source: Source, websocket: FakeWebSocket, said: list[str]) -> None:
        speech.told(Microphone(allowed=True, wanted=True), NOW, said.append)
        await captured(source, 0.1)
        speech.hush()
        await captured(source, 0.1)
        assert await taken(speech, websocket) == []
        speech.told(Microphone(allowed=True, wanted=True), NOW, said.append)
        await captured(source, 0.01)
        assert await taken(speech, websocket) == [FormatChanged, AudioPacket]

    spoken(test)


def test_frames_captured_after_stop_are_dropped() -> None:
    pushes: list[Callable[[Samples], None]] = []

    async def test(speech: MicrophoneUplink, source: Source, websocket: FakeWebSocket, said: list[str]) -> None:
        assert source.push is not None
        pushes.append(source.push)

    spoken(test)
    pushes[0](sine(0.1, channels=1))


# -- what it reports ---------------------------------------------------------------------------------


class FakePlayout:
    """One whose counters a test sets; `pull` may be given holes to count."""

    rate = 48_000

    def __init__(self) -> None:
        self.tally = SimpleNamespace(concealments=0, left_out_frames=0)
        self.lost_packets = 0
        self.next: tuple[int, int] = (0, 0)

    def pull(self, out: Samples, now_ns: int) -> None:
        out.fill(1.0)
        concealments, left_out_ns = self.next
        self.next = (0, 0)
        self.tally.concealments += concealments
        self.tally.left_out_frames += left_out_ns * self.rate // NS_PER_S


class Seconds:
    """A listener's time in steps of 10 ms: it pulls, gets packets and runs, unless told otherwise."""

    def __init__(self) -> None:
        self.complaints, self.playout = Dropouts(), FakePlayout()
        self.now, self.sequence = NOW, 0
        self.out = np.zeros((480, 2), np.float32)

    def run(self, ms: int, loop: bool = True, device: bool = True, websocket: bool = True) -> list[tuple[str, str]]:
        """The problems that it reports meanwhile."""
        said: list[tuple[str, str]] = []
        for _ in range(ms // 10):
            self.now += 10 * MS
            if websocket and self.now % (20 * MS) == 0:
                self.sequence += 1
                self.complaints.blame.arrived(self.now, 20 * MS, self.sequence)
            if device:
                self.pull()
            if loop and self.now % PULSE_NS == 0:
                said += self.pulse()
        return said

    def pull(self) -> None:
        playout: Any = self.playout
        self.complaints.pull(playout, self.out, self.now)

    def pulse(self, playout: bool = True) -> list[tuple[str, str]]:
        found: Any = self.playout if playout else None
        return [(one.stage, one.cause) for one in self.complaints.pulse(found, self.now)]


def test_sound_without_gaps_reports_nothing() -> None:
    one = Seconds()
    assert one.run(3_000) == [] and (one.out == 1.0).all()
    one.playout.next = (0, SKIP_NS)
    assert one.run(1_000) == [], "so short a gap is inaudible"


@pytest.mark.parametrize("hole", [(1, 0), (0, SKIP_NS + MS), (3, SKIP_NS + MS)])
def test_gap_is_reported_once(hole: tuple[int, int]) -> None:
    one = Seconds()
    one.run(1_000)
    one.playout.next = hole
    assert one.run(1_000) == [("network", "late")]
    assert one.run(1_000) == []


def test_stalled_device_is_reported_even_if_it_catches_up() -> None:
    one = Seconds()
    one.run(1_000)
    assert one.run(STALL_NS // MS - 20, device=False) + one.run(1_000) == []
    assert one.run(STALL_NS // MS + 20, device=False) + one.run(1_000) == [("device", "late")]


def test_stalled_program_is_reported_if_it_was_playing() -> None:
    one = Seconds()
    one.run(1_000)
    assert one.run(STALL_NS // MS - 50, loop=False) + one.run(1_000) == []
    one.run(STALL_NS // MS + 100, loop=False)
    assert one.run(200) == [("listener", "not run")]
    one.run(STALL_NS // MS + 100, loop=False, device=False)
    one.now += 10 * MS
    assert one.pulse(playout=False) == [], "nothing was playing"


def test_gap_without_packets_is_diagnosed_by_next_packet() -> None:
    one = Seconds()
    one.run(1_000)
    assert one.run(100, websocket=False) == []
    one.playout.next = (1, 0)
    assert one.run(100, websocket=False) == [], "it is not known yet whether packets were lost"
    assert one.run(60) == [("network", "stalled")]
    # It is not waited for without end.
    one.run(2_000)
    one.run(100, websocket=False)
    one.playout.next = (1, 0)
    said = one.run(UNSURE_NS // MS, websocket=False) + one.run(50, websocket=False)
    assert said == [("network", "stalled")]


def test_lost_packets_are_reported_when_given_up() -> None:
    one = Seconds()
    one.run(1_000)
    one.playout.lost_packets = 1
    assert one.run(200) == [], "a gap of 20 ms is concealed"
    one.playout.lost_packets = 4
    assert one.run(200) == [("network", "packets lost")] and one.run(1_000) == []


def test_lost_device_is_reported_once_at_next_check() -> None:
    one = Seconds()
    one.run(1_000)
    one.complaints.gone(one.now - 20 * MS)
    one.playout.lost_packets = 3
    assert one.pulse() == [("device", "lost"), ("network", "packets lost")] and one.pulse() == []


def test_many_gaps_are_reported_in_part() -> None:
    one = Seconds()
    one.run(1_000)
    for _ in range(1_000):
        one.playout.next = (1, 0)
        one.pull()
    assert len(one.pulse()) == 16
