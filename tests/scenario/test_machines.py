"""Virtual machines in a guest's graph on a virtual clock: QEMU's timing, pauses, formats and recordings."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from millrace.codec.opus import OpusDecoder, OpusEncoder
from millrace.codec.parameters import CodecParameters
from millrace.codec.settings import CodecSettings
from millrace.doors.microphone import MicrophoneStream
from millrace.doors.qemu.door import EndedVoices, QemuPlayback, QemuRecord
from millrace.doors.spice.door import SpicePlayback, SpiceRecord
from millrace.doors.vnc.door import VncDoor
from millrace.dsp.convert import SampleFormat, encode
from millrace.dsp.measure import frequency_hz, level_dbfs, phase_jumps, silent_runs
from millrace.errors import CodecError, RemoteProtocolError
from millrace.media.audio import AudioPacket
from millrace.sim.qemu import FakeQemu
from millrace.sim.rig import Capture, Rig
from millrace.sim.signals import sine
from millrace.units import NS_PER_MS, NS_PER_S, frames_to_ns
from millrace.wire.peer.messages import FormatChanged, Hello, encode_message, pack_media
from millrace.wire.peer.session import PeerServer
from millrace.wire.qemu.audio import AudioPeer
from millrace.wire.spice.channel import ChannelKind, SpiceChannel, SpiceMessage
from millrace.wire.spice.messages import OPUS_CAP
from millrace.wire.vnc.client import VncClient
from millrace.wire.vnc.messages import AudioBegin, AudioData, AudioEnd, Ready, VncEvent
from tests.received import received

CHUNK = 480
TICK_S = 0.005


class Machine:
    """A guest that plays a tone through QEMU: whole chunks of 480 frames at ticks of a timer, which makes a saw-tooth.

    `pace` is the guest's speed against real time.
    """

    def __init__(self, rate: int = 48_000, pace: float = 1.0, hz: float = 997.0) -> None:
        self.rig = Rig()
        self.source = self.rig.graph.add_source("microphone", "Microphone")
        self.heard: Capture = self.rig.capture()
        self.out, self.out_peer = FakeQemu("Out"), AudioPeer(0)
        self.mic, self.mic_peer = FakeQemu("In"), AudioPeer(0)
        self.playback = QemuPlayback(self.rig.graph, self.out_peer, "QEMU", EndedVoices())
        self.record = QemuRecord(self.rig.graph, self.source, self.mic_peer, "QEMU")
        self.rate, self.pace = rate, pace
        self._tone = encode(SampleFormat.S16LE, sine(60.0, hz, rate))
        self._made = self._sent = 0.0
        self.exchange()

    def exchange(self) -> None:
        ends = ((self.out, self.out_peer, self.playback), (self.mic, self.mic_peer, self.record))
        for qemu, peer, door in ends:
            for _ in range(6):
                there = b"".join(bytes(chunk.data) for chunk in peer.data_to_send())
                back = qemu.data_to_send()
                if there:
                    qemu.receive(there)
                if back:
                    received(peer, back, self.rig.now_ns)
                door.receive(self.rig.now_ns)

    def begin(self, **form: int) -> None:
        self.out.init(rate=self.rate, **form)
        self.out.enable(True)
        self.exchange()

    def play(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.rig.run(TICK_S)
            self._made += TICK_S * self.rate * self.pace
            while self._sent + CHUNK <= self._made:
                at = int(self._sent) * 4
                self.out.write(self._tone[at : at + CHUNK * 4])
                self._sent += CHUNK
            self.exchange()

    def close(self) -> None:
        self.playback.close()
        self.record.close()

    @property
    def stream(self) -> dict[str, float]:
        tally = next(iter(self.playback.voices.values())).stream.tally
        return {
            "underruns": tally.underruns,
            "concealed": tally.concealed,
            "skipped": tally.left_out_frames,
        }


def judge(sound: np.ndarray, hz: float = 997.0, rate: int = 48_000) -> None:
    assert not len(phase_jumps(sound[:, 0], rate, hz, 0.05))
    assert not silent_runs(sound[:, 0], 8)
    assert abs(level_dbfs(sound[:, 0]) - -6.02) < 0.1


@pytest.mark.parametrize("rate", [48_000, 44_100, 8_000, 96_000])
def test_machine_at_any_rate_loses_and_repeats_no_frame(rate: int) -> None:
    machine = Machine(rate)
    machine.begin()
    machine.play(12.0)
    assert machine.stream == {"underruns": 0, "concealed": 0, "skipped": 0}
    sound = machine.heard.trimmed()
    assert len(sound) > 11.9 * 48_000
    judge(sound[4800:-4800])
    assert abs(frequency_hz(sound[2 * 48_000 :, 0], 48_000) - 997) < 0.4


def test_latency_through_graph_is_saw_tooth_plus_quantum() -> None:
    machine = Machine()
    machine.begin()
    machine.play(10.0)
    voice = next(iter(machine.playback.voices.values())).stream
    assert voice.latency_ns < 22 * NS_PER_MS
    assert machine.rig.graph.quantum_ns == 5 * NS_PER_MS


def test_qemu_default_timing_2_percent_slow_is_followed() -> None:
    machine = Machine(pace=0.977)
    machine.begin()
    machine.play(20.0)
    voice = next(iter(machine.playback.voices.values())).stream
    assert voice.speed.percent(48_000) == pytest.approx(97.7, abs=0.2)
    settled = machine.heard.trimmed()[8 * 48_000 : 19 * 48_000]
    assert frequency_hz(settled[:, 0], 48_000) == pytest.approx(997 * 0.977, abs=2.0)
    assert not silent_runs(settled[:, 0], 8)
    assert voice.latency_ns < 80 * NS_PER_MS


def test_guest_at_93_percent_is_concealed_and_latency_does_not_grow() -> None:
    machine = Machine(pace=0.93)
    machine.begin()
    machine.play(25.0)
    voice = next(iter(machine.playback.voices.values())).stream
    assert voice.speed.percent(48_000) == pytest.approx(93.0, abs=0.5)
    assert voice.latency_ns < 150 * NS_PER_MS
    settled = machine.heard.trimmed()[10 * 48_000 : 24 * 48_000]
    assert level_dbfs(settled[:, 0]) > -7.5


def test_machine_paused_for_10_seconds_returns_at_its_latency() -> None:
    machine = Machine()
    machine.begin()
    machine.play(6.0)
    machine.out.enable(False)
    machine.exchange()
    machine.rig.run(10.0)
    assert not machine.rig.graph.running
    before = machine.rig.now_ns
    machine.out.enable(True)
    machine._made = machine._sent
    machine.play(3.0)
    assert machine.stream["underruns"] == 0
    positions = np.concatenate(
        [p + np.flatnonzero(b.any(axis=1)) for p, b in zip(machine.heard.positions, machine.heard.blocks, strict=True)]
    )
    first_back = positions[positions > (before - NS_PER_S) * 48_000 // NS_PER_S][0]
    assert frames_to_ns(int(first_back), 48_000) - before < 60 * NS_PER_MS
    voice = next(iter(machine.playback.voices.values())).stream
    assert voice.latency_ns < 25 * NS_PER_MS


def test_machine_stopped_without_notice_fades_out_and_in() -> None:
    machine = Machine()
    machine.begin()
    machine.play(6.0)
    machine.rig.run(10.0)
    assert not machine.rig.graph.running and machine.stream["underruns"] == 1
    machine._made = machine._sent
    machine.play(4.0)
    sound = machine.heard.sound[-48_000:]
    judge(sound)
    assert np.abs(np.diff(machine.heard.sound[:, 0])).max() < 0.11


def test_user_settings_survive_format_changes() -> None:
    machine = Machine()
    machine.begin()
    machine.play(1.0)
    music = machine.rig.graph.add_sink("music")
    node = next(iter(machine.playback.voices.values())).stream.node
    machine.rig.graph.move_stream(node, music)
    machine.rig.graph.set_gains(node, (0.25,))
    machine.out.fini()
    machine.out.init(rate=8_000, channels=1, bits=8, signed=False)
    machine.out.fini()
    machine.out.init(rate=44_100)
    machine.exchange()
    node = next(iter(machine.playback.voices.values())).stream.node
    assert node.sink is music and node.gains == (0.25, 0.25)
    assert len(machine.rig.graph.streams) == 1


def test_guest_mixer_is_applied_with_ramps() -> None:
    machine = Machine()
    machine.begin()
    machine.play(1.0)
    machine.out.volume(False, bytes((128, 128)))
    machine.play(1.0)
    assert level_dbfs(machine.heard.sound[-24_000:, 0]) == pytest.approx(-6.02 - 17.94, abs=0.3)
    machine.out.volume(True, bytes((255, 255)))
    machine.play(0.5)
    assert not machine.heard.sound[-4800:].any()
    assert np.abs(np.diff(machine.heard.sound[:, 0])).max() < 0.11


def test_voices_beyond_any_cards_are_ignored() -> None:
    machine = Machine()
    for id_ in range(100):
        machine.out.init(id_)
    machine.exchange()
    assert len(machine.playback.voices) == 64
    machine.close()
    assert not machine.rig.graph.streams


def listeners_packets(source: MicrophoneStream, rig: Rig, seconds: float) -> None:
    """A listener's microphone: 10 ms packets of a tone, on its own clock."""
    encoder = OpusEncoder(1, CodecSettings(bitrate=64_000))
    source.set_format(CodecParameters(1, "opus", 48_000, ["mono"], lookahead=encoder.lookahead_frames))
    tone = sine(seconds, 440.0, channels=1)
    for n in range(round(seconds * 100)):
        rig.run(0.01)
        payload = encoder.encode(tone[n * 480 : n * 480 + 480])
        source.push(AudioPacket(1, 480, n, n * 480, 5 * NS_PER_S + n * 10 * NS_PER_MS, payload), rig.now_ns)


