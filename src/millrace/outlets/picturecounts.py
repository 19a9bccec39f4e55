"""Counts what encoders of pictures make and send: for explanations and metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from millrace.units import NS_PER_MS, HostNs
from millrace.wire.peer.pictures import Part, PartType

KINDS: dict[int, str] = {
    PartType.RAW: "raw", PartType.ZSTD: "zstd", PartType.PNG: "png", PartType.JPEG: "jpeg", PartType.MOVE: "move",
    PartType.VIDEO: "video", PartType.DRAW: "video", PartType.PALETTE: "palette",
}  # fmt: skip
"""What the parts of a picture are counted as: a further rectangle of a video belongs to it."""
KIND_NAMES = tuple(dict.fromkeys(KINDS.values()))
ENCODE_MS = (1, 2, 5, 10, 20, 50, 100, 200)
"""Upper bounds of the histogram of encoding times; what takes longer comes after the last."""


class Tally(NamedTuple):
    """Rectangles of one kind, and their bytes."""

    rects: int = 0
    bytes: int = 0

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(self.rects + other.rects, self.bytes + other.bytes)


def tallied(parts: Iterable[Part]) -> dict[str, Tally]:
    """The parts of a picture by kind."""
    found: dict[str, Tally] = {}
    for part in parts:
        kind = KINDS.get(part.type)
        if kind is not None:
            found[kind] = found.get(kind, Tally()).plus(Tally(1, len(part.data)))
    return found


class PictureCounts:
    """Counters; `recent` are those of the last second."""

    def __init__(self) -> None:
        self.made = 0
        """Pictures encoded, for however many viewers."""
        self.keys = 0
        """Those with a key picture of the video."""
        self.encode_ns: HostNs = 0
        self.buckets = [0] * (len(ENCODE_MS) + 1)
        """Pictures by how long they took to encode, see `ENCODE_MS`."""
        self.sent = 0
        """Pictures sent, to each viewer."""
        self.kinds: dict[str, Tally] = {}
        """What was sent, to each viewer."""
        self.recent: PictureCounts | None = None
        self._before: PictureCounts | None = None

    def encoded(self, encode_ns: HostNs, key: bool) -> None:
        """A picture was encoded."""
        self.made += 1
        self.keys += key
        self.encode_ns += encode_ns
        self.buckets[bisect_left(ENCODE_MS, encode_ns / NS_PER_MS)] += 1

    def pushed(self, kinds: Mapping[str, Tally]) -> None:
        """A picture was sent to one viewer."""
        self.sent += 1
        for kind, tally in kinds.items():
            self.kinds[kind] = self.kinds.get(kind, Tally()).plus(tally)

    def second(self) -> None:
        """About once a second: note what was counted since the last time."""
        now = PictureCounts()
        now.add(self)
        self.recent = now if self._before is None else now.without(self._before)
        self._before = now

    def add(self, other: PictureCounts) -> None:
        """Count what another has counted too."""
        self.made, self.keys = self.made + other.made, self.keys + other.keys
        self.encode_ns, self.sent = self.encode_ns + other.encode_ns, self.sent + other.sent
        self.buckets = [mine + theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True)]
        for kind, tally in other.kinds.items():
            self.kinds[kind] = self.kinds.get(kind, Tally()).plus(tally)

    def without(self, other: PictureCounts) -> PictureCounts:
        """What was counted since `other`, an earlier copy."""
        out = PictureCounts()
        out.made, out.keys = self.made - other.made, self.keys - other.keys
        out.encode_ns, out.sent = self.encode_ns - other.encode_ns, self.sent - other.sent
        out.buckets = [mine - theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True)]
        for kind, tally in self.kinds.items():
            before = other.kinds.get(kind, Tally())
            if tally != before:
                out.kinds[kind] = Tally(tally.rects - before.rects, tally.bytes - before.bytes)
        return out
