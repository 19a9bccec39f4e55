"""Packets of tracks on the peer protocol: the layout, who is sent it, and that older ends still play sound."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import ValidationError, validate

from millrace.codec.opus import OpusDecoder
from millrace.codec.parameters import CodecParameters
from millrace.dsp.convert import SampleFormat, encode
from millrace.dsp.measure import frequency_hz, level_dbfs
from millrace.errors import RemoteProtocolError
from millrace.media.audio import AudioPacket
from millrace.media.fields import INT_MAX
from millrace.media.packet import Flags, Packet
from millrace.outlets.peer import Subscriber
from millrace.outlets.subscribers import Subscribers
from millrace.pixels.rects import Rect
from millrace.playout.decode import PacketDecoder
from millrace.sim.rig import Rig
from millrace.sim.signals import sine
from millrace.units import NS_PER_S, frames_to_ns
from millrace.wire.peer.messages import (
    Bye,
    Configure,
    Configured,
    Fault,
    FormatChanged,
    FromDaemon,
    FromListener,
    Hello,
    Microphone,
    Ping,
    Pong,
    Report,
    Silence,
    Trouble,
    Welcome,
    decode_from_listener,
    encode_message,
)
from millrace.wire.peer.session import PeerClient, PeerServer
from millrace.wire.peer.tracks import (
    SOUND_TRACK,
    TRACK,
    TRACK_HEADER_BYTES,
    Tracked,
    pack_track,
    sound_of,
    unpack_track,
)
from millrace.wire.pulse.tagstruct import Spec

BEFORE = json.loads((Path(__file__).parent / "peer_0_1.json").read_text())
"""What both ends of version 0.1.0 said (the daemon half a second of a 997 Hz sine), and schemas of what they read."""
HEADER_0_1 = struct.Struct("<BBHIQQ")


def before(line: str) -> str | bytes:
    return line if line.startswith("{") else base64.b64decode(line)


# -- the layout ----------------------------------------------------------------------------------

SIGNED = st.integers(-(2**63), 2**63 - 1)
SMALL = st.integers(0, 0xFFFF)
PACKETS = st.builds(
    lambda number, generation, pts, dts, us, flags, payload, region: Packet(
        number, generation, pts, pts if dts is None else dts, us * 1_000, 5, Flags(flags), payload, region
    ),
    st.integers(0, INT_MAX), st.integers(0, 2**32 - 1), SIGNED, st.none() | SIGNED, st.integers(0, 2**32 - 1),
    st.integers(0, 15), st.binary(max_size=100), st.none() | st.builds(Rect, SMALL, SMALL, SMALL, SMALL),
)  # fmt: skip


@given(SMALL, PACKETS, st.booleans())
def test_track_packet_survives_a_round_trip(track: int, packet: Packet, follows: bool) -> None:
    assert unpack_track(pack_track(track, packet, follows), 5) == Tracked(track, packet, follows)


@given(st.binary(max_size=80), st.booleans())
def test_any_bytes_are_a_packet_skipped_or_refused(data: bytes, ours: bool) -> None:
    if ours:
        data = bytes([TRACK]) + data[1:]
    client = PeerClient(Hello(), 0)
    client.receive(encode_message(FormatChanged(FORMAT)), 0)
    client.events()
    try:
        client.receive(data, 0)
        tracked = unpack_track(data, 0)
    except RemoteProtocolError:
        return
    assert all(isinstance(event, AudioPacket) for event in client.events())
    if tracked is not None and tracked.packet.duration_ns < 2**32 * 1_000:
        again = pack_track(tracked.track, tracked.packet, tracked.follows)
        assert unpack_track(again, 0) == tracked


def test_unknown_flag_is_skipped_and_truncated_header_refused() -> None:
    data = pack_track(1, Packet(1, 1, 1, 0, 1_000, 0, Flags.KEY, b"", Rect(1, 2, 3, 4)))
    assert unpack_track(data[:1] + b"\x80" + data[2:], 0) is None
    assert unpack_track(b"\x04" + data[1:], 0) is None
    for size in range(len(data)):
        try:
            unpack_track(data[:size], 0)
        except RemoteProtocolError:
            continue
        raise AssertionError(f"{size} bytes of {len(data)}")


@given(st.integers(0, 2**40), st.integers(1, 40_000), st.sampled_from([8_000, 11_025, 44_100, 48_000, 96_000, 384_000]))
def test_timestamp_restores_exact_position(position: int, frames: int, rate: int) -> None:
    start_ns = frames_to_ns(position, rate)
    packet = Packet(7, 1, start_ns, start_ns, frames_to_ns(frames, rate), 0, Flags.END, b"x")
    fmt = CodecParameters(1, "s16", rate, ["mono"])
    tracked = unpack_track(pack_track(SOUND_TRACK, packet), 0)
    assert tracked is not None
    assert sound_of(tracked, fmt) == AudioPacket(1, frames, 7, position, start_ns, b"x")
    assert sound_of(tracked._replace(track=1), fmt) is None


# -- who is sent it ------------------------------------------------------------------------------

FORMAT = CodecParameters(1, "opus", 48_000, ["front-left", "front-right"], 312)


class Ends:
    """A new daemon's outlet, and what listeners that said these hellos are sent."""

    def __init__(self, *hellos: str) -> None:
        self.rig = Rig()
        outlets = Subscribers(self.rig.graph)
        self.sent: list[list[str | bytes]] = []
        for text in hellos:
            server = PeerServer(0)
            server.receive(text, 0)
            (hello,) = server.events()
            assert isinstance(hello, Hello)
            lines: list[str | bytes] = []
            outlet = Subscriber(self.rig.graph.ids.take(), "x", lines.extend, lambda: True)
            outlet.tracks = hello.tracks
            outlets.join(outlet, self.rig.sink)
            self.sent.append(lines)
        sound = encode(SampleFormat.F32LE, sine(0.5))
        self.rig.client().play(Spec(SampleFormat.F32LE, 2, self.rig.graph.rate), (1, 2), sound).drain()
        self.rig.run(1.0)

    def media(self, which: int) -> list[bytes]:
        return [message for message in self.sent[which] if isinstance(message, bytes)]