def test_read_is_answered_immediately_from_microphone() -> None:
    machine = Machine()
    machine.mic.init(7)
    machine.mic.enable(True, 7)
    machine.exchange()
    speaker = MicrophoneStream(machine.rig.graph, machine.source, "laptop", "listener/1")
    encoder = OpusEncoder(1, CodecSettings(bitrate=64_000))
    speaker.set_format(CodecParameters(1, "opus", 48_000, ["mono"], lookahead=encoder.lookahead_frames))
    tone = sine(10.0, 440.0, channels=1)
    for n in range(1000):
        machine.rig.run(0.01)
        payload = encoder.encode(tone[n * 480 : n * 480 + 480])
        packet = AudioPacket(1, 480, n, n * 480, 5 * NS_PER_S + n * 10 * NS_PER_MS, payload)
        speaker.push(packet, machine.rig.now_ns)
        machine.mic.read(1920 * 4, 7)
        machine.exchange()
        assert len(machine.mic.answers) == n + 1
    recorded = np.frombuffer(b"".join(machine.mic.answers), "<i2").reshape(-1, 2) / np.float32(32768)
    assert abs(len(recorded) - 480_000) <= 960
    spoken = recorded[9_600:-4800]
    judge(spoken.astype(np.float32), 440.0)


def test_guest_records_silence_without_speaker_and_never_blocks() -> None:
    machine = Machine()
    machine.mic.init(7)
    machine.mic.enable(True, 7)
    machine.exchange()
    for _ in range(50):
        machine.rig.run(0.01)
        machine.mic.read(1920, 7)
        machine.exchange()
    answers = machine.mic.answers
    assert len(answers) == 50 and abs(sum(map(len, answers)) - 50 * 1920) <= 3840
    assert not any(any(answer) for answer in answers)
    machine.mic.read(1920, 99)
    machine.exchange()
    assert machine.mic.answers[-1] == b""


