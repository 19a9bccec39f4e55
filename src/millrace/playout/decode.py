"""Packets to frames: decoding, concealment of lost packets, positions on the media time line."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from millrace.clock.allowance import Allowance
from millrace.codec.opus import OpusDecoder
from millrace.codec.parameters import CodecParameters, checked_parameters, packet_fits
from millrace.codec.pcm import decode_pcm
from millrace.dsp.convert import Samples
from millrace.errors import CodecError, RemoteProtocolError
from millrace.media.audio import AudioPacket
from millrace.units import Frames, HostNs, frames_to_ns

DTX_MAX_MS = 500
"""With DTX, Opus sends a packet at least every 400 ms (RFC 6716, section 2.1.9)."""


class Decoded(NamedTuple):
    """Consecutive frames; `position` is that of the first. `concealed` ones were made up."""

    position: Frames
    block: Samples
    concealed: bool = False


class PacketDecoder:
    """Decodes one stream format. `allowance` bounds the output, because a packet of a few bytes can expand to much."""

    def __init__(self, fmt: CodecParameters, allowance: Allowance | None = None) -> None:
        self.format = checked_parameters(fmt)
        self.channels = len(fmt.positions)
        self._allowance = allowance or Allowance()
        self.lost_packets = 0
        self._opus = self._decoder() if fmt.codec == "opus" else None
        self._back = self._inverse_order()
        self._expected: Frames | None = None
        self._sequence = 0

    def _decoder(self) -> OpusDecoder:
        fmt = self.format
        try:
            return OpusDecoder(self.channels, fmt.streams, fmt.coupled, tuple(fmt.mapping))
        except CodecError as error:
            raise RemoteProtocolError(f"Opus with {self.channels} channels can't be decoded: {error}") from None

    def _inverse_order(self) -> list[int] | None:
        order = self.format.order
        if not order or order == list(range(self.channels)):
            return None
        return [order.index(i) for i in range(self.channels)]

    def silence(self) -> None:
        """A pause follows: the jump to the next packet's position is not loss."""
        self._expected = None

    # Asked on arrival and not when the packet is decoded: the allowance is a rate of arrival, and a packet may wait in
    # the reorder buffer.
    def fits(self, packet: AudioPacket, now_ns: HostNs) -> bool:
        """Check a packet on arrival. One that is not plausible is treated as lost."""
        self._allowance.passed(now_ns)
        return packet_fits(packet, self.format) and self._take(packet.frames)

    def _take(self, frames: Frames) -> bool:
        return self._allowance.take(frames_to_ns(frames, self.format.rate))

    def decode(self, packet: AudioPacket) -> list[Decoded]:
        """The packet's frames, preceded by concealment for lost packets before it."""
        out: list[Decoded] = []
        # Positions, not sequence numbers, decide what is missing: with DTX the sender leaves packets out without a gap
        # in the numbers. The numbers only give how many packets were lost.
        if self._expected is not None:
            missing = packet.position - self._expected
            # It repeats what was concealed already, or was sent twice: decoding it now would put the decoder's state
            # out of order.
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

    def _conceal(self, packet: AudioPacket, start: Frames, missing: Frames) -> list[Decoded]:
        if self._opus is None or missing > self.format.rate * DTX_MAX_MS // 1000 or not self._take(missing):
            return []
        # The packets that are missing are taken to be as long as this one. A remainder shorter than that stays a gap in
        # the positions, which the link makes up.
        step = packet.frames
        out: list[Decoded] = []
        while missing >= step:
            # In-band FEC restores only the packet directly before; the ones before that are concealed.
            last = missing < 2 * step
            try:
                block = self._opus.recover(packet.payload, step) if last else self._opus.conceal(step)
            except CodecError:
                block = self._made_up(self._opus, step)
            out.append(Decoded(start - self.format.lookahead, self._ordered(block), True))
            start, missing = start + step, missing - step
        return out

    def _frames(self, packet: AudioPacket) -> Samples:
        if self._opus is None:
            return decode_pcm(self.format.codec, packet.payload, self.channels)
        try:
            block = self._opus.decode(packet.payload)
            if len(block) != packet.frames:
                raise CodecError(f"a packet of {packet.frames} frames has {len(block)}")
        except CodecError:
            self.lost_packets += 1
            block = self._made_up(self._opus, packet.frames)
        return self._ordered(block)

    def _made_up(self, opus: OpusDecoder, frames: Frames) -> Samples:
        try:
            return opus.conceal(frames)
        except CodecError:
            return np.zeros((frames, self.channels), np.float32)

    def _ordered(self, block: Samples) -> Samples:
        return block if self._back is None else np.ascontiguousarray(block[:, self._back])
