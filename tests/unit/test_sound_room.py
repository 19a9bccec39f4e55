"""Sound of machines for which a guest has no room: left out, and begun once there is some."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from millrace.budget import PROGRAMS, Account
from millrace.doors.pushed import PushedStream
from millrace.doors.qemu.door import VOICES_MAX, EndedVoices, QemuPlayback, QemuRecord
from millrace.doors.soundroom import SoundRoom
from millrace.doors.spice.door import SpicePlayback, SpiceRecord
from millrace.doors.vnc.door import VncDoor
from millrace.dsp.convert import SampleFormat
from millrace.errors import GraphError
from millrace.media.format import AudioFormat
from millrace.sim.rig import Rig
from millrace.units import default_map
from millrace.wire.qemu.audio import (
    AudioPeer,
    VoiceEnabled,
    VoiceFini,
    VoiceInit,
    VoiceRead,
    VoiceVolume,
    VoiceWrite,
)
from millrace.wire.spice.channel import ChannelKind, SpiceChannel, SpiceMessage
from millrace.wire.vnc.client import VncClient
from millrace.wire.vnc.messages import AudioBegin

PCM = AudioFormat(SampleFormat.S16LE, 48_000, default_map(2))
START = SpiceMessage(103, struct.pack("<IHII", 2, 1, 48_000, 0))


def filled(rig: Rig, left: int = 0) -> Account:
    """Somebody else leaves programs so many bytes."""
    budget = rig.graph.budget
    return budget.open("other", {"all": int(budget.limit * PROGRAMS) - budget.held - left})


def spice(kind: ChannelKind, *messages: SpiceMessage) -> SpiceChannel:
    made = SpiceChannel(kind, 1, 0, "", lambda key, text: bytes(128), 0)
    made._events += messages
    return made


def test_what_has_no_room_is_tried_without_a_refusal_until_there_is_some(caplog: pytest.LogCaptureFixture) -> None:
    rig, made = Rig(), list[int]()
    budget, other = rig.graph.budget, filled(rig, 99)
    room = SoundRoom("vm", "sound", budget)

    def make(number: int) -> None:
        budget.open("sound", {"all": 100})
        made.append(number)

    for number in (1, 2, 1):
        room.begin(number, lambda number=number: make(number))  # type: ignore[misc]
    refusals = budget.refusals
    assert len(room) == 2 and 1 in room and 3 not in room and room.trouble.startswith("no room for its sound: ")
    room.fit(0)
    assert budget.refusals == refusals and not made and len(caplog.records) == 1
    room.end(1)
    assert room.trouble and len(room) == 1
    other.close()
    room.fit(0)
    assert made == [2] and not room.trouble and not len(room)
    room.fit(0)
    assert made == [2]
    filled(rig)
    room.begin(3, lambda: make(3))
    room.close()
    assert not room.trouble and not len(room)


def test_too_many_streams_are_no_room_either() -> None:
    def make() -> None:
        raise GraphError("the maximum")

    room = SoundRoom("vm", "sound", Rig().graph.budget)
    room.begin(1, make)
    room.fit(0)
    assert room.trouble == "no room for its sound: the maximum"


@pytest.mark.parametrize("channels", [1, 2, 6, 8])
@pytest.mark.parametrize("door", ["playback", "record"])
def test_room_is_looked_for_without_refusals_whatever_the_format(door: str, channels: int) -> None:
    """Up to the last byte that is lacking, and without taking anything from anybody."""
    rig, peer, spared = Rig(), AudioPeer(0), list[int]()
    budget = rig.graph.budget
    budget.open("film").may_spare(lambda: spared.append(1))
    made = QemuPlayback(rig.graph, peer, "QEMU", EndedVoices())
    sound = made if door == "playback" else QemuRecord(rig.graph, rig.graph.add_source("mic", "x"), peer, "QEMU")
    other, before = filled(rig), budget.held
    peer._events.append(VoiceInit(1, AudioFormat(SampleFormat.S16LE, 48_000, default_map(channels))))
    sound.receive(0)
    refusals, demands = budget.refusals, len(spared)
    while not sound.voices:
        other.hold("all", other.part("all") - 1000)
        sound.room.fit(0)
    assert budget.refusals == refusals and len(spared) == demands
    assert before - 1000 < budget.held <= before
    sound.close()


def test_sound_of_qemu_begins_when_there_is_room_with_the_volume_that_the_guest_set() -> None:
    rig, peer, kept = Rig(), AudioPeer(0), EndedVoices()
    door, other = QemuPlayback(rig.graph, peer, "QEMU", kept), filled(rig)
    peer._events += [VoiceInit(1, PCM), VoiceEnabled(1, True), VoiceVolume(1, False, (0, 0)), VoiceWrite(1, bytes(800))]
    peer._events += [VoiceInit(2, PCM), VoiceVolume(2, True, (255, 255)), VoiceFini(2)]
    door.receive(0)
    assert not door.voices and "no room for its sound" in door.room.trouble and set(kept.volume) == {1}
    other.close()
    door.room.fit(0)
    assert set(door.voices) == {1} and not door.room.trouble and door.voices[1].stream.volume == (0.0, 0.0)
    peer._events.append(VoiceWrite(1, bytes(800)))
    door.receive(0)
    assert door.voices[1].stream.frames == 200
    filled(rig)
    peer._events += [VoiceInit(n, PCM) for n in range(2, 2 * VOICES_MAX)]
    door.receive(0)
    assert len(door.room) == VOICES_MAX - 1
    door.close()
    assert not door.room.trouble and not rig.graph.streams


def test_recording_of_qemu_begins_when_there_is_room_if_the_guest_still_records() -> None:
    rig, peer = Rig(), AudioPeer(0)
    door = QemuRecord(rig.graph, rig.graph.add_source("mic", "x"), peer, "QEMU")
    other, answered = filled(rig), list[bytes]()
    peer.send_sound = lambda read, data: answered.append(data)  # type: ignore[method-assign]
    for number, enabled in ((1, True), (2, False)):
        peer._events += [VoiceInit(number, PCM), VoiceEnabled(number, True), VoiceEnabled(number, enabled)]
    read: Any = VoiceRead(1, 64, None)  # type: ignore[arg-type]
    peer._events.append(read)
    door.receive(0)
    assert answered == [b""] and not door.recording and "no room for its recording" in door.room.trouble
    other.close()
    door.room.fit(0)
    assert [voice.queue.running for voice in door.voices.values()] == [True, False] and not door.room.trouble
    door.close()
    assert not rig.graph.taps


def test_recordings_without_room_are_bounded_and_a_new_one_records_only_if_enabled_itself() -> None:
    rig, peer = Rig(), AudioPeer(0)
    door, other = QemuRecord(rig.graph, rig.graph.add_source("mic", "x"), peer, "QEMU"), filled(rig)
    peer._events += [VoiceInit(n, PCM) for n in range(1, 2 * VOICES_MAX)]
    door.receive(0)
    assert len(door.room) == VOICES_MAX
    other.close()
    peer._events += [VoiceEnabled(1, True), VoiceFini(1), VoiceInit(1, PCM)]
    door.receive(0)
    assert not door.voices[1].queue.running
    door.close()


def test_sound_of_spice_begins_when_there_is_room() -> None:
    rig = Rig()
    channel, other = spice(ChannelKind.PLAYBACK, START, SpiceMessage(101, bytes(404))), filled(rig)
    door = SpicePlayback(rig.graph, channel, "SPICE")
    door.receive(0)
    assert not door.streams and door.room.trouble
    other.close()
    door.room.fit(0)
    channel._events.append(SpiceMessage(101, bytes(404)))
    door.receive(0)
    (stream,) = door.streams
    assert stream.frames == 100 and not door.room.trouble
    door.close()


def test_sound_of_spice_in_another_format_without_room_ends_the_one_before_and_keeps_its_volume() -> None:
    rig = Rig()
    channel = spice(ChannelKind.PLAYBACK, START)
    door = SpicePlayback(rig.graph, channel, "SPICE")
    door.receive(0)
    (before,) = door.streams
    before.node.mute = True
    rig.graph.move_stream(before.node, rig.graph.add_sink("chosen"))
    other = filled(rig)
    mono = SpiceMessage(103, struct.pack("<IHII", 1, 1, 192_000, 0))
    channel._events += [mono, SpiceMessage(101, bytes(404))]
    door.receive(0)
    assert not door.streams and not rig.graph.streams and before.frames == 0
    other.close()
    door.room.fit(0)
    (after,) = door.streams
    assert isinstance(after, PushedStream) and after.format.rate == 192_000 and after.node.mute
    assert after.pace is before.pace and after.node.sink.name == "chosen"


def test_recording_of_spice_begins_when_there_is_room_unless_it_has_stopped() -> None:
    rig = Rig()
    channel = spice(ChannelKind.RECORD, SpiceMessage(101, struct.pack("<IHI", 2, 1, 48_000)))
    source = rig.graph.add_source("mic", "x")
    door, other = SpiceRecord(rig.graph, source, channel, "SPICE", lambda: None), filled(rig)
    sent = channel.data_to_send()
    door.receive(0)
    assert not door.recording and door.room.trouble and channel.data_to_send() == b"" != sent
    other.close()
    door.room.fit(0)
    assert door.recording and channel.data_to_send()
    other = filled(rig)
    door.close()
    other.close()
    channel._events += [SpiceMessage(101, struct.pack("<IHI", 2, 1, 48_000)), SpiceMessage(102, b"")]
    filled(rig)
    door.receive(0)
    assert not len(door.room)


def test_sound_of_vnc_begins_when_there_is_room() -> None:
    rig, wire = Rig(), VncClient(48_000, 2, "", lambda challenge, text: b"", 0)
    wire._events.append(AudioBegin())
    door, other = VncDoor(rig.graph, wire), filled(rig)
    door.receive(0)
    assert not door.streams and door.room.trouble
    other.close()
    door.room.fit(0)
    assert len(door.streams) == 1 and np.isfinite(door.streams[0].fill_ns)
    door.close()


def test_door_that_is_closed_begins_nothing_when_there_is_room() -> None:
    rig, wire = Rig(), VncClient(48_000, 2, "", lambda challenge, text: b"", 0)
    wire._events.append(AudioBegin())
    other = filled(rig)
    vnc, playback = VncDoor(rig.graph, wire), SpicePlayback(rig.graph, spice(ChannelKind.PLAYBACK, START), "SPICE")
    for door in (vnc, playback):
        door.receive(0)
        assert len(door.room) == 1
        door.close()
    other.close()
    for door in (vnc, playback):
        door.room.fit(0)
        assert not door.streams and not door.room.trouble