# -- SPICE and VNC ---------------------------------------------------------------------------


def spice(kind: ChannelKind) -> SpiceChannel:
    return SpiceChannel(kind, 1, OPUS_CAP, "", lambda key, text: bytes(128), 0)


def spice_says(channel: SpiceChannel, kind: int, body: bytes) -> None:
    channel._events.append(SpiceMessage(kind, body))


@pytest.mark.parametrize("coded", ["raw", "opus"])
def test_spice_plays_raw_and_opus(coded: str) -> None:
    rig = Rig()
    heard, channel = rig.capture(), spice(ChannelKind.PLAYBACK)
    door = SpicePlayback(rig.graph, channel, "SPICE")
    spice_says(channel, 102, (0).to_bytes(4, "little") + (1 if coded == "raw" else 3).to_bytes(2, "little"))
    start = b"".join(v.to_bytes(n, "little") for v, n in ((2, 4), (1, 2), (48_000, 4), (0, 4)))
    spice_says(channel, 103, start)
    tone, encoder = sine(8.0), OpusEncoder(2, CodecSettings())
    for n in range(800):
        rig.run(0.01)
        block = tone[n * 480 : n * 480 + 480]
        payload = encode(SampleFormat.S16LE, block) if coded == "raw" else encoder.encode(block)
        spice_says(channel, 101, (n * 10).to_bytes(4, "little") + payload)
        door.receive(rig.now_ns)
    sound = heard.trimmed()[4800:-4800]
    assert not len(phase_jumps(sound[:, 0], 48_000, 997, 0.1))
    assert abs(level_dbfs(sound[:, 0]) - -6.02) < 0.1
    spice_says(channel, 106, b"\x01")
    door.receive(rig.now_ns)
    assert door.stream is not None and door.stream.volume == (0.0, 0.0)
    door.close()
    assert not rig.graph.streams


