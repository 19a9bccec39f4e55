"""What a viewer's acknowledgements say: how old a picture is when it is seen, and where the time went."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from millrace.outlets.encoded import EncodedPicture
from millrace.units import NS_PER_MS, NS_PER_S, HostNs

WEIGHT = 0.2
"""Of the newest picture in each average."""
KEPT = 64
"""Pictures whose times are kept until they are acknowledged."""
SLACK_NS = 20 * NS_PER_MS
OLD_NS = 60 * NS_PER_S
STAGES = ("wait", "encode", "queue", "network", "draw")
"""From the paint to the encoder, in it, to the socket, to the decoded picture, and to the drawn one."""


class _Times(NamedTuple):
    painted_ns: HostNs
    wait_ns: HostNs
    encode_ns: HostNs
    sent_ns: HostNs


class PictureTimes:
    """Averages over the last few pictures; None until there is one."""

    def __init__(self) -> None:
        self.latency_ns: float | None = None
        self.skew_ns: float | None = None
        self.breakdown: dict[str, float] = {}
        self.shown = 0
        self._sent: OrderedDict[int, _Times] = OrderedDict()

    def sent(self, serial: int, picture: EncodedPicture, now_ns: HostNs) -> None:
        """A picture was written."""
        self._sent[serial] = _Times(picture.painted_ns, picture.wait_ns, picture.encode_ns, now_ns)
        while len(self._sent) > KEPT:
            self._sent.popitem(last=False)

    # The viewer's times are a stranger's, and its idea of our clock is wrong by up to half a round trip: they are used
    # only if they lie between the sending and now, or nearly so.
    def drawn(self, serial: int, decoded_ns: HostNs, drawn_ns: HostNs, skew_ns: HostNs | None, now_ns: HostNs) -> None:
        """A picture is seen."""
        times = self._sent.pop(serial, None)
        self.shown += 1
        self.skew_ns = None if skew_ns is None or abs(skew_ns) > OLD_NS else self._mean(self.skew_ns, skew_ns)
        if times is None or not times.sent_ns - SLACK_NS <= decoded_ns <= drawn_ns <= now_ns + SLACK_NS:
            return
        decoded_ns, drawn_ns = (max(times.sent_ns, min(ns, now_ns)) for ns in (decoded_ns, drawn_ns))
        if now_ns - times.painted_ns > OLD_NS:
            # A still screen, of which a new viewer is sent what was painted long ago.
            return
        queued_ns = max(0, times.sent_ns - times.painted_ns - times.wait_ns - times.encode_ns)
        spent = (times.wait_ns, times.encode_ns, queued_ns, decoded_ns - times.sent_ns, drawn_ns - decoded_ns)
        for stage, ns in zip(STAGES, spent, strict=True):
            self.breakdown[stage] = self._mean(self.breakdown.get(stage), ns)
        self.latency_ns = self._mean(self.latency_ns, drawn_ns - times.painted_ns)

    @staticmethod
    def _mean(before: float | None, value: float) -> float:
        return value if before is None else before + WEIGHT * (value - before)
