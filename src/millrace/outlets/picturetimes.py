"""What a viewer's acknowledgements say: how old a picture is when it is seen, and where the time went.

All times are on the daemon's clock. A picture counts if it is the first that shows what was painted last: one that only
sharpens what stands still, or brings a new viewer up to date, says nothing about how long paint takes to be seen.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import NamedTuple

from millrace.outlets.encoded import EncodedPicture
from millrace.outlets.pictureflow import SLACK_NS
from millrace.units import NS_PER_S, HostNs

WEIGHT = 0.2
"""Of the newest picture in each average."""
KEPT = 64
"""Pictures whose times are kept until they are acknowledged."""
OLD_NS = 60 * NS_PER_S
STAGES = ("door", "damage", "encode", "queue", "network", "decode", "sound", "draw")
"""In the door; as damage until the encoder begins; in it; until it is written; until all of it has arrived; until it is
decoded; until the sound captured with it is heard; until it is drawn."""


class ViewerTimes(NamedTuple):
    """When a viewer says that a picture arrived whole, was decoded, began to be drawn, and was drawn; 0: unknown."""

    arrived_ns: HostNs
    decoded_ns: HostNs
    drawing_ns: HostNs
    drawn_ns: HostNs

    # Known best from the viewer, if its clock is: its answer also waited for the drawing.
    def arrival_ns(self, rtt_ns: HostNs, now_ns: HostNs) -> HostNs:
        """When a picture had arrived at the latest, half a round trip added, by an answer that came now."""
        arrived_ns = self.arrived_ns or self.decoded_ns
        return min(now_ns, arrived_ns + rtt_ns // 2) if arrived_ns else now_ns

    def decoding_ns(self, rtt_ns: HostNs, now_ns: HostNs) -> HostNs:
        """The same of when it had been decoded."""
        return min(now_ns, self.decoded_ns + rtt_ns // 2) if self.decoded_ns else now_ns

    def within(self, sent_ns: HostNs, now_ns: HostNs) -> ViewerTimes | None:
        """The times cut to between sending and now; None if they can't be true.

        They are a stranger's, and its idea of our clock is wrong by up to half a round trip. A viewer that does not
        tell when a picture arrived or began to be drawn had it decoded on arrival, and drawn from then on.
        """
        arrived_ns, drawing_ns = self.arrived_ns or self.decoded_ns, self.drawing_ns or self.decoded_ns
        told = ViewerTimes(arrived_ns, self.decoded_ns, drawing_ns, self.drawn_ns)
        edges = (sent_ns - SLACK_NS, *told, now_ns + SLACK_NS)
        if any(later < earlier for earlier, later in pairwise(edges)):
            return None
        return ViewerTimes(*(max(sent_ns, min(ns, now_ns)) for ns in told))


class _Sent(NamedTuple):
    picture: EncodedPicture
    sent_ns: HostNs
    counts: bool


class StageTotals:
    """The sum of each stage over all pictures that were measured, and their number."""

    def __init__(self) -> None:
        self.pictures = 0
        self.ns = dict.fromkeys(STAGES, 0)

    def add(self, spent: dict[str, HostNs]) -> None:
        """One more picture."""
        self.pictures += 1
        for stage, ns in spent.items():
            self.ns[stage] += ns


class PictureTimes:
    """Averages over the last few pictures; None until there is one. `totals` are those of all viewers of a guest."""

    def __init__(self, now_ns: HostNs, totals: StageTotals) -> None:
        self.latency_ns: float | None = None
        self.skew_ns: float | None = None
        self.breakdown: dict[str, float] = {}
        self.shown = 0
        self.skipped = 0
        """Pictures painted that it was not sent, because a newer one took their place."""
        self.bitrate, self.fps, self.skipped_fps = 0, 0.0, 0.0
        """Bits sent, pictures painted that it was sent, and those skipped a second, over the last second. What
        sharpens a picture, or brings what it lacked, is not a further picture."""
        self._totals = totals
        self._sent: OrderedDict[int, _Sent] = OrderedDict()
        self._newest_ns: HostNs = 0
        self._number: int | None = None
        self._pictures = 0
        self._mark: tuple[HostNs, int, int, int] = (now_ns, 0, 0, 0)

    def begin(self, now_ns: HostNs) -> None:
        """It is sent a whole picture now: what was painted before does not count, on its way or not."""
        self._newest_ns, self._number = now_ns, None
        for serial, one in self._sent.items():
            self._sent[serial] = one._replace(counts=False)

    def sent(self, serial: int, picture: EncodedPicture, now_ns: HostNs) -> None:
        """A picture was written."""
        counts = picture.painted_ns > self._newest_ns
        self._newest_ns = max(self._newest_ns, picture.painted_ns)
        self._sent[serial] = _Sent(picture._replace(parts=()), now_ns, counts)
        while len(self._sent) > KEPT:
            self._sent.popitem(last=False)
        if not picture.number:
            # Frames of a video that the machine sends itself, and nothing that was painted.
            self._pictures += 1
            return
        if self._number is not None and picture.number > self._number:
            self.skipped += picture.number - self._number - 1
        if self._number is None or picture.number > self._number:
            self._pictures += 1
        self._number = picture.number

    def second(self, now_ns: HostNs, sent_bytes: int) -> None:
        """About once a second; with the bytes that it was sent so far."""
        then_ns, bytes_, pictures, skipped = self._mark
        passed_ns = now_ns - then_ns
        if passed_ns > 0:
            self.bitrate = (sent_bytes - bytes_) * 8 * NS_PER_S // passed_ns
            self.fps = (self._pictures - pictures) * NS_PER_S / passed_ns
            self.skipped_fps = (self.skipped - skipped) * NS_PER_S / passed_ns
        self._mark = now_ns, sent_bytes, self._pictures, self.skipped

    def drawn(self, serial: int, told: ViewerTimes, skew_ns: HostNs | None, now_ns: HostNs) -> HostNs | None:
        """A picture is seen, or, without `drawn_ns`, was replaced by a newer one before it was.

        Returns when it was sent; None if it does not count, so that nothing of it is to be judged.
        """
        one = self._sent.pop(serial, None)
        if one is None:
            # It was told before, or never sent.
            return None
        self.shown += 1
        self._measure(one, told, skew_ns, now_ns)
        return one.sent_ns if one.counts else None

    def _measure(self, one: _Sent, told: ViewerTimes, skew_ns: HostNs | None, now_ns: HostNs) -> None:
        if told.drawn_ns and skew_ns is None:
            self.skew_ns = None
        elif skew_ns is not None and one.counts:
            self.skew_ns = None if abs(skew_ns) > OLD_NS else self._mean(self.skew_ns, skew_ns)
        times = told.within(one.sent_ns, now_ns)
        if times is None or not one.counts:
            return
        if now_ns - one.picture.painted_ns > OLD_NS:
            return
        spent = _spent(one, times)
        self._totals.add(spent)
        for stage, ns in spent.items():
            self.breakdown[stage] = self._mean(self.breakdown.get(stage), ns)
        self.latency_ns = self._mean(self.latency_ns, sum(spent.values()))

    @staticmethod
    def _mean(before: float | None, value: float) -> float:
        return value if before is None else before + WEIGHT * (value - before)


# The sum is exactly the time from painting to drawing, whatever the stamps are: each stage ends where the next begins.
def _spent(one: _Sent, times: ViewerTimes) -> dict[str, HostNs]:
    picture, painted_ns = one.picture, one.picture.painted_ns
    begun_ns = min(one.sent_ns, painted_ns + picture.wait_ns)
    encoded_ns = min(one.sent_ns, begun_ns + picture.encode_ns)
    published_ns = min(begun_ns, painted_ns + picture.door_ns)
    edges = (painted_ns, published_ns, begun_ns, encoded_ns, one.sent_ns, *times)
    return {stage: later - earlier for stage, (earlier, later) in zip(STAGES, pairwise(edges), strict=True)}