def played(lines: list[str | bytes]) -> tuple[list[AudioPacket], np.ndarray]:
    """What a listener of today makes of what it is sent."""
    client = PeerClient(Hello(), 0)
    packets, decoder = [], None
    for line in lines:
        client.receive(line, 0)
        for event in client.events():
            if isinstance(event, FormatChanged):
                decoder = PacketDecoder(event.format)
            elif isinstance(event, AudioPacket):
                packets.append(event)
    assert decoder is not None
    return packets, np.concatenate([part.block for packet in packets for part in decoder.decode(packet)])


def is_the_sine(sound: np.ndarray) -> bool:
    middle = sound[4_800:19_200, 0]
    return abs(frequency_hz(middle, 48_000) - 997) < 0.5 and abs(level_dbfs(middle) - level_dbfs(sine(0.3)[:, 0])) < 0.5


def test_track_packets_are_sent_only_to_listeners_that_support_them() -> None:
    ends = Ends(encode_message(Hello(name="plain")), encode_message(Hello(name="tracks", tracks=True)))
    plain, tracked = ends.media(0), ends.media(1)
    assert {data[0] for data in plain} <= {1, 2} and {data[0] for data in tracked} == {TRACK}
    assert len(tracked[0]) == len(plain[0]) + TRACK_HEADER_BYTES - HEADER_0_1.size
    first, second = played(ends.sent[0]), played(ends.sent[1])
    assert first[0] == second[0] and is_the_sine(first[1]) and np.array_equal(first[1], second[1])


def test_listener_of_0_1_plays_this_daemons_packets() -> None:
    ends = Ends(BEFORE["hello"], encode_message(Hello(name="beside", tracks=True)))
    decoder, blocks, expected = OpusDecoder(2), [], None
    for data in ends.media(0):
        # As version 0.1.0 read it.
        kind, generation, frames, sequence, position, host_ns = HEADER_0_1.unpack_from(data)
        assert kind in (1, 2) and generation == 1 and host_ns == frames_to_ns(position, 48_000)
        assert expected in (None, (sequence, position))
        blocks.append(decoder.decode(data[HEADER_0_1.size :]))
        assert len(blocks[-1]) == frames
        expected = (sequence + 1, position + frames)
    assert is_the_sine(np.concatenate(blocks))


def test_this_listener_plays_packets_of_0_1_daemon() -> None:
    packets, sound = played([before(line) for line in BEFORE["sent"]])
    assert len(packets) == sum(not line.startswith("{") for line in BEFORE["sent"]) and is_the_sine(sound)


def test_daemon_of_0_1_accepts_this_listeners_hello() -> None:
    # It skipped fields that it did not know; all those that it knew are as they were.
    new, old = json.loads(encode_message(Hello(name="before", tracks=True))), json.loads(BEFORE["hello"])
    assert {name: new[name] for name in old} == old
    assert decode_from_listener(BEFORE["hello"]) == Hello(name="before")


SETTINGS: dict[str, str | int | bool] = {"codec": "opus", "bitrate": 64_000, "vbr": True}
SAID_TO_BOTH = [Silence(7), Ping(1), Pong(1, 2), Bye("it ends", False)]
SAID_BY_DAEMON = [
    Welcome(2, "default", "millrace", SETTINGS), FormatChanged(FORMAT), Configured(SETTINGS), Microphone(True, False),
    Fault("rights", "no", True, "hear"), *SAID_TO_BOTH,
]  # fmt: skip
SAID_BY_LISTENER = [
    Hello(name="a", settings={"codec": "s16"}, latency="low", sink="music", microphone=True, tracks=True),
    Configure({"bitrate": "64k"}), FormatChanged(FORMAT), Trouble("underrun", "network", "late", -5, {"late_ms": 1.5}),
    Report(1, 2, 3, 4, 5, "null", 6, -0.5, True, 7, {"path": -1}), *SAID_TO_BOTH,
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "said", "read"),
    [(FromDaemon, SAID_BY_DAEMON, "FromDaemon"), (FromListener, SAID_BY_LISTENER, "FromListener")],
)
def test_messages_are_those_that_0_1_reads(kind: Any, said: list[Any], read: str) -> None:
    """A field more is skipped; a message of another type ended the session."""
    assert {type(message) for message in said} == set(get_args(kind)), "what is new is for those that asked for it"
    for message in said:
        validate(json.loads(encode_message(message)), BEFORE[read])
    with pytest.raises(ValidationError):
        validate({"type": "news"}, BEFORE[read])


def test_timestamps_outside_sound_range_are_skipped() -> None:
    packet = Packet(1, 1, -1, -1, NS_PER_S, 0, Flags.END, b"x")
    assert sound_of(Tracked(SOUND_TRACK, packet), FORMAT) is None
