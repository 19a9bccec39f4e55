"""A listener's complaints: holes in its sound, kept until it is clear why they were."""

from __future__ import annotations

from collections import deque

from millrace.client.blame import Blame, Verdict
from millrace.dsp.convert import Samples
from millrace.playout.playout import Playout
from millrace.units import NS_PER_MS, NS_PER_S, HostNs

PULSE_NS: HostNs = 50 * NS_PER_MS
"""How often a listener sees whether it is let run."""
SKIP_NS: HostNs = 30 * NS_PER_MS
"""More than this left out at once is told as a hole is."""
UNSURE_NS: HostNs = NS_PER_S
"""How long a verdict on the line waits for what comes next."""
STOOD_NS: HostNs = 250 * NS_PER_MS


class Dropouts:
    """One listener's. Its caller keeps threads apart."""

    def __init__(self) -> None:
        self.blame = Blame(PULSE_NS)
        self._holes: deque[HostNs] = deque(maxlen=16)
        self._verdicts: deque[Verdict] = deque(maxlen=16)
        self._lost = 0

    def pull(self, playout: Playout, out: Samples, now_ns: HostNs) -> None:
        """The output asks: fill `out`, and see what was wrong with it."""
        holes, left_out = playout.tally.concealments, playout.tally.left_out_frames
        late_ns = self.blame.pulled(now_ns, len(out) * NS_PER_S // playout.rate)
        playout.pull(out, now_ns)
        skipped_ns = (playout.tally.left_out_frames - left_out) * NS_PER_S // playout.rate
        # A device that is late by more than it holds was heard to be, even if it makes up for it at once.
        if playout.tally.concealments != holes or skipped_ns > SKIP_NS or late_ns > STOOD_NS:
            self._holes.append(now_ns)

    def gone(self, at_ns: HostNs) -> None:
        """The output has lost its device."""
        self._verdicts.append(self.blame.gone(at_ns))

    def pulse(self, playout: Playout | None, now_ns: HostNs) -> list[Verdict]:
        """Called every `PULSE_NS`, if the program is let run: what is to be complained of by now."""
        if self.blame.ticked(now_ns) > STOOD_NS and playout is not None:
            # Whatever was heard meanwhile, it was not this sound.
            self._holes.append(now_ns)
        lost = playout.lost_packets if playout is not None else 0
        new, self._lost = lost - self._lost, lost
        verdict = self.blame.lost(now_ns, new) if new > 0 else None
        out = [*self._verdicts] if verdict is None else [*self._verdicts, verdict]
        self._verdicts.clear()
        while self._holes and not (self.blame.unsure(now_ns) and now_ns - self._holes[0] < UNSURE_NS):
            out.append(self.blame.hole(self._holes.popleft()))
        return out
