"""One track, its source and its subscribers."""

from __future__ import annotations

from millrace.budget import Budget
from millrace.graph.packetlane import Lane
from millrace.graph.packetqueue import PacketQueue
from millrace.graph.packets import Track
from millrace.graph.seat import Seat
from millrace.media.packet import (
    Item,
    TrackInfo,
)
from tests.gops import PICTURES, WATCHER, Decoder, Source

KIB = 1024


class World:
    """One guest's budget, seat and tracks, and one subscriber's queue with a decoder for each track behind it."""

    def __init__(self, *infos: TrackInfo, memory: int = 256 * 1024 * KIB) -> None:
        self.budget, self.seat = Budget(limit=memory), Seat("default")
        self.sources = [Source(Track(info, self.seat, self.budget)) for info in infos or (PICTURES,)]
        self.account = self.budget.open("listener")
        self.queue = PacketQueue(self.account)
        self.lanes: list[Lane] = []
        self.decoders: dict[Lane, Decoder] = {}

    @property
    def source(self) -> Source:
        return self.sources[0]

    def join(self) -> None:
        for source in self.sources:
            lane = self.queue.join(source.track, WATCHER, source.now_ns)
            self.lanes.append(lane)
            self.decoders[lane] = Decoder(grouped=source.track.info == PICTURES)

    def take(self, most: int = 1 << 30) -> list[Item]:
        out = []
        while most and (taken := self.queue.take(self.source.now_ns)) is not None:
            lane, items = taken
            for item in items:
                self.decoders[lane].push(item)
            out += items
            most -= 1
        return out

    @property
    def decoder(self) -> Decoder:
        return self.decoders[self.lanes[0]]
