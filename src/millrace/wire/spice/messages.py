"""Messages of the main, playback and record channels (spice-protocol: enums.h; spice.proto of spice-common)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeAlias

from millrace.errors import RemoteProtocolError
from millrace.wire.spice.channel import SpiceMessage, unpack

MODE_RAW, MODE_OPUS = 1, 3
# VOLUME and LATENCY. Without OPUS_CAP the server sends raw samples, whatever it prefers.
PLAYBACK_CAPS = 0b0110
OPUS_CAP = 0b1000
RECORD_CAPS = 0b0010
ATTACH_CHANNELS, REQUEST_MOUSE_MODE = 104, 105
MOUSE_RELATIVE, MOUSE_ABSOLUTE = 1, 2
"""Mouse modes: of a machine that has only a mouse, and of one with a tablet or an agent."""
RECORD_DATA, RECORD_MODE, RECORD_START_MARK = 101, 102, 103
_FORMAT_S16 = 1
_CHANNELS_MAX = 8


@dataclass(frozen=True, slots=True)
class MouseMode:
    """How the machine takes the pointer: the possible modes, and the current one."""

    possible: int = 0
    current: int = 0


@dataclass(frozen=True, slots=True)
class MainInit:
    """The session ID, the server's multimedia time in ms, and how the machine takes the pointer."""

    session: int
    mm_time: int
    mouse: MouseMode = MouseMode()


@dataclass(frozen=True, slots=True)
class ChannelsList:
    """(type, id) of the available channels; sent again when one is added."""

    channels: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class MmTime:
    """The server's multimedia time."""

    mm_time: int


@dataclass(frozen=True, slots=True)
class Mode:
    """The encoding of the following data."""

    mode: int


@dataclass(frozen=True, slots=True)
class Start:
    """Sound begins (playback) or is requested (record)."""

    channels: int
    rate: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Sound ends."""


@dataclass(frozen=True, slots=True)
class Data:
    """Sound to be played at `mm_time`."""

    mm_time: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Volume:
    """The guest's mixer, 0 to 65535 for each channel."""

    volume: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Mute:
    """The guest's mute."""

    mute: bool


MainEvent: TypeAlias = MainInit | ChannelsList | MmTime | MouseMode
SoundEvent: TypeAlias = Mode | Start | Stop | Data | Volume | Mute


def main_event(message: SpiceMessage) -> MainEvent | None:
    """Decode a main channel's message; None if it is not needed here."""
    body = message.body
    if message.kind == 103:
        session, _, possible, current, _, _, mm_time, _ = unpack("<8I", body)
        return MainInit(session, mm_time, MouseMode(possible, current))
    if message.kind == 104:
        (count,) = unpack("<I", body)
        if count > 256:
            raise RemoteProtocolError(f"too many SPICE channels: {count}")
        flat = unpack(f"<{2 * count}B", body, 4)
        return ChannelsList(tuple(zip(flat[::2], flat[1::2], strict=True)))
    if message.kind == 105:
        return MouseMode(*unpack("<HH", body))
    if message.kind == 106:
        return MmTime(unpack("<I", body)[0])
    return None


def _start(channels: int, form: int, rate: int) -> Start:
    if form != _FORMAT_S16 or not 1 <= channels <= _CHANNELS_MAX or not 8_000 <= rate <= 192_000:
        raise RemoteProtocolError(f"unsupported SPICE audio format: {channels} channels, format {form}, {rate} Hz")
    return Start(channels, rate)


def _volume(body: bytes) -> Volume:
    (count,) = unpack("<B", body)
    return Volume(unpack(f"<{count}H", body, 1))


def playback_event(message: SpiceMessage) -> SoundEvent | None:
    """Decode a playback channel's message; None if it is not needed here."""
    kind, body = message.kind, message.body
    if kind == 101:
        return Data(unpack("<I", body)[0], body[4:])
    if kind == 102:
        return Mode(unpack("<IH", body)[1])
    if kind == 103:
        channels, form, rate, _ = unpack("<IHII", body)
        return _start(channels, form, rate)
    if kind == 104:
        return Stop()
    if kind == 105:
        return _volume(body)
    return Mute(bool(unpack("<B", body)[0])) if kind == 106 else None


def record_event(message: SpiceMessage) -> SoundEvent | None:
    """Decode a record channel's message; None if it is not needed here."""
    kind, body = message.kind, message.body
    if kind == 101:
        return _start(*unpack("<IHI", body))
    if kind == 102:
        return Stop()
    if kind == 103:
        return _volume(body)
    return Mute(bool(unpack("<B", body)[0])) if kind == 104 else None


def record_data(mm_time: int, pcm: bytes) -> bytes:
    """Encode the body of the record channel's DATA message."""
    return struct.pack("<I", mm_time & 0xFFFFFFFF) + pcm
