"""Playout: packets and the time go in, frames come out. Sans-IO.

Packets are put in order, decoded, and passed to an AdaptiveLink, which decides when each frame is heard
(playout/adaptive.py, clock/pace.py). `docs/time.md` describes the whole path.
"""

from __future__ import annotations

import numpy as np

from millrace.clock.allowance import Allowance
from millrace.clock.jitter import JitterProfile, profile_of
from millrace.clock.pace import RateController
from millrace.codec.parameters import CodecParameters
from millrace.dsp.channels import Matrix, mix_matrix
from millrace.dsp.convert import Samples
from millrace.media.audio import AudioPacket
from millrace.playout.adaptive import SPLICE_NS, AdaptiveLink, PlayoutStats, State
from millrace.playout.buffer import LOOKAHEAD, JitterBuffer
from millrace.playout.decode import PacketDecoder
from millrace.playout.reorder import Reorder
from millrace.units import NS_PER_MS, NS_PER_S, Frames, HostNs, Positions, frames_to_ns

WAIT_NS = 10 * NS_PER_MS
"""A missing packet is waited for until only this much is left to play before it."""


class Playout:
    """Turns packets into frames for a sound card, at `rate` with `positions`.

    `latency` is a profile, its name, or a fixed latency such as 30ms.
    """

    def __init__(
        self, rate: int, positions: Positions, latency: str | JitterProfile, splice_ns: HostNs = SPLICE_NS
    ) -> None:
        self.rate, self.positions = rate, positions
        self.played_frames: Frames = 0
        self.pace = RateController(rate, profile_of(latency) if isinstance(latency, str) else latency)
        self._splice_ns = splice_ns
        self._decoder: PacketDecoder | None = None
        self._allowance = Allowance()
        self._matrix: Matrix | None = None
        self._reorder = Reorder()
        self._voice = JitterBuffer(rate, len(positions))
        self._link = AdaptiveLink(rate, rate, self.pace, self._voice, splice_ns)
        self._lost_before = 0

    # -- in ----------------------------------------------------------------------------------

    def set_format(self, fmt: CodecParameters) -> None:
        """Packets of this format follow."""
        # The allowance is shared by all formats: otherwise the sender could renew it by changing the format.
        decoder = PacketDecoder(fmt, self._allowance)
        self._lost_before = self.lost_packets
        self._decoder = decoder
        self._matrix = mix_matrix(tuple(fmt.positions), self.positions)
        self._reorder.clear()
        self.pace.codec_ns = frames_to_ns(fmt.lookahead, fmt.rate)
        if fmt.rate != self._link.rate:
            self._voice = JitterBuffer(fmt.rate, len(self.positions))
            self._link = AdaptiveLink(fmt.rate, self.rate, self.pace, self._voice, self._splice_ns, self.tally)

    # Only the daemon's clock is forgotten. The card is the same one, and so is what is known of the network's jitter.
    def rejoined(self) -> None:
        """The connection is new, perhaps to another machine with another clock."""
        self.pace.media.restart()
        self.silence()

    @property
    def lost_packets(self) -> int:
        """Packets that never arrived."""
        return self._lost_before + (self._decoder.lost_packets if self._decoder else 0)

    def push(self, packet: AudioPacket, now_ns: HostNs) -> None:
        """A packet has arrived."""
        if self._decoder is None or not self._decoder.fits(packet, now_ns):
            return
        length_ns = frames_to_ns(packet.frames, self._decoder.format.rate)
        self.pace.arrived(packet.host_ns, length_ns, now_ns, packet.follows)
        # The arrival is recorded before the packet waits its turn: a packet that overtook others says the same about
        # the path as one that did not.
        for ready in self._reorder.add(packet):
            self._decode(ready, self._decoder)

    def _decode(self, packet: AudioPacket, decoder: PacketDecoder) -> None:
        link = self._link
        for part in decoder.decode(packet):
            # The tape may hold the silence that pushed out the last sound, and the resampler its tail. What begins now
            # is cut off from that.
            if link.state is State.QUIET:
                self._voice.stop()
            media_ns = packet.host_ns + (part.position - packet.position) * NS_PER_S // link.rate
            missing = link.missing(media_ns)
            if missing:
                self._voice.conceal(missing - link.replaced(missing))
            block = part.block if self._matrix is None else part.block @ self._matrix
            if part.concealed:
                block = block[link.replaced(len(block)) :]
            link.written(media_ns, len(part.block), self._voice.write(block))

    def silence(self) -> None:
        """The sound has ended: what is queued is played, then silence, which is not an underrun."""
        self._release()
        if self._link.state is not State.QUIET:
            # Pushes the last frames out of the resampler.
            self._voice.write(np.zeros((2 * LOOKAHEAD, len(self.positions)), np.float32))
        self._link.end()
        if self._decoder is not None:
            self._decoder.silence()

    def _release(self) -> None:
        if self._decoder is not None:
            for packet in self._reorder.release():
                self._decode(packet, self._decoder)

    # -- out ---------------------------------------------------------------------------------

    def pull(self, out: Samples, now_ns: HostNs, due_ns: HostNs | None = None) -> None:
        """Fill `out` (frames, channels) with what is to be heard from `now_ns` on; for `due_ns` see AdaptiveLink."""
        # Waiting for a missing packet costs nothing while there is sound to play. At the last moment the packets behind
        # it are worth more than the chance that it still arrives.
        if self._reorder.waiting and self.fill_ns < WAIT_NS + frames_to_ns(len(out), self.rate):
            self._release()
        if self._link.pull(len(out), now_ns, due_ns):
            lead = self._link.lead
            out[:lead] = 0.0
            self.played_frames += self._voice.read(out[lead:], self._link.ratio)
        else:
            out.fill(0.0)

    # -- state -------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """What is heard."""
        return self._link.state

    @property
    def tally(self) -> PlayoutStats:
        """What had to be done to keep time."""
        return self._link.tally

    @property
    def fill_ns(self) -> HostNs:
        """Duration of what is queued."""
        return self._link.fill_ns

    @property
    def head_ns(self) -> float:
        """Capture time of the next frame to be heard, on the daemon's clock."""
        return self._link.head_ns

    @property
    def late_ns(self) -> float:
        """How far the latency is off its target."""
        return self._link.late_ns

    @property
    def ratio_ppm(self) -> float:
        """How much faster than it was captured the sound is played."""
        return (self._link.speed - 1.0) * 1e6

    def latency_ns(self, now_ns: HostNs, offset_ns: HostNs) -> HostNs:
        """Age of the frame that is played next; `offset_ns` is the daemon's clock minus ours."""
        return round(now_ns + offset_ns - self._link.head_ns)
