"""Writes a listener's sound to a file."""

from __future__ import annotations

from millrace.backends.base import FileOutput
from millrace.clock.allowance import Allowance
from millrace.codec.parameters import CodecParameters
from millrace.media.audio import AudioPacket
from millrace.playout.decode import PacketDecoder
from millrace.units import NS_PER_S, Frames, HostNs, frames_to_ns

SILENCE_MAX_S = 60
"""Longer gaps between positions are left out, and so are gaps longer than the time that really passed."""
BEHIND_NS = 10 * NS_PER_S
"""In a long silence the file is kept this much behind the time, so that the next packet's position still lies ahead."""


# Where sound follows sound, time is taken from the packets' positions alone. A peer could therefore claim any gap. What
# may be filled with silence is limited by the time that has really passed (`_allowance`), and no single gap is longer
# than `SILENCE_MAX_S`; a longer one is left out. Where there is nothing to take a position from (before the first
# packet, after the last, without a connection, in a long silence), this machine's clock says how much silence there is.
class FilePlayer:
    """Writes sound to a file in its place. Frame 0 is the moment of `begin`; what is not sound is silence."""

    def __init__(self, output: FileOutput) -> None:
        self._output = output
        self._decoder: PacketDecoder | None = None
        self._allowance = Allowance(SILENCE_MAX_S * NS_PER_S)
        self._next: Frames | None = None
        """The position at which the file ends; None if the next packet's can't be compared with it."""
        self._end_ns: HostNs | None = None
        """When the file ends, on this machine's clock."""
        self._quiet = True
        self.played_frames: Frames = 0
        """The length of the file, silence included."""
        self._lost_before = 0

    @property
    def lost_packets(self) -> int:
        """Packets that never arrived."""
        return self._lost_before + (self._decoder.lost_packets if self._decoder else 0)

    def begin(self, now_ns: HostNs) -> None:
        """It has joined: the file begins now, with silence until there is sound, unless it has begun."""
        if self._end_ns is None:
            self._end_ns = now_ns

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
        rate = self._decoder.format.rate
        if self._next is None:
            self._until(now_ns - frames_to_ns(packet.frames, rate))
        self._quiet, self._end_ns = False, now_ns
        for position, block, _ in self._decoder.decode(packet):
            gap = 0 if self._next is None else position - self._next
            if 0 < gap <= rate * SILENCE_MAX_S and self._allowance.take(frames_to_ns(gap, rate)):
                self._skip(gap)
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
        self._quiet = True
        if self._decoder is not None:
            self._decoder.silence()

    def apart(self) -> None:
        """There is no connection: a pause follows, and then other positions, perhaps of another daemon."""
        self.silence()
        self._next = None

    def passed(self, now_ns: HostNs) -> None:
        """Time has passed: a long silence is written bit by bit."""
        if self._quiet and self._end_ns is not None and now_ns - self._end_ns > 2 * BEHIND_NS:
            self._until(now_ns - BEHIND_NS)

    def close(self, now_ns: HostNs) -> None:
        """Finish the file, with silence until now."""
        self._until(now_ns)
        self._output.close()

    def _until(self, at_ns: HostNs) -> None:
        """Append silence, so that the file ends at `at_ns`."""
        if self._decoder is None or self._end_ns is None or at_ns <= self._end_ns:
            return
        frames = (at_ns - self._end_ns) * self._decoder.format.rate // NS_PER_S
        self._end_ns = at_ns
        self._skip(frames)
        if self._next is not None:
            self._next += frames

    def _skip(self, frames: Frames) -> None:
        self._output.skip(frames)
        self.played_frames += frames