def test_spice_records_in_message_sizes_that_server_handles() -> None:
    rig = Rig()
    source = rig.graph.add_source("microphone", "Microphone")
    channel = spice(ChannelKind.RECORD)
    woken: list[int] = []
    door = SpiceRecord(rig.graph, source, channel, "SPICE", lambda: woken.append(1))
    spice_says(channel, 101, b"".join(v.to_bytes(n, "little") for v, n in ((2, 4), (1, 2), (48_000, 4))))
    door.receive(rig.now_ns)
    channel.data_to_send()
    rig.run(1.0)
    sent, sizes = channel.data_to_send(), []
    while sent:
        size = int.from_bytes(sent[2:6], "little")
        sizes.append(size)
        sent = sent[6 + size :]
    assert set(sizes) == {4 + 512 * 4} and 90 < len(sizes) <= 94 and len(woken) == len(sizes)
    spice_says(channel, 102, b"")
    door.receive(rig.now_ns)
    rig.run(0.5)
    assert not rig.graph.running


def vnc_says(door: VncDoor, rig: Rig, *events: VncEvent) -> None:
    door.wire._events += events
    door.wire.receive(b"", rig.now_ns)
    door.receive(rig.now_ns)


def test_vnc_plays_and_stops() -> None:
    rig = Rig()
    heard = rig.capture()
    door = VncDoor(rig.graph, VncClient(48_000, 2, "", lambda challenge, text: b"", 0))
    tone = encode(SampleFormat.S16LE, sine(8.0))
    vnc_says(door, rig, Ready("vm"), AudioBegin())
    for n in range(1500):
        rig.run(0.005)
        vnc_says(door, rig, AudioData(tone[n * 960 : n * 960 + 960]))
    vnc_says(door, rig, AudioEnd())
    rig.run(1.0)
    assert not rig.graph.running and door.name == "vm"
    sound = heard.trimmed()
    assert abs(len(sound) - 7.5 * 48_000) < 480
    judge(sound[4800:-4800])


