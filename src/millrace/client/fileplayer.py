"""Writes a listener's sound to a file."""

from __future__ import annotations

from millrace.backends.base import FileOutput
from millrace.clock.allowance import Allowance
from millrace.codec.parameters import CodecParameters
from millrace.media.audio import AudioPacket
from millrace.playout.decode import PacketDecoder
from millrace.units import NS_PER_S, Frames, HostNs, frames_to_ns

SILENCE_MAX_S = 60
"""Longer gaps are left out, and so are gaps longer than the time that really passed."""


# A file has no clock: it is written as fast as packets arrive, and time is taken from their positions alone. A peer
# could therefore claim any gap. What may be filled with silence is limited by the time that has really passed
# (`_allowance`), and no single gap is longer than `SILENCE_MAX_S`; a longer one is left out.
class FilePlayer:
    """Writes the media timeline to a file: frame n is position base + n, gaps become silence."""

    def __init__(self, output: FileOutput) -> None:
        self._output = output
        self._decoder: PacketDecoder | None = None
        self._allowance = Allowance(SILENCE_MAX_S * NS_PER_S)
        self._next: Frames | None = None
        self.played_frames: Frames = 0
        """The length of the file, silence included."""
        self._lost_before = 0

    @property
    def lost_packets(self) -> int:
        """Packets that never arrived."""
        return self._lost_before + (self._decoder.lost_packets if self._decoder else 0)

    def set_format(self, fmt: CodecParameters) -> None:
        """The following packets have this format."""
        self._lost_before = self.lost_packets
        decoder = PacketDecoder(fmt, self._allowance)
        self._output.open(fmt.rate, tuple(fmt.positions))
        self._decoder = decoder

    def push(self, packet: AudioPacket, now_ns: HostNs) -> None:
        """A packet has arrived."""
        if self._decoder is None or not self._decoder.fits(packet, now_ns):
            return
        for position, block, _ in self._decoder.decode(packet):
            gap = 0 if self._next is None else position - self._next
            rate = self._decoder.format.rate
            if 0 < gap <= rate * SILENCE_MAX_S and self._allowance.take(frames_to_ns(gap, rate)):
                self._output.skip(gap)
                self.played_frames += gap
            elif gap < 0 and -gap < len(block):
                # An overlap: write only the part that is new.
                block = block[-gap:]
            elif gap < 0:
                continue
            self._output.write(block)
            self.played_frames += len(block)
            self._next = max(position, self._next or 0) + len(block) if gap < 0 else position + len(block)

    def silence(self) -> None:
        """A pause follows."""
        if self._decoder is not None:
            self._decoder.silence()

    def close(self) -> None:
        """Finish the file."""
        self._output.close()
