"""A voice without samples: makes the same decisions, counting frames instead of playing them."""

from __future__ import annotations

from millrace.clock.jitter import profile_of
from millrace.clock.pace import RateController
from millrace.playout.adaptive import AdaptiveLink, State
from millrace.units import Frames, HostNs

_CUT_LEAST, _CUT_MOST = 144, 624


# Where real sound can be spliced depends on its waveform. Here every splice succeeds and takes as much as it may, the
# average of many; what a single one does to a real voice is not measured this way.
class DryVoice:
    """`PlayoutBuffer` that only counts frames. Splices take all that they may, as real ones do on average."""

    def __init__(self) -> None:
        self.fill = 0.0

    @property
    def ready(self) -> float:
        """See `PlayoutBuffer`."""
        return self.fill

    def accelerate(self, most: Frames) -> Frames:
        """See `PlayoutBuffer`."""
        done = min(most, _CUT_MOST, int(self.fill))
        if done < _CUT_LEAST:
            return 0
        self.fill -= done
        return done

    def expand(self, most: Frames) -> Frames:
        """See `PlayoutBuffer`."""
        done = min(most, _CUT_MOST)
        if done < _CUT_LEAST:
            return 0
        self.fill += done
        return done

    def skip(self, frames: Frames) -> Frames:
        """See `PlayoutBuffer`."""
        return self.drop(frames)

    def drop(self, frames: Frames) -> Frames:
        """See `PlayoutBuffer`."""
        done = max(0, min(frames, int(self.fill)))
        self.fill -= done
        return done

    def conceal(self, frames: Frames) -> None:
        """See `PlayoutBuffer`."""
        self.fill += frames


class MillracePolicy:
    """The product's own link as a policy under test."""

    name = "millrace"
    source = "this repository: clock/pace.py, playout/adaptive.py"

    def __init__(self, rate: int, period: Frames, packet_ns: HostNs, latency: str = "normal") -> None:
        del period
        self.packet_ns = packet_ns
        self.pace = RateController(rate, profile_of(latency))
        self.voice = DryVoice()
        self.link = AdaptiveLink(rate, rate, self.pace, self.voice)

    def arrived(self, media_ns: HostNs, frames: Frames, now_ns: HostNs) -> None:
        """A packet arrived; one missing before it was concealed."""
        link = self.link
        self.pace.arrived(media_ns, self.packet_ns, now_ns)
        missing = link.missing(media_ns)
        if missing:
            self.voice.fill += missing - link.replaced(missing)
        self.voice.fill += frames
        link.written(media_ns, frames)

    def pull(self, frames: Frames, now_ns: HostNs) -> float | None:
        """Capture time of the first frame of this pull; None if nothing is heard."""
        link = self.link
        if not link.pull(frames, now_ns):
            return None
        head = link.head_ns
        self.voice.fill -= (frames - link.lead) * link.speed * link.rate / link.output_rate
        return head - link.lead * 1e9 / link.output_rate

    @property
    def speed(self) -> float:
        """Media seconds per second of the card."""
        return self.link.speed

    @property
    def target_ns(self) -> float:
        """Its target latency, beyond the path's best."""
        return self.pace.target_delay_ns

    @property
    def locked(self) -> bool:
        """It considers itself locked."""
        return self.pace.locked and self.link.state is State.PLAYING

    @property
    def underruns(self) -> int:
        """Audible gaps."""
        return self.link.tally.underruns

    @property
    def concealed(self) -> int:
        """Gaps concealed by continuing the sound for up to 20 ms."""
        return self.link.tally.concealed

    @property
    def resyncs(self) -> int:
        """Jumps while playing."""
        return self.link.tally.skips

    @property
    def splices(self) -> int:
        """Inaudible cuts and repeats."""
        return self.link.tally.splices