def test_pulseaudio_clients_record_the_guests_source_by_default() -> None:
    from millrace.wire.pulse.constants import Command

    rig = Rig()
    source = rig.graph.add_source("microphone", "Microphone")
    client = rig.client()
    assert client.ask(Command.GET_SERVER_INFO)["default_source"] == "microphone"
    sources = {s["name"]: s for s in client.ask_list(Command.GET_SOURCE_INFO_LIST)}
    assert sources["microphone"]["monitor_of_name"] is None
    assert sources["millrace.monitor"]["monitor_of_name"] == "millrace"
    assert [s["name"] for s in client.ask_list(Command.GET_SINK_INFO_LIST)] == ["millrace"]
    assert client.ask(Command.LOOKUP_SOURCE, name="@DEFAULT_SOURCE@")["index"] == sources["microphone"]["index"]
    speaker = MicrophoneStream(rig.graph, source, "laptop", "listener/1")
    heard = rig.capture(source, clocked=True, channels=1)
    listeners_packets(speaker, rig, 3.0)
    judge(heard.trimmed()[9_600:-4800], 440.0)


def test_removed_objects_are_freed_without_collector() -> None:
    rig = Rig()
    source = rig.graph.add_source("microphone", "Microphone")
    gc.disable()
    try:
        speaker = MicrophoneStream(rig.graph, source, "laptop", "listener/1")
        vnc = VncDoor(rig.graph, VncClient(48_000, 2, "", lambda challenge, text: b"", 0))
        vnc_says(vnc, rig, AudioBegin())
        gone = [weakref.ref(speaker.playout), weakref.ref(vnc.stream)]
        speaker.remove()
        vnc.close()
        del speaker, vnc
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("frames", [0, 500, 6_000, 65_535])
def test_microphone_packet_of_invalid_length_ends_its_session(frames: int) -> None:
    server = PeerServer(0)
    server.receive(encode_message(Hello(microphone=True)), 0)
    server.receive(encode_message(FormatChanged(CodecParameters(1, "opus", 48_000, ["mono"]))), 0)
    payload = OpusEncoder(1, CodecSettings()).encode(sine(0.01, channels=1))
    server.receive(pack_media(1, 480, 0, 0, NS_PER_S, payload), 0)
    with pytest.raises(RemoteProtocolError, match="frames"):
        server.receive(pack_media(1, frames, 5, 20_000, 2 * NS_PER_S, payload), 0)


@pytest.mark.parametrize("positions", [[], ["mono"] * 3, ["nowhere"]])
def test_microphone_has_one_or_two_known_channels(positions: list[str]) -> None:
    rig = Rig()
    speaker = MicrophoneStream(rig.graph, rig.graph.add_source("microphone", "Microphone"), "evil", "listener/1")
    with pytest.raises(RemoteProtocolError, match="channels"):
        speaker.set_format(CodecParameters(1, "opus", 48_000, positions))


def test_opus_is_never_asked_for_more_than_its_buffer_holds() -> None:
    decoder = OpusDecoder(1)
    for frames in (0, -120, 5_880, 65_535):
        with pytest.raises(CodecError):
            decoder.conceal(frames)
    assert len(decoder.conceal(5_760)) == 5_760


def test_garbage_from_microphone_becomes_silence() -> None:
    rig = Rig()
    source = rig.graph.add_source("microphone", "Microphone")
    heard = rig.capture(source, clocked=True)
    speaker = MicrophoneStream(rig.graph, source, "evil", "listener/1")
    speaker.set_format(CodecParameters(1, "opus", 48_000, ["mono"]))
    noise = np.random.default_rng(1)
    for n in range(0, 300, 2):
        rig.run(0.02)
        payload = noise.bytes(int(noise.integers(0, 200)))
        speaker.push(AudioPacket(1, 480, n, n * 480, 5 * NS_PER_S + n * 10 * NS_PER_MS, payload), rig.now_ns)
    rig.run(3.0)
    assert len(heard.sound) > 5.9 * 48_000 and np.isfinite(heard.sound).all()
