"""AdaptiveLink: carries sound from one foreign clock to another.

It is used wherever a foreign clock pushes: for a listener's sound card, a guest that sends at its own pace, a
listener's microphone. Frames go in with their capture time and their arrival time; the other side pulls. A
`RateController` decides how fast to play. Small errors are corrected by resampling, larger ones by splices, the largest
by a skip; if nothing arrives in time, the last sound is continued and faded out.

The samples are accessed through `PlayoutBuffer`, so that the simulator can run a day's decisions in a minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from millrace.clock.pace import RateController
from millrace.units import NS_PER_MS, NS_PER_S, Frames, HostNs

# Three corrections, by the size of the error. Up to `splice_ns` the speed alone is changed (by 1,000 ppm at most, so 2
# ms take seconds). Above it, a few milliseconds at a time are cut out or repeated. Above SKIP_NS that would take too
# long, and one crossfade to the right place is less disturbing.
STEER_NS = 20 * NS_PER_MS
"""The speed is recomputed this often: clocks do not change faster, and the pulls in between cost next to nothing."""
SPLICE_NS = 2 * NS_PER_MS
SPLICE_EVERY_NS = 60 * NS_PER_MS
"""A splice of up to 13 ms every 60 ms: 20 ms of latency are worked off in less than half a second."""
LATE_START_NS = 20 * NS_PER_MS
SKIP_NS = 150 * NS_PER_MS
CONCEAL_NS = 20 * NS_PER_MS
"""Sound continued for no longer than this is not heard as a gap."""
FADE_OUT_NS = 20 * NS_PER_MS
GAP_MAX_NS = 500 * NS_PER_MS


# The states, and what leads from one to the other:
#
#   QUIET    → PRIMING   something was written
#   PRIMING  → PLAYING   a whole pull is queued, and its first frame is due within this pull; or the sound has ended
#   PRIMING  → QUIET     the sound has ended, and nothing is left of it
#   PLAYING  → PRIMING   concealment has faded out, and still nothing came: an underrun
#   PLAYING  → QUIET     the sound has ended, and the last of it is in this pull
#
# Sound that begins, or begins again, waits in PRIMING until it is due, and so starts with the target latency. Nothing
# is heard then, which is why what is far too late is dropped there rather than skipped. `end` keeps a drained link from
# being taken for an underrun; any write takes it back.
class State(Enum):
    """What is heard: nothing, nothing yet, or sound."""

    QUIET = "quiet"
    PRIMING = "priming"
    PLAYING = "playing"


class PlayoutBuffer(Protocol):
    """Frames queued at the media's rate, and the operations on them."""

    @property
    def fill(self) -> float:
        """Frames queued and not yet heard, including those inside the resampler."""
        ...

    @property
    def ready(self) -> float:
        """How many of them can be read now; less than `fill`, because the resampler looks ahead."""
        ...

    def accelerate(self, most: Frames) -> Frames:
        """Cut out up to `most`, inaudibly; return how many."""
        ...

    def expand(self, most: Frames) -> Frames:
        """Repeat up to `most`, inaudibly; return how many."""
        ...

    def skip(self, frames: Frames) -> Frames:
        """Cut out about `frames` with one crossfade; return how many."""
        ...

    def drop(self, frames: Frames) -> Frames:
        """Discard up to `frames` and fade in what follows; for use before anything is heard. Return how many."""
        ...

    def conceal(self, frames: Frames) -> None:
        """Append `frames` that continue the sound."""
        ...


@dataclass(slots=True)
class PlayoutStats:
    """What had to be done, in media frames or in occurrences."""

    underruns: int = 0
    concealments: int = 0
    """How often sound was late and had to be continued; some of these became underruns."""
    accelerated_frames: Frames = 0
    skips: int = 0
    skipped_frames: Frames = 0
    overrun_frames: Frames = 0
    splices: int = 0

    @property
    def concealed(self) -> int:
        """Concealments that ended before they were audible as a gap."""
        return self.concealments - self.underruns

    @property
    def left_out_frames(self) -> Frames:
        """Frames left out to keep the latency, or because there was no room for them."""
        return self.skipped_frames + self.accelerated_frames + self.overrun_frames


