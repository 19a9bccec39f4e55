"""A listener's dropouts, kept until their cause is clear enough to report."""

from __future__ import annotations

from collections import deque

from millrace.client.blame import Blame, Verdict
from millrace.dsp.convert import Samples
from millrace.playout.playout import Playout
from millrace.units import NS_PER_MS, NS_PER_S, HostNs

PULSE_NS: HostNs = 50 * NS_PER_MS
"""How often a listener checks whether it is being scheduled on time."""
SKIP_NS: HostNs = 30 * NS_PER_MS
"""Skipping more than this at once is reported like a dropout."""
UNSURE_NS: HostNs = NS_PER_S
"""How long a verdict may wait for further packets to settle the cause."""
STALL_NS: HostNs = 250 * NS_PER_MS


# A dropout is noticed at once, and judged later. When sound runs out it is not yet known whether the missing packets
# are late or lost; the next one that arrives decides. While that is open (`Blame.unsure`) a dropout waits, for a
# second at most, and the verdict is still dated to its cause.
class Dropouts:
    """The dropouts of one listener. Not thread-safe: the caller holds a lock."""

    def __init__(self) -> None:
        self.blame = Blame(PULSE_NS)
        self._holes: deque[HostNs] = deque(maxlen=16)
        self._verdicts: deque[Verdict] = deque(maxlen=16)
        self._lost = 0

    def pull(self, playout: Playout, out: Samples, now_ns: HostNs) -> None:
        """Fill `out` for the output, and note a dropout if there was one."""
        holes, left_out = playout.tally.concealments, playout.tally.left_out_frames
        late_ns = self.blame.pulled(now_ns, len(out) * NS_PER_S // playout.rate)
        playout.pull(out, now_ns)
        skipped_ns = (playout.tally.left_out_frames - left_out) * NS_PER_S // playout.rate
        # A device late by more than its buffer holds has had an audible underrun, even if it catches up at once.
        if playout.tally.concealments != holes or skipped_ns > SKIP_NS or late_ns > STALL_NS:
            self._holes.append(now_ns)

    def gone(self, at_ns: HostNs) -> None:
        """The output has lost its device."""
        self._verdicts.append(self.blame.gone(at_ns))

    def pulse(self, playout: Playout | None, now_ns: HostNs) -> list[Verdict]:
        """To be called every `PULSE_NS`; returns the verdicts to report by now."""
        if self.blame.ticked(now_ns) > STALL_NS and playout is not None:
            # This process stood still for so long that the output must have run dry.
            self._holes.append(now_ns)
        lost = playout.lost_packets if playout is not None else 0
        new, self._lost = lost - self._lost, lost
        verdict = self.blame.lost(now_ns, new) if new > 0 else None
        out = [*self._verdicts] if verdict is None else [*self._verdicts, verdict]
        self._verdicts.clear()
        while self._holes and not (self.blame.unsure(now_ns) and now_ns - self._holes[0] < UNSURE_NS):
            out.append(self.blame.hole(self._holes.popleft()))
        return out
