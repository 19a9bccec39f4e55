"""Machines' servers that send nonsense: each ends only its own connection, with a sentence."""

from __future__ import annotations

import struct
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from millrace.doors.qemu.door import ENDED_VOICES_MAX, STEP_BYTES, VOICES_MAX, EndedVoices, QemuPlayback
from millrace.doors.spice.door import SpicePlayback
from millrace.doors.vnc.door import VncDoor
from millrace.dsp.convert import SampleFormat
from millrace.errors import RemoteProtocolError
from millrace.guest.machines.address import parse_door
from millrace.guest.machines.qemu import QemuMachine
from millrace.io.crypto import spice_ticket
from millrace.media.format import AudioFormat
from millrace.sim.rig import Rig
from millrace.text import SHOWN_MAX
from millrace.units import default_map
from millrace.wire.qemu.audio import AudioPeer, VoiceFini, VoiceInit, VoiceVolume, VoiceWrite, format_of
from millrace.wire.qemu.client import DisplayClient, NotThere, Refusal
from millrace.wire.qemu.dbus import CALL, ERROR, Message
from millrace.wire.qemu.qmp import QmpHandover
from millrace.wire.qemu.values import VALUES_MAX, Reader, Writer, element
from millrace.wire.spice.channel import ChannelKind, SpiceChannel, SpiceMessage
from millrace.wire.vnc.client import AudioBegin, AudioData, VncClient

PCM = format_of(16, True, False, 48_000, 2, False)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"[" * 60_000 + b"\n", "nested too deeply"),
        (b'{"QMP": "\xff\xfe"}\n', "not UTF-8"),
        (b'{"QMP": "\\ud800"}\n', "not understood"),
        (b"1" * 60_000 + b"\n", "not understood"),
        (b"x" * 70_000, "too long"),
        (b'{"event": "X"}\n' * 1_001, "without an answer"),
        (b'{"error": {"desc": "\\u001b[2J\\nforged"}}\n', r"refuses: \\x1b\[2J\\nforged; "),
        (b'{"error": {"desc": ' + b"[" * 500 + b"]" * 500 + b"}}\n", "refuses"),
    ],
)
def test_non_qmp_server_is_reported_in_a_sentence(said: bytes, expected: str) -> None:
    with pytest.raises(RemoteProtocolError, match=expected) as raised:
        core = QmpHandover(9, 0)
        for at in range(0, len(said), 4096):
            core.receive(said[at : at + 4096], 0)
    assert len(str(raised.value)) < 400


def test_signature_branching_at_every_level_fails_fast() -> None:
    with pytest.raises(RemoteProtocolError, match="malformed D-Bus signature"):
        element("a{s" * 60 + "s" + "}" * 60)


def test_values_per_message_are_limited() -> None:
    many = Writer().blob(bytes(4 * VALUES_MAX)).bytes()
    with pytest.raises(RemoteProtocolError, match="too many"):
        Reader(many).values("an")
    assert len(Reader(many).values("ay")[0]) == 4 * VALUES_MAX


def test_names_and_errors_from_machines_are_truncated() -> None:
    long = "x" * 50_000
    client = DisplayClient(0, True, 0, "vm")
    client._answered("Out", None, Message(ERROR, 0, 1, {4: long, 8: "s"}, Writer().text("s", long).bytes()))
    refused = client.events()[0]
    assert isinstance(refused, Refusal) and len(refused.error) == len(refused.text) == SHOWN_MAX
    machine: Any = SimpleNamespace(spec=parse_door("dbus:unix:path=/x", vm=long))
    assert len(QemuMachine._not_there(machine, NotThere((long,) * 500))) < 1_000


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("sample", SampleFormat)
def test_sound_shorter_than_a_frame_is_ignored(sample: SampleFormat, size: int) -> None:
    fmt = AudioFormat(sample, 48_000, default_map(2))
    assert fmt.decode(bytes(size)).shape == (0, 2) and fmt.decode(bytes(fmt.frame_bytes + size)).shape == (1, 2)


