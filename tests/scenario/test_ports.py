"""A film with sound over a bad network to another host, and from there to a viewer: two hops.

The source makes key pictures only on request. The network is slow for a while, and loses packets for a while.
"""

from __future__ import annotations

import random
from collections import deque

from millrace.budget import Budget
from millrace.graph.packetqueue import PacketQueue
from millrace.graph.packets import PacketSource, Track
from millrace.graph.seat import Seat, Watcher
from millrace.media.packet import Demand, End, Flags, KeyFrame, Packet, Upstream
from millrace.units import NS_PER_MS, NS_PER_S, HostNs
from millrace.wire.peer.tracks import pack_track, unpack_track
from tests.gops import PICTURES, SOUND, WATCHER, Decoder, Source

STEP_NS = 20 * NS_PER_MS
PICTURE_BYTES, KEY_BYTES, SOUND_BYTES = 8_000, 150_000, 200
LINE_BYTES = 20_000
"""How much the line carries per step."""


class Hop(PacketSource):
    """One track's far end: it republishes what the network delivers, and forwards requests to the near end."""

    def __init__(self, world: TwoHosts, near: Source) -> None:
        self.world = world
        self.lane = world.queue.join(near.track, WATCHER, 0)
        self.track = Track(near.track.info, Seat("far"), world.far_budget)
        self.publisher = self.track.publish(self)
        self.viewer = Decoder(grouped=near.track.info == PICTURES)
        self.track.join(self.viewer, Watcher("listener/9", WATCHER.principal), 0)

    def demand(self, wanted: Demand) -> None:
        """See `PacketSource`."""
        if self.lane.subscription is not None:
            self.lane.subscription.wish(wanted)

    def upstream(self, event: Upstream, who: Watcher | None) -> None:
        """See `PacketSource`."""
        self.world.asked.append((event, self.lane))


class TwoHosts:
    """Both hosts and the network, in steps of virtual time."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_ns: HostNs = 0
        self.budget, self.far_budget = Budget(), Budget()
        self.account = self.budget.open("listener")
        self.queue = PacketQueue(self.account)
        self.sources = [Source(Track(info, Seat("near"), self.budget)) for info in (PICTURES, SOUND)]
        self.asked: list[tuple[Upstream, object]] = []
        self.hops = [Hop(self, source) for source in self.sources]
        self.line: deque[bytes] = deque()
        self.left = self.answered = 0

    def step(self, speed: float, loss: float) -> None:
        self.now_ns += STEP_NS
        pictures, sound = self.sources
        pictures.now_ns = sound.now_ns = self.now_ns
        self.ask()
        key = not pictures.unit or len(pictures.keys_asked) > self.answered
        self.answered = len(pictures.keys_asked)
        pictures.picture(key, disposable=pictures.unit % 3 == 2, size=KEY_BYTES if key else PICTURE_BYTES, parts=2)
        sound.picture(key=True, size=SOUND_BYTES)
        for source in self.sources:
            source.track.handle_timeout(self.now_ns)
        self.carry(int(LINE_BYTES * speed), loss)

    def ask(self) -> None:
        """Deliver the requests of the far end."""
        asked, self.asked = self.asked, []
        for event, lane in asked:
            if isinstance(event, KeyFrame):
                for hop in self.hops:
                    if hop.lane is lane and hop.lane.subscription is not None:
                        hop.lane.subscription.upstream(event, self.now_ns)

    def carry(self, size: int, loss: float) -> None:
        self.left = min(self.left + size, size)
        while self.left > 0 and (taken := self.queue.take(self.now_ns)) is not None:
            lane, items = taken
            track = next(index for index, hop in enumerate(self.hops) if hop.lane is lane)
            for item in items:
                if isinstance(item, Packet):
                    data = pack_track(track, item)
                    self.left -= len(data)
                    if self.random.random() < loss:
                        continue
                    arrived = unpack_track(data, self.now_ns)
                    assert arrived is not None and arrived.track == track
                    item = arrived.packet
                self.hops[track].publisher.push(item)
        for hop in self.hops:
            hop.track.handle_timeout(self.now_ns)

    def run(self, seconds: float, speed: float = 1.0, loss: float = 0.0) -> None:
        for _ in range(round(seconds * NS_PER_S / STEP_NS)):
            self.step(speed, loss)


def test_film_over_bad_network_is_decodable_at_every_hop_with_complete_sound() -> None:
    world = TwoHosts(seed=7)
    film, sound = (hop.viewer for hop in world.hops)
    world.run(5)
    assert film.gaps == [] and film.decoded[-1] == world.sources[0].unit - 1
    world.run(10, speed=0.2)
    slow = len(film.decoded)
    assert film.gaps and world.hops[0].lane.dropped and world.hops[1].lane.dropped == 0
    world.run(5)
    assert film.decoded[-1] >= world.sources[0].unit - 2 and len(film.decoded) > slow + 200
    assert sound.gaps == [] and sound.decoded == list(range(world.sources[1].unit - len(world.queue.lanes[1])))
    world.run(10, loss=0.02)
    world.run(5)
    assert sound.gaps and film.decoded[-1] >= world.sources[0].unit - 2
    received = [packet.number for packet in film.packets]
    assert len(received) + sum(gap.dropped for gap in film.gaps) == received[-1] + 1
    asked = world.sources[0].keys_asked
    assert 3 < len(asked) <= 2 * 35


def test_ended_tracks_and_subscribers_leave_nothing() -> None:
    world = TwoHosts(seed=1)
    world.run(1)
    for source in world.sources:
        assert source.demands[-1].subscribers == 1
        source.publisher.push(End("the player was closed"))
    world.carry(1 << 30, 0.0)
    assert all(hop.viewer.ended for hop in world.hops)
    world.queue.close()
    world.account.close()
    assert (world.budget.held, world.far_budget.held) == (0, 0)
    assert Flags.END in world.hops[0].viewer.packets[-1].flags
