"""The parameters needed to decode sound, and their validation."""

from __future__ import annotations

from typing import Annotated

import msgspec

from millrace.codec.opus import OPUS_RATE
from millrace.codec.pcm import PCM_BYTES
from millrace.errors import RemoteProtocolError
from millrace.media.audio import AudioPacket
from millrace.media.fields import INT_MAX, Count
from millrace.text import quoted
from millrace.units import MAX_CHANNELS, RATE_MAX, RATE_MIN

OPUS_STEP = OPUS_RATE // 400
"""Opus durations are multiples of 2.5 ms."""
OPUS_BYTES_MAX = 64 * 1024
PACKET_MAX_MS = 120
"""The longest Opus packet (RFC 6716, section 3.1)."""
LOOKAHEAD_MAX_MS = 100
SAMPLES_MAX = 8 * RATE_MAX
"""One second of all channels. A player allocates its buffers for a format as soon as that arrives."""
Channels = Annotated[list[Annotated[int, msgspec.Meta(ge=0, le=255)]], msgspec.Meta(max_length=MAX_CHANNELS)]


class CodecParameters(msgspec.Struct):
    """The format of the media packets that follow. `lookahead` frames at the start are codec delay.

    `order[i]` is our channel that travels as channel i; streams, coupled and mapping are those of Opus multistream
    (RFC 7845, section 5.1.1) if there are more than two channels.
    """

    generation: Count
    codec: str
    rate: Count
    positions: Annotated[list[str], msgspec.Meta(max_length=MAX_CHANNELS)]
    lookahead: Count = 0
    streams: Count = 1
    coupled: Count = 0
    mapping: Channels = []
    order: Channels = []


# Called as soon as a format arrives, because a player then allocates seconds of buffer for it: what passes here is the
# most that a peer can make a player allocate.
def checked_parameters(fmt: CodecParameters) -> CodecParameters:
    """`fmt` if it is plausible, checked before anything is allocated for it; else RemoteProtocolError."""
    channels = len(fmt.positions)
    if fmt.codec != "opus" and fmt.codec not in PCM_BYTES:
        raise RemoteProtocolError(f"unsupported codec: {quoted(fmt.codec)}; opus, {', '.join(PCM_BYTES)} can be played")
    if not RATE_MIN <= fmt.rate <= RATE_MAX or not 1 <= channels <= MAX_CHANNELS:
        raise RemoteProtocolError(f"unsupported format: {channels} channels at {fmt.rate} Hz")
    if channels * fmt.rate > SAMPLES_MAX:
        raise RemoteProtocolError(
            f"unsupported format: {channels} channels at {fmt.rate} Hz are more than can be played"
        )
    if fmt.lookahead * 1000 > fmt.rate * LOOKAHEAD_MAX_MS:
        raise RemoteProtocolError(f"codec look-ahead of {fmt.lookahead} frames exceeds {LOOKAHEAD_MAX_MS} ms")
    if fmt.order and sorted(fmt.order) != list(range(channels)):
        raise RemoteProtocolError("the channel order is not a permutation")
    if fmt.codec == "opus":
        _check_opus(fmt, channels)
    return fmt


def _check_opus(fmt: CodecParameters, channels: int) -> None:
    """RFC 7845, section 5.1.1: a stream decodes to one channel, a coupled one to two; index 255 is silence."""
    if fmt.rate != OPUS_RATE:
        raise RemoteProtocolError(f"unsupported rate for Opus: {fmt.rate} Hz")
    if channels <= 2:
        return
    decoded = fmt.streams + fmt.coupled
    whole = 1 <= fmt.streams <= MAX_CHANNELS and fmt.coupled <= fmt.streams and len(fmt.mapping) == channels
    if not whole or any(decoded <= index != 255 for index in fmt.mapping):
        raise RemoteProtocolError(
            f"invalid Opus mapping: {channels} channels from {fmt.streams} streams, {fmt.coupled} coupled"
        )


# A packet is judged before it is decoded: a few bytes of Opus can announce any length, and positions and times go into
# integer arithmetic that must stay within 63 bits.
def packet_fits(packet: AudioPacket, fmt: CodecParameters) -> bool:
    """Whether a packet can belong to `fmt`, by its length and its times. One that can't is treated as lost."""
    frames, size = packet.frames, len(packet.payload)
    if not size or not 0 < frames * 1000 <= fmt.rate * PACKET_MAX_MS or max(packet.position, packet.host_ns) > INT_MAX:
        return False
    if fmt.codec == "opus":
        return frames % OPUS_STEP == 0 and size <= OPUS_BYTES_MAX
    return size == frames * PCM_BYTES[fmt.codec] * len(fmt.positions)