class AdaptiveLink:
    """Makes the decisions. `rate` is the media's, `output_rate` the puller's; errors beyond `splice_ns` are spliced.

    A link that replaces another, at another rate, continues to count in that one's `tally`.
    """

    def __init__(
        self,
        rate: int,
        output_rate: int,
        pace: RateController,
        voice: PlayoutBuffer,
        splice_ns: HostNs = SPLICE_NS,
        tally: PlayoutStats | None = None,
    ) -> None:
        self._splice_ns = splice_ns
        self.rate, self.output_rate = rate, output_rate
        self.pace, self.voice = pace, voice
        self.state = State.QUIET
        self.tally = tally or PlayoutStats()
        self.late_ns = 0.0
        self.speed = 1.0
        self.lead: Frames = 0
        """Frames of this pull that stay silent, because the sound begins after them."""
        self._tail_ns: HostNs = 0
        self._ended = False
        self._concealed_ns = 0.0
        self._stead = 0.0
        self._spliced_ns: HostNs = 0
        self._steered_ns: HostNs = -STEER_NS

    # -- in --------------------------------------------------------------------------------------

    # The tail is set from the packet's own time and not added up, so loss or a pause never accumulates an error. What
    # was concealed in place of this sound must have been claimed by `replaced` before: it is forgotten here.
    def written(self, media_ns: HostNs, frames: Frames, overrun: Frames = 0) -> None:
        """`frames` captured from `media_ns` on were written, except `overrun` frames for which there was no room."""
        self.tally.overrun_frames += overrun
        self._ended = False
        self._concealed_ns = self._stead = 0.0
        if self.state is State.QUIET:
            self.state = State.PRIMING
        self._tail_ns = media_ns + frames * NS_PER_S // self.rate

    # A gap that is no longer than this is made up with concealment, to keep what follows at its place. A longer one, or
    # one after `end`, is a pause: media time went on without sound, and the next start takes it into account.
    def missing(self, media_ns: HostNs) -> Frames:
        """Frames missing between the last write and `media_ns`; 0 if the sound starts anew there."""
        gap = media_ns - self._tail_ns
        playing = self.state is State.PLAYING or self.voice.fill > 0
        return gap * self.rate // NS_PER_S if playing and not self._ended and 0 < gap <= GAP_MAX_NS else 0

    def replaced(self, frames: Frames) -> Frames:
        """How many of `frames` lost ones need not be made up, because concealment already replaced them."""
        # To make these frames up as well would play them twice: each loss would add its length to the latency, which
        # audible splices would then have to work off.
        done = min(frames, int(self._stead))
        self._stead -= done
        return done

    def end(self) -> None:
        """No more will come: what is queued is played, and running out of it is not an underrun."""
        self._ended = True

    # -- out -------------------------------------------------------------------------------------

    @property
    def fill_ns(self) -> HostNs:
        """Duration of what is queued."""
        return round(self.voice.fill * NS_PER_S / self.rate)

    @property
    def head_ns(self) -> float:
        """Capture time of the next frame to be heard."""
        return self._tail_ns - self.voice.fill * NS_PER_S / self.rate

    def pull(self, frames: Frames, now_ns: HostNs, due_ns: HostNs | None = None) -> bool:
        """The puller takes `frames`. True: read all after `lead`, at `ratio`. False: there is nothing to hear.

        After True the voice holds enough, if necessary by concealment. `due_ns` is the time at which a puller that runs
        on this machine's own clock should have pulled.
        """
        if due_ns is None:
            self.pace.pulled(frames, now_ns)
        else:
            self.pace.pulled_on_time(frames, due_ns, now_ns)
        # The order matters. The pull is reported to the clock first, because the latency is measured against it. Then
        # the sound may start within this pull, then the speed is chosen, and only the frames still missing at that
        # speed are concealed.
        self.lead = 0
        if self.state is State.PRIMING:
            self._try_start(frames)
        if self.state is not State.PLAYING:
            return False
        if now_ns - self._steered_ns >= STEER_NS:
            self._steered_ns = now_ns
            lead_ns = self.lead * NS_PER_S / self.output_rate
            late = self.late_ns = self.pace.late_ns(self.head_ns) + lead_ns
            if late > self._splice_ns or late < -self._splice_ns:
                late = self._correct(late, now_ns)
            self.speed = self.pace.speed(late)
        needed = (frames - self.lead) * self.speed * self.rate / self.output_rate
        short = needed - self.voice.ready
        return short <= 0 or self._fill_up(short)

    @property
    def ratio(self) -> float:
        """Output frames per media frame."""
        return self.output_rate / (self.rate * self.speed)

    def _try_start(self, frames: Frames) -> None:
        enough = frames * self.rate / self.output_rate
        if self.voice.ready < enough and not self._ended:
            return
        late = self.pace.late_ns(self.head_ns)
        wait = int(-late * self.output_rate / NS_PER_S)
        if wait >= frames:
            if not self._ended:
                return
            wait = 0
        # Exact to the frame: what is due within this pull starts within it.
        self.lead = max(0, wait)
        too_late = int(late * self.rate / NS_PER_S) if late > LATE_START_NS else 0
        # Nothing is heard yet, so what is far too late can be dropped without an audible skip.
        self.tally.skipped_frames += self.voice.drop(too_late)
        if self.voice.ready >= enough or (self._ended and self.voice.fill > 0):
            self.state = State.PLAYING
        elif self._ended:
            self.state = State.QUIET

    def _correct(self, late: float, now_ns: HostNs) -> float:
        """Splice or skip; return the error that is left for the speed to correct."""
        frames = int(abs(late) * self.rate / NS_PER_S)
        if late > SKIP_NS:
            done = self.voice.skip(frames)
            self.tally.skips += done > 0
            self.tally.skipped_frames += done
        elif now_ns - self._spliced_ns < SPLICE_EVERY_NS:
            # One splice at a matching place is inaudible; several in quick succession roughen the tone.
            return late
        elif late > 0:
            done = self.voice.accelerate(frames)
            self.tally.accelerated_frames += done
            self.tally.splices += done > 0
        else:
            done = -self.voice.expand(frames)
            self.tally.splices += done < 0
        self._spliced_ns = now_ns
        return late - done * NS_PER_S / self.rate

    def _fill_up(self, short: float) -> bool:
        """Conceal what is missing for a while; after that it is an underrun."""
        if self._ended:
            self.state = State.QUIET
            # The rest is shorter than the pull: it is read with silence after it.
            return self.voice.fill > 0
        if self._concealed_ns >= CONCEAL_NS + FADE_OUT_NS:
            self.state = State.PRIMING
            return False
        # A concealment counts once, when it begins, and becomes an underrun once, when it passes CONCEAL_NS. One frame
        # more than is missing: the resampler reads a fraction ahead of its output.
        before = self._concealed_ns
        self._concealed_ns += short * NS_PER_S / self.rate
        self.tally.concealments += before == 0.0
        self.tally.underruns += before <= CONCEAL_NS < self._concealed_ns
        self.voice.conceal(int(short) + 1)
        self._stead += int(short) + 1
        return True


# By frame and not by block, so it does not matter in which pieces the concealment is made.
def conceal_gain(concealed: NDArray[np.int64], rate: int) -> NDArray[np.float32]:
    """Gain of each concealed frame: full for 20 ms, zero after 40."""
    ns = concealed * (NS_PER_S / rate)
    gain: NDArray[np.float32] = np.clip((CONCEAL_NS + FADE_OUT_NS - ns) / FADE_OUT_NS, 0.0, 1.0).astype(np.float32)
    return gain
