"""Track packets on the peer protocol: a separate media kind, for listeners that set `tracks` in hello.

Listeners that don't know the kind skip it. The header is little-endian, 28 bytes: kind, flags, track, generation,
number, pts in ns, duration in µs. Then follow dts, if it differs from pts, and the region, if the packet covers only
part of the picture.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from millrace.codec.parameters import CodecParameters
from millrace.dsp.convert import Buffer
from millrace.errors import RemoteProtocolError
from millrace.media.audio import AudioPacket
from millrace.media.fields import INT_MAX
from millrace.media.packet import Flags, Packet
from millrace.pixels.rects import Rect
from millrace.units import NS_PER_S, NS_PER_US, HostNs

TRACK = 3
SOUND_TRACK = 0
"""The track of the sink that a listener hears; its format is that of the `format` message."""
_HEADER = struct.Struct("<BBHIQqI")
_DTS = struct.Struct("<q")
_REGION = struct.Struct("<HHHH")
TRACK_HEADER_BYTES = _HEADER.size
_MEDIA_FLAGS = int(Flags.KEY | Flags.DISCONTINUITY | Flags.DISPOSABLE | Flags.END)
_FOLLOWS, _HAS_DTS, _HAS_REGION = 16, 32, 64
# A flag that is not known may announce a field that is not known, so where the payload begins isn't known either: such
# a packet is skipped whole.
_KNOWN = _MEDIA_FLAGS | _FOLLOWS | _HAS_DTS | _HAS_REGION
DURATION_MAX_NS = (2**32 - 1) * NS_PER_US


class Tracked(NamedTuple):
    """A packet, its track, and whether it was sent together with the previous one."""

    track: int
    packet: Packet
    follows: bool = False


def pack_track(track: int, packet: Packet, follows: bool = False) -> bytes:
    """Encode a packet. Side data is not supported."""
    assert not packet.side, "this protocol version carries no side data"
    flags, more = int(packet.flags), b""
    if follows:
        flags |= _FOLLOWS
    if packet.dts_ns != packet.pts_ns:
        flags |= _HAS_DTS
        more += _DTS.pack(packet.dts_ns)
    if packet.region is not None:
        flags |= _HAS_REGION
        more += _REGION.pack(packet.region.x, packet.region.y, packet.region.width, packet.region.height)
    duration_us = min(packet.duration_ns, DURATION_MAX_NS) // NS_PER_US
    head = _HEADER.pack(TRACK, flags, track, packet.generation & 0xFFFFFFFF, packet.number, packet.pts_ns, duration_us)
    return head + more + packet.payload


def unpack_track(data: Buffer, now_ns: HostNs) -> Tracked | None:
    """Decode a packet; None for an unknown kind or flag."""
    if len(data) < TRACK_HEADER_BYTES:
        raise RemoteProtocolError(f"track packet too short: {len(data)} bytes")
    kind, flags, track, generation, number, pts_ns, duration_us = _HEADER.unpack_from(data)
    if kind != TRACK or flags & ~_KNOWN:
        return None
    if number > INT_MAX:
        raise RemoteProtocolError(f"invalid packet number: {number}")
    dts_ns, region, at = _optional(data, flags, pts_ns)
    packet = Packet(
        number, generation, pts_ns, dts_ns, duration_us * NS_PER_US, now_ns, Flags(flags & _MEDIA_FLAGS),
        bytes(memoryview(data)[at:]), region,
    )  # fmt: skip
    return Tracked(track, packet, bool(flags & _FOLLOWS))


def _optional(data: Buffer, flags: int, pts_ns: int) -> tuple[int, Rect | None, int]:
    """The optional fields between header and payload (dts, region), and where the payload begins."""
    at, dts_ns, region = TRACK_HEADER_BYTES, pts_ns, None
    needed = at + bool(flags & _HAS_DTS) * _DTS.size + bool(flags & _HAS_REGION) * _REGION.size
    if len(data) < needed:
        raise RemoteProtocolError(f"track packet too short: {len(data)} bytes; its header needs {needed}")
    if flags & _HAS_DTS:
        (dts_ns,) = _DTS.unpack_from(data, at)
        at += _DTS.size
    if flags & _HAS_REGION:
        region = Rect(*_REGION.unpack_from(data, at))
    return dts_ns, region, needed


# The sender rounds a position down to nanoseconds, and a frame lasts thousands of them: the nearest frame is the
# original one.
def sound_of(tracked: Tracked, fmt: CodecParameters) -> AudioPacket | None:
    """A sound track's packet in playout's form; None if it is of another track or generation.

    Both ends count frames from time 0, so rounding the time gives the exact position.
    """
    packet = tracked.packet
    if tracked.track != SOUND_TRACK or packet.generation != fmt.generation & 0xFFFFFFFF or packet.pts_ns < 0:
        return None
    frames = (packet.duration_ns * fmt.rate + NS_PER_S // 2) // NS_PER_S
    position = (packet.pts_ns * fmt.rate + NS_PER_S // 2) // NS_PER_S
    sequence = packet.number & 0xFFFFFFFF
    return AudioPacket(
        fmt.generation & 0xFF, frames, sequence, position, packet.pts_ns, packet.payload, tracked.follows
    )
