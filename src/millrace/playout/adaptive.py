"""AdaptiveLink: sound from a clock that is not ours to one that is not ours either.

It is used wherever a foreign clock pushes: a listener's card, a door whose guest sends when it likes, a
listener's microphone. Frames go in with the time of their capture and the time at which they came; the
other side pulls. A `RateController` says how fast to play; small errors are resampled away, larger ones spliced,
the largest skipped, and where nothing has come in time the last sound is carried on and faded.

The sound itself is behind `PlayoutBuffer`, so that the laboratory can run a day of the same decisions in a minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from millrace.clock.pace import RateController
from millrace.units import NS_PER_MS, NS_PER_S, Frames, HostNs

STEER_NS = 20 * NS_PER_MS
"""Clocks do not change within that; a pull in between costs next to nothing."""
SPLICE_NS = 2 * NS_PER_MS
SPLICE_EVERY_NS = 60 * NS_PER_MS
"""Up to 13 ms in 60: 20 ms of latency are worked off in less than half a second."""
LATE_START_NS = 20 * NS_PER_MS
SKIP_NS = 150 * NS_PER_MS
CONCEAL_NS = 20 * NS_PER_MS
"""Sound that is carried on for no longer than this is not heard as a hole."""
FADE_OUT_NS = 20 * NS_PER_MS
GAP_MAX_NS = 500 * NS_PER_MS


class State(Enum):
    """What is heard."""

    QUIET = "quiet"
    PRIMING = "priming"
    PLAYING = "playing"


class PlayoutBuffer(Protocol):
    """Frames queued at the media's rate, and what can be done with them."""

    @property
    def fill(self) -> float:
        """Frames queued and not yet heard, those inside the resampler included."""
        ...

    @property
    def ready(self) -> float:
        """How many of them can be read now: a resampler looks ahead."""
        ...

    def accelerate(self, most: Frames) -> Frames:
        """Leave out up to `most`, inaudibly; returns how many."""
        ...

    def expand(self, most: Frames) -> Frames:
        """Repeat up to `most`, inaudibly; returns how many."""
        ...

    def skip(self, frames: Frames) -> Frames:
        """Leave out about `frames` with one crossfade; returns how many."""
        ...

    def drop(self, frames: Frames) -> Frames:
        """Forget up to `frames`, and fade in what follows: nothing is heard yet. Returns how many."""
        ...

    def conceal(self, frames: Frames) -> None:
        """Append `frames` of what the sound was doing."""
        ...


@dataclass(slots=True)
class PlayoutStats:
    """What had to be done, in frames of the media or in times it happened."""

    underruns: int = 0
    concealments: int = 0
    """Times that something was late, and the sound went on without it; some became underruns."""
    accelerated_frames: Frames = 0
    skips: int = 0
    skipped_frames: Frames = 0
    overrun_frames: Frames = 0
    splices: int = 0

    @property
    def concealed(self) -> int:
        """Concealments that were over before they could be heard as a hole."""
        return self.concealments - self.underruns

    @property
    def left_out_frames(self) -> Frames:
        """Frames left out to keep the latency, or because there was no room for them."""
        return self.skipped_frames + self.accelerated_frames + self.overrun_frames