@pytest.mark.parametrize("size", [0, 1, 3])
def test_any_protocol_may_send_empty_sound(size: int) -> None:
    rig = Rig()
    peer = AudioPeer(0)
    peer._events += [VoiceInit(1, PCM), VoiceWrite(1, bytes(size))]
    QemuPlayback(rig.graph, peer, "QEMU", EndedVoices()).receive(0)
    wire = VncClient(48_000, 2, "", lambda challenge, password: bytes(16), 0)
    wire._events += [AudioBegin(), AudioData(bytes(size))]
    VncDoor(rig.graph, wire).receive(0)
    channel = SpiceChannel(ChannelKind.PLAYBACK, 1, 0, "", lambda key, text: bytes(128), 0)
    spice = SpicePlayback(rig.graph, channel, "SPICE")
    channel._events += [
        SpiceMessage(103, struct.pack("<IHII", 2, 1, 48_000, 0)), SpiceMessage(101, bytes(4 + size)),
    ]  # fmt: skip
    spice.receive(0)
    assert not any(stream.active for stream in rig.graph.streams.values())


@pytest.mark.parametrize(("sample", "channels"), [(SampleFormat.U8, 1), (SampleFormat.S32LE, 3)])
def test_large_write_is_taken_in_steps_and_what_follows_waits_for_it(sample: SampleFormat, channels: int) -> None:
    rig, peer = Rig(), AudioPeer(0)
    door = QemuPlayback(rig.graph, peer, "QEMU", EndedVoices())
    fmt = AudioFormat(sample, 48_000, default_map(channels))
    size = 1_040_000 - 1_040_000 % fmt.frame_bytes
    peer._events += [VoiceInit(1, fmt), VoiceWrite(1, bytes(size)), VoiceVolume(1, False, (128,) * channels)]
    before = peer.partial_bytes
    door.receive(0)
    held, taken = [before, peer.partial_bytes], [0, door.voices[1].stream.frames]
    while peer.unfinished:
        assert 1.0 in door.voices[1].stream.volume
        peer.receive(b"", 0)
        door.receive(0)
        held.append(peer.partial_bytes)
        taken.append(door.voices[1].stream.frames)
    assert before == size and held == sorted(held, reverse=True) and held[-1] == 0
    assert all(0 < (after - before) * fmt.frame_bytes <= STEP_BYTES for before, after in pairwise(taken))
    assert taken[-1] * fmt.frame_bytes == size and 1.0 not in door.voices[1].stream.volume


def test_volume_has_at_most_the_channels_of_a_voice() -> None:
    body = Writer().number("t", 1).number("b", 0).blob(bytes(1_000_000)).bytes()
    message = Message(CALL, 0, 1, {3: "SetVolume", 8: "tbay"}, body)
    with pytest.raises(RemoteProtocolError, match="volume has too many channels: 1000000"):
        AudioPeer._event(message)


def test_voices_with_ever_new_numbers_are_forgotten() -> None:
    rig = Rig()
    peer, kept = AudioPeer(0), EndedVoices()
    door = QemuPlayback(rig.graph, peer, "QEMU", kept)
    for n in range(2 * ENDED_VOICES_MAX):
        peer._events += [VoiceInit(n, PCM), VoiceVolume(n, False, (255, 255)), VoiceFini(n)]
        door.receive(0)
    assert len(kept) == ENDED_VOICES_MAX and len(kept.volume) <= ENDED_VOICES_MAX
    peer._events += [VoiceInit(n, PCM) for n in range(2 * VOICES_MAX)]
    door.receive(0)
    assert len(door.voices) == VOICES_MAX


def test_invalid_spice_key_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    long = rsa.generate_private_key(65537, 2048).public_key()
    for key in (other, long):
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        with pytest.raises(RemoteProtocolError, match="RSA of 1024 bits"):
            spice_ticket(der, "")
    with pytest.raises(RemoteProtocolError, match="can't be used"):
        spice_ticket(bytes(162), "")


def test_spice_opus_has_one_or_two_channels() -> None:
    rig = Rig()
    channel = SpiceChannel(ChannelKind.PLAYBACK, 1, 0, "", lambda key, text: bytes(128), 0)
    door = SpicePlayback(rig.graph, channel, "SPICE")
    channel._events += [
        SpiceMessage(102, struct.pack("<IH", 0, 3)),
        SpiceMessage(103, struct.pack("<IHII", 3, 1, 48_000, 0)),
    ]
    with pytest.raises(RemoteProtocolError, match="too many channels for SPICE Opus: 3"):
        door.receive(0)


def test_vnc_refusal_reason_is_sanitised_for_terminal() -> None:
    wire = VncClient(48_000, 2, "", lambda challenge, password: bytes(16), 0)
    with pytest.raises(RemoteProtocolError) as raised:
        wire.receive(b"RFB 003.008\n\0" + struct.pack(">I", 12) + b"\x1b[2J\nforged!", 0)
    assert str(raised.value) == "the VNC server refused: \\x1b[2J\\nforged!"
