"""The peer protocol: messages, both ends, codecs, the outlet."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.codec.opus import OpusDecoder, OpusEncoder, version, wire_order
from millrace.codec.pcm import decode_pcm, encode_pcm
from millrace.codec.settings import CodecSettings, changed, parse_bitrate
from millrace.dsp.measure import frequency_hz
from millrace.errors import CodecError, ConfigError, PeerLost, RemoteProtocolError
from millrace.media.audio import AudioPacket
from millrace.outlets.peer import SharedEncoder, Subscriber
from millrace.outlets.subscribers import Subscribers
from millrace.sim.rig import Rig
from millrace.sim.signals import count, sine
from millrace.units import DEFAULT_MAPS, NS_PER_MS, NS_PER_S
from millrace.wire.peer.messages import (
    Bye,
    Configure,
    FormatChanged,
    FromDaemon,
    FromListener,
    Hello,
    Ping,
    Pong,
    Report,
    Silence,
    Welcome,
    decode_from_daemon,
    decode_from_listener,
    encode_message,
    pack_media,
    unpack_media,
)  # fmt: skip
from millrace.wire.peer.session import PeerClient, PeerServer
from tests.peerformat import FORMAT
from tests.unit.test_graph import add

PAGE = Path(__file__).parents[2] / "docs/peer-protocol.md"


# -- messages and sessions -------------------------------------------------------------------


def test_messages_survive_a_round_trip() -> None:
    for message in (
        Hello(name="x", settings={"bitrate": "32k"}),
        Configure({"dtx": "on"}),
        Report(latency_ns=5),
        Ping(1),
        Bye("z"),
    ):
        assert decode_from_listener(encode_message(message)) == message
    for message in (Welcome(3, "g", "default", {"codec": "opus"}), FormatChanged(FORMAT), Silence(9), Pong(1, 2)):
        assert decode_from_daemon(encode_message(message)) == message
    packet = pack_media(2, 960, 7, 1 << 50, 1 << 60, b"data")
    assert unpack_media(packet) == AudioPacket(2, 960, 7, 1 << 50, 1 << 60, b"data")
    assert unpack_media(b"\x09" + packet[1:]) is None


@given(st.one_of(st.text(), st.binary()))
def test_any_message_is_parsed_or_raises_remote_protocol_error(data: str | bytes) -> None:
    for session in (PeerServer(0), PeerClient(Hello(), 0)):
        try:
            session.receive(data, 0)
            session.events()
        except RemoteProtocolError:
            continue


def test_hello_comes_first_and_once() -> None:
    server = PeerServer(0)
    with pytest.raises(RemoteProtocolError, match="hello"):
        server.receive(encode_message(Report()), 0)
    server.receive(encode_message(Hello()), 0)
    with pytest.raises(RemoteProtocolError, match="hello"):
        server.receive(encode_message(Hello()), 0)


def test_keepalive_pings_measures_and_times_out() -> None:
    server, client = PeerServer(0), PeerClient(Hello(), 0)
    server.receive(client.data_to_send()[0], 0)
    client.receive(encode_message(Welcome(1, "g", "s", {})), 0)
    offset = 77 * NS_PER_S
    for now in range(0, 20 * NS_PER_S, NS_PER_S):
        client.handle_timeout(now)
        for message in client.data_to_send():
            server.receive(message, now + offset + 3 * NS_PER_MS)
        server.handle_timeout(now)
        for message in server.data_to_send():
            client.receive(message, now + 6 * NS_PER_MS)
        for message in client.data_to_send():
            server.receive(message, now)
    assert client.keepalive.clock.rtt_ns == 6 * NS_PER_MS
    assert client.keepalive.clock.offset_ns(20 * NS_PER_S) == offset
    with pytest.raises(PeerLost, match="nothing received"):
        client.handle_timeout(60 * NS_PER_S)
    silent = PeerServer(0)
    with pytest.raises(PeerLost, match="no hello"):
        silent.handle_timeout(11 * NS_PER_S)


# -- codecs ------------------------------------------------------------------------------------


def test_invalid_settings_are_explained() -> None:
    base = CodecSettings()
    new = changed(base, {"bitrate": "32k", "frame": "20ms", "complexity": "5", "fec": "on", "dtx": "on", "loss": "10%"})
    assert (new.bitrate, new.frame_us, new.fec, new.dtx, new.loss) == (32_000, 20_000, True, True, 10)
    assert parse_bitrate("0.1M") == 100_000
    for name, text in (("bitrate", "5k"), ("frame", "7ms"), ("fec", "maybe"), ("codec", "mp3"), ("speed", "1"),
                       ("complexity", "eleven"), ("complexity", "11"), ("bitrate", "x")):  # fmt: skip
        with pytest.raises(ConfigError, match=name):
            changed(base, {name: text})


@pytest.mark.parametrize("channels", range(1, 9))
def test_opus_carries_every_layout_with_channels_in_place(channels: int) -> None:
    family, order = wire_order(DEFAULT_MAPS[channels])
    encoder = OpusEncoder(channels, CodecSettings(bitrate=64_000 * channels), family)
    decoder = OpusDecoder(channels, encoder.streams, encoder.coupled, encoder.mapping)
    signal = np.stack([sine(1.0, 300.0 + 100 * c, channels=1)[:, 0] for c in range(channels)], axis=1)
    out = []
    for i in range(50):
        block = np.ascontiguousarray(signal[i * 960 : (i + 1) * 960][:, order])
        out.append(decoder.decode(encoder.encode(block)))
    sound = np.concatenate(out)
    for wire, ours in enumerate(order):
        if DEFAULT_MAPS[channels][ours] != "lfe":
            assert abs(frequency_hz(sound[9600:, wire], 48_000) - (300 + 100 * ours)) < 0.5


def test_every_opus_setting_takes_effect_and_bad_packets_are_errors() -> None:
    assert version().startswith("libopus")
    encoder = OpusEncoder(2, CodecSettings())
    frames = sine(0.02)
    sizes = {}
    for bitrate in (16_000, 256_000):
        encoder.configure(changed(CodecSettings(), {"bitrate": str(bitrate), "vbr": "off"}))
        sizes[bitrate] = len(encoder.encode(frames))
        assert encoder.bitrate == bitrate
    assert sizes == {16_000: 40, 256_000: 640}
    assert encoder.lookahead_frames == 312
    with pytest.raises(CodecError):
        encoder.encode(frames[:100])
    with pytest.raises(CodecError, match="application"):
        encoder.configure(CodecSettings(application="voip"))
    with pytest.raises(CodecError):
        OpusDecoder(2).decode(b"\xff\xff\xff")


@pytest.mark.parametrize("codec", ["s16", "s24", "f32"])
def test_pcm_codecs_are_exact(codec: str) -> None:
    signal = count(1000)
    assert np.array_equal(decode_pcm(codec, encode_pcm(codec, signal) + b"\0", 2), signal)


# -- the outlet ---------------------------------------------------------------------------------


class FakeListener:
    """A fake listener: what it is sent, and whether its queue has room."""

    def __init__(self) -> None:
        self.messages: list[str | bytes] = []
        self.open = True

    def outlet(self, rig: Rig, **settings: str) -> Subscriber:
        out = Subscriber(rig.graph.ids.take(), "x", self.messages.extend, lambda: self.open)
        out.settings = changed(CodecSettings(), settings)
        return out

    @property
    def packets(self) -> list[AudioPacket]:
        return [p for m in self.messages if isinstance(m, bytes) and (p := unpack_media(m))]

    @property
    def texts(self) -> list[object]:
        return [decode_from_daemon(m) for m in self.messages if isinstance(m, str)]


def playing(rig: Rig, signal: np.ndarray) -> None:
    from millrace.dsp.convert import SampleFormat, encode
    from millrace.wire.pulse.tagstruct import Spec

    rig.client().play(Spec(SampleFormat.F32LE, 2, rig.graph.rate), (1, 2), encode(SampleFormat.F32LE, signal)).drain()


def test_equal_settings_share_an_encoder_and_its_packets() -> None:
    rig, outlets = Rig(), None
    outlets = Subscribers(rig.graph)
    a, b, c = FakeListener(), FakeListener(), FakeListener()
    for listener, settings in ((a, {}), (b, {}), (c, {"bitrate": "32k"})):
        outlets.join(listener.outlet(rig, **settings), rig.sink)
    playing(rig, sine(1.0))
    rig.run(2.0)
    assert [p.payload for p in a.packets] == [p.payload for p in b.packets]
    assert len(rig.graph.taps) == 2
    assert sum(len(p.payload) for p in c.packets) < 0.5 * sum(len(p.payload) for p in a.packets)
    positions = [p.position for p in a.packets]
    assert set(np.diff(positions)) == {960} and a.packets[0].host_ns == positions[0] * NS_PER_S // 48_000


def test_silence_is_announced_once_and_costs_nothing() -> None:
    rig = Rig()
    listener = FakeListener()
    Subscribers(rig.graph).join(listener.outlet(rig), rig.sink)
    playing(rig, np.concatenate((sine(0.5), np.zeros((48_000 * 5, 2), np.float32), sine(0.5))))
    rig.run(10.0)
    assert len(listener.packets) < (1.0 + 2 * 0.3) * 50
    silences = [m for m in listener.texts if isinstance(m, Silence)]
    assert len(silences) == 2
    gaps = np.diff([p.position for p in listener.packets])
    assert gaps.max() / 48_000 == pytest.approx(4.8, abs=0.1)


def test_full_queue_drops_oldest_media_and_keeps_messages() -> None:
    rig = Rig()
    outlets = Subscribers(rig.graph)
    slow, fast = FakeListener(), FakeListener()
    stuck = slow.outlet(rig, codec="s16")
    outlets.join(stuck, rig.sink)
    outlets.join(fast.outlet(rig, codec="s16"), rig.sink)
    slow.open = False
    playing(rig, sine(4.0))
    rig.run(5.0)
    assert stuck.dropped_packets > 100 and stuck.queued <= 50
    slow.open = True
    stuck.flush()
    assert slow.packets[-1] == fast.packets[-1] and isinstance(slow.texts[-1], Silence)
    assert len(fast.packets) >= 200


def test_settings_change_in_place_or_with_new_generation() -> None:
    rig = Rig()
    outlets = Subscribers(rig.graph)
    listener = FakeListener()
    outlet = listener.outlet(rig)
    outlets.join(outlet, rig.sink)
    playing(rig, sine(6.0))
    rig.run(1.0)
    outlets.configure(outlet, changed(outlet.settings, {"bitrate": "16k", "frame": "60ms"}))
    rig.run(1.0)
    assert {p.generation for p in listener.packets} == {1} and listener.packets[-1].frames == 2880
    outlets.configure(outlet, changed(outlet.settings, {"codec": "s24"}))
    rig.run(1.0)
    assert listener.packets[-1].generation == 2 and len(listener.packets[-1].payload) == listener.packets[-1].frames * 6
    outlets.leave(outlet)
    assert not rig.graph.taps


# Each frame's value is its position in units of 2⁻²⁰, so a packet shows by itself whether its position is right.
def blocks_of(group: SharedEncoder, at: int, count: int, frames: int = 480) -> int:
    """Let the encoder consume blocks from position `at` on; the position behind them."""
    for start in range(at, at + count * frames, frames):
        numbers = np.arange(start, start + frames, dtype=np.float32) / 2**20
        group.consume(np.stack((numbers, numbers), axis=1), start, 1.0)
    return at + count * frames


def stamped_wrongly(listener: FakeListener) -> list[tuple[int, float]]:
    firsts = [(p.position, 2**20 * float(decode_pcm("f32", p.payload, 2)[0, 0])) for p in listener.packets]
    return [(position, first) for position, first in firsts if position != first]


def test_shorter_packets_during_playback_lose_nothing_and_keep_positions() -> None:
    rig, listener = Rig(), FakeListener()
    outlets, outlet = Subscribers(rig.graph), listener.outlet(rig, codec="f32", frame="60ms")
    outlets.join(outlet, rig.sink)
    group = outlet.group
    assert group is not None
    at = 480
    for frame, blocks in (("60ms", 8), ("2.5ms", 3), ("60ms", 11), ("5ms", 1), ("40ms", 5), ("20ms", 9)):
        outlets.configure(outlet, changed(outlet.settings, {"frame": frame}))
        at = blocks_of(group, at, blocks)
    assert outlet.group is group and len({p.frames for p in listener.packets}) == 5
    assert stamped_wrongly(listener) == []
    ends = [p.position + p.frames for p in listener.packets]
    assert [p.position for p in listener.packets] == [480, *ends[:-1]] and at - ends[-1] < 960


@pytest.mark.parametrize("jump", [1, 480, 2400, 4700, 9600])
def test_packets_after_position_jump_have_new_positions(jump: int) -> None:
    rig, listener = Rig(), FakeListener()
    outlet = listener.outlet(rig, codec="f32")
    Subscribers(rig.graph).join(outlet, rig.sink)
    group = outlet.group
    assert group is not None
    at = blocks_of(group, 0, 7)
    blocks_of(group, at + jump, 7)
    assert stamped_wrongly(listener) == [] and listener.packets[-1].position > at


def test_graphs_at_44100_are_resampled_for_opus() -> None:
    rig = Rig(rate=44_100)
    listener = FakeListener()
    Subscribers(rig.graph).join(listener.outlet(rig), rig.sink)
    playing(rig, sine(2.0, rate=44_100))
    rig.run(3.0)
    decoder = OpusDecoder(2)
    sound = np.concatenate([decoder.decode(p.payload) for p in listener.packets])
    assert abs(frequency_hz(sound[9600:72_000, 0], 48_000) - 997) < 0.1


def test_encoder_is_released_with_its_last_listener() -> None:
    rig = Rig()
    outlets = Subscribers(rig.graph)
    listener = FakeListener()
    outlet = listener.outlet(rig)
    outlets.join(outlet, rig.sink)
    group = outlet.group
    assert group is not None and group._encoder is not None
    encoder = group._encoder
    # It takes next to no memory until there is sound.
    rig.run(0.1)
    assert encoder._state is None and not group._pending.size
    add(rig)
    rig.run(0.1)
    assert encoder._state is not None
    outlets.leave(outlet)
    assert group._encoder is None and encoder._state is None
    with pytest.raises(CodecError, match="closed"):
        encoder.encode(np.zeros((960, 2), np.float32))
    encoder.close()


def test_encoders_that_take_turns_do_not_mix_their_sound_or_settings() -> None:
    sounds = [sine(0.2, hz=hz) for hz in (500, 3000)]

    def made(bitrate: int) -> OpusEncoder:
        encoder = OpusEncoder(2, CodecSettings(bitrate=64_000))
        # Before its first sound, too, settings and losses take effect.
        encoder.configure(CodecSettings(bitrate=bitrate, fec=True))
        encoder.expect_loss(20)
        return encoder

    apart = []
    for sound, bitrate in zip(sounds, (32_000, 128_000), strict=True):
        encoder = made(bitrate)
        apart.append([encoder.encode(sound[at : at + 960]) for at in range(0, len(sound), 960)])
    both = [made(32_000), made(128_000)]
    turns = [[one.encode(sound[at : at + 960]) for one, sound in zip(both, sounds, strict=True)]
             for at in range(0, len(sounds[0]), 960)]  # fmt: skip
    assert [list(packets) for packets in zip(*turns, strict=True)] == apart
    assert [one.bitrate for one in both] == [32_000, 128_000]


# -- the protocol's page -----------------------------------------------------------------------------


def test_protocol_page_names_every_field_as_sent() -> None:
    named: dict[str, set[str]] = {}
    for row in PAGE.read_text().splitlines():
        if row.startswith("| `"):
            types = re.findall(r"`(\w+)`", row.split("|")[1])
            for type_ in types:
                named.setdefault(type_, set()).update(re.findall(r"\w+", row))
    messages = {*get_args(FromListener), *get_args(FromDaemon)}
    assert len(messages) > 10
    for message in messages:
        missing = set(message.__struct_encode_fields__) - named[message.__struct_config__.tag]
        assert not missing, (message.__struct_config__.tag, missing)


def test_control_messages_stay_queued_when_packets_are_dropped() -> None:
    listener = FakeListener()
    outlet = listener.outlet(Rig())
    listener.open = False
    outlet.send("format", *(bytes([number]) for number in range(60)))
    listener.open = True
    outlet.flush()
    assert listener.messages == ["format", *(bytes([number]) for number in range(11, 60))]
    assert outlet.dropped_packets == 11


def test_packets_of_discontinuous_transmission_are_not_sent_and_no_loss() -> None:
    rig, listener = Rig(), FakeListener()
    outlet = listener.outlet(rig, dtx="on")
    Subscribers(rig.graph).join(outlet, rig.sink)
    group = outlet.group
    assert group is not None
    payloads = iter([b"sound", b"\x08", b"\x08", b"sound"])
    group._encoder = SimpleNamespace(encode=lambda block: next(payloads))  # type: ignore[assignment]
    blocks_of(group, 0, 8)
    assert [(p.sequence, p.position) for p in listener.packets] == [(0, 0), (1, 3 * 960)]
