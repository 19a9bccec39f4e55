"""Packets to frames: decoding, concealment of what is missing, positions on the media time line."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from millrace.codec.opus import OPUS_RATE, OpusDecoder
from millrace.codec.pcm import decode_pcm
from millrace.dsp.convert import Samples
from millrace.errors import CodecError, RemoteProtocolError
from millrace.units import MAX_CHANNELS, RATE_MAX, RATE_MIN, Frames
from millrace.wire.peer.messages import Packet, StreamFormat

OPUS_STEP = OPUS_RATE // 400
"""Opus counts in 2.5 ms."""
PACKET_MAX_MS = 120
"""The longest that Opus has (RFC 6716, section 3.1)."""
DTX_MAX_MS = 500
"""Opus sends one packet at least every 400 ms in DTX (RFC 6716, section 2.1.9)."""


class Decoded(NamedTuple):
    """Frames in a row; `position` is that of the first. `concealed` ones were made up."""

    position: Frames
    block: Samples
    concealed: bool = False


def check_format(fmt: StreamFormat) -> None:
    """RemoteProtocolError for a format that makes no sense."""
    if not RATE_MIN <= fmt.rate <= RATE_MAX or not 1 <= len(fmt.positions) <= MAX_CHANNELS:
        raise RemoteProtocolError(f"a stream of {len(fmt.positions)} channels at {fmt.rate} Hz")
    if fmt.codec == "opus" and fmt.rate != OPUS_RATE:
        raise RemoteProtocolError(f"Opus at {fmt.rate} Hz")


class PacketDecoder:
    """Decodes one stream format."""

    def __init__(self, fmt: StreamFormat) -> None:
        check_format(fmt)
        self.format = fmt
        self.channels = len(fmt.positions)
        self.lost_packets = 0
        self.damaged_packets = 0
        self._opus = self._decoder() if fmt.codec == "opus" else None
        self._back = self._inverse_order()
        self._expected: Frames | None = None
        self._sequence = 0

    def _decoder(self) -> OpusDecoder:
        fmt = self.format
        return OpusDecoder(self.channels, fmt.streams, fmt.coupled, tuple(fmt.mapping))

    def _inverse_order(self) -> list[int] | None:
        order = self.format.order
        if not order or order == list(range(self.channels)):
            return None
        if sorted(order) != list(range(self.channels)):
            raise RemoteProtocolError("the channel order is no permutation")
        return [order.index(i) for i in range(self.channels)]

    def silence(self) -> None:
        """A pause follows: the next packet's position is no loss."""
        self._expected = None

    def check(self, packet: Packet) -> None:
        """RemoteProtocolError for a length that can't be. Whoever keeps packets for later asks when they come."""
        whole = self._opus is None or packet.frames % OPUS_STEP == 0
        if not whole or not 0 < packet.frames * 1000 <= self.format.rate * PACKET_MAX_MS:
            raise RemoteProtocolError(f"a packet of {packet.frames} frames")

    def decode(self, packet: Packet) -> list[Decoded]:
        """The packet's frames, preceded by what had to be made up for those before it."""
        self.check(packet)
        out: list[Decoded] = []
        if self._expected is not None:
            missing = packet.position - self._expected
            if missing < 0:
                return out
            if missing > 0:
                self.lost_packets += max(0, packet.sequence - self._sequence - 1)
                out += self._conceal(packet, self._expected, missing)
        block = self._frames(packet)
        out.append(Decoded(packet.position - self.format.lookahead, block))
        self._expected = packet.position + len(block)
        self._sequence = packet.sequence
        return out

    def _conceal(self, packet: Packet, start: Frames, missing: Frames) -> list[Decoded]:
        if self._opus is None or missing > self.format.rate * DTX_MAX_MS // 1000:
            return []
        step = packet.frames
        out: list[Decoded] = []
        while missing >= step:
            last = missing < 2 * step
            try:
                block = self._opus.recover(packet.payload, step) if last else self._opus.conceal(step)
            except CodecError:
                self.damaged_packets += 1
                block = np.zeros((step, self.channels), np.float32)
            out.append(Decoded(start - self.format.lookahead, self._ordered(block), True))
            start, missing = start + step, missing - step
        return out

    def _frames(self, packet: Packet) -> Samples:
        try:
            if self._opus is not None:
                return self._ordered(self._opus.decode(packet.payload))
            return decode_pcm(self.format.codec, packet.payload, self.channels)
        except CodecError:
            self.damaged_packets += 1
            return np.zeros((packet.frames, self.channels), np.float32)

    def _ordered(self, block: Samples) -> Samples:
        return block if self._back is None else np.ascontiguousarray(block[:, self._back])