class AdaptiveLink:
    """The decisions. `rate` is the media's, `output_rate` the puller's; past `splice_ns` an error is spliced away.

    A link that goes on from another, at another rate, goes on counting in its `tally`.
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

    def written(self, media_ns: HostNs, frames: Frames, overrun: Frames = 0) -> None:
        """`frames` captured from `media_ns` on are now in the voice, but for `overrun` that it had no room for."""
        self.tally.overrun_frames += overrun
        self._ended = False
        self._concealed_ns = self._stead = 0.0
        if self.state is State.QUIET:
            self.state = State.PRIMING
        self._tail_ns = media_ns + frames * NS_PER_S // self.rate

    def missing(self, media_ns: HostNs) -> Frames:
        """Frames between what was written last and `media_ns`; 0 where that is a new beginning."""
        gap = media_ns - self._tail_ns
        playing = self.state is State.PLAYING or self.voice.fill > 0
        return gap * self.rate // NS_PER_S if playing and not self._ended and 0 < gap <= GAP_MAX_NS else 0

    def replaced(self, frames: Frames) -> Frames:
        """How many of `frames` that were lost need not be made up: sound was carried on in their stead."""
        # Concealment already took the place of these frames. To make them up as well would play them twice: each loss
        # would add its length to the latency, and be worked off again by splices that can be heard.
        done = min(frames, int(self._stead))
        self._stead -= done
        return done

    def end(self) -> None:
        """No more is to come: what is queued is played, and running dry then is no underrun."""
        self._ended = True

    # -- out -------------------------------------------------------------------------------------

    @property
    def fill_ns(self) -> HostNs:
        """How much is queued."""
        return round(self.voice.fill * NS_PER_S / self.rate)

    @property
    def head_ns(self) -> float:
        """Capture time of the next frame to be heard."""
        return self._tail_ns - self.voice.fill * NS_PER_S / self.rate

    def pull(self, frames: Frames, now_ns: HostNs, due_ns: HostNs | None = None) -> bool:
        """The puller takes `frames`. True: read all after `lead` at `ratio`; False: there is nothing to hear.

        After True the voice holds enough, be it carried on. `due_ns` comes from a puller whose clock is this
        machine's own, and is when it should have pulled.
        """
        if due_ns is None:
            self.pace.pulled(frames, now_ns)
        else:
            self.pace.pulled_on_time(frames, due_ns, now_ns)
        # In this order: the clock is told of the pull first, as the latency is judged by it; then the sound may start
        # within this pull; then the speed is chosen; and only what is still missing at that speed is concealed.
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
        """Output frames for each of the media's."""
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
        # To the frame: what is due within this pull starts within it.
        self.lead = max(0, wait)
        too_late = int(late * self.rate / NS_PER_S) if late > LATE_START_NS else 0
        # Nothing is heard yet, so what is far too late is left out unheard.
        self.tally.skipped_frames += self.voice.drop(too_late)
        if self.voice.ready >= enough or (self._ended and self.voice.fill > 0):
            self.state = State.PLAYING
        elif self._ended:
            self.state = State.QUIET

    def _correct(self, late: float, now_ns: HostNs) -> float:
        """Splice or skip; returns what is still to be corrected by speed."""
        frames = int(abs(late) * self.rate / NS_PER_S)
        if late > SKIP_NS:
            done = self.voice.skip(frames)
            self.tally.skips += done > 0
            self.tally.skipped_frames += done
        elif now_ns - self._spliced_ns < SPLICE_EVERY_NS:
            # One splice at a matching place is not heard; one after another they roughen the tone.
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
        """Not enough has come: conceal that for a while, then it has run dry."""
        if self._ended:
            self.state = State.QUIET
            return self.voice.fill > 0
        if self._concealed_ns >= CONCEAL_NS + FADE_OUT_NS:
            self.state = State.PRIMING
            return False
        # One concealment counts once, when it begins, and becomes an underrun once, when it passes CONCEAL_NS. A frame
        # more than is short: the resampler reads ahead of what it gives, by a fraction.
        before = self._concealed_ns
        self._concealed_ns += short * NS_PER_S / self.rate
        self.tally.concealments += before == 0.0
        self.tally.underruns += before <= CONCEAL_NS < self._concealed_ns
        self.voice.conceal(int(short) + 1)
        self._stead += int(short) + 1
        return True


def conceal_gain(concealed: NDArray[np.int64], rate: int) -> NDArray[np.float32]:
    """The loudness of concealment, frame by frame: full for 20 ms, gone after 40."""
    ns = concealed * (NS_PER_S / rate)
    gain: NDArray[np.float32] = np.clip((CONCEAL_NS + FADE_OUT_NS - ns) / FADE_OUT_NS, 0.0, 1.0).astype(np.float32)
    return gain
