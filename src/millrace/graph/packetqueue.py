"""The bounded queue of a subscriber: packets that wait for its connection, and what is dropped if that is too slow.

Each track has a lane of its own, in order. `take` prefers sound to everything else; otherwise a key frame would delay
the sound for as long as the connection needs to send it. When the queue is over its bounds, it drops in this order,
until the rest fits:

1. pictures that no other picture needs (DISPOSABLE),
2. the oldest group of pictures to its end, those of stills and thumbnails last. If there is only one group, its key
   frame stays and what follows is dropped, so a connection too slow for all pictures still gets one now and then,
3. captions and other data, the oldest first,
4. sound, the oldest first.

Invariants: what follows a Gap can be decoded. A Gap is taken together with the packet after it, so there are never two
in a row. Parameters, segments and ends are never dropped, but if two of a kind follow each other only the later one is
kept. Bytes are bounded, and for pictures and sound also time; exempt are only the group that a new subscriber is given,
and one key frame per lane. The subscriber's account is charged for what is held; if the guest's budget is used up, the
queue counts as full.
"""

from __future__ import annotations

from collections.abc import Callable

from millrace.absent import nothing
from millrace.budget import LISTENERS, Account
from millrace.graph.packetcache import rounded_up
from millrace.graph.packetlane import DROP_SHARE, FOREVER, SOUND_NS_MAX, Lane
from millrace.graph.packets import Track
from millrace.graph.seat import Watcher
from millrace.media.packet import Cache, Demand, End, Item, Kind
from millrace.units import HostNs

BYTES_MAX = 1024 * 1024
PACKETS_MAX = 2048
LANE_BYTES = 2 * 1024
"""What a lane takes, with its place among the subscribers of its track."""


class PacketQueue:
    """The queue of one subscriber."""

    def __init__(self, account: Account, wake: Callable[[], None] = nothing, share: float = LISTENERS) -> None:
        """`wake` is called when a packet is queued; `share` is how far the account may fill its guest's budget."""
        self.lanes: list[Lane] = []
        self.wake, self._share = wake, share
        self.bytes = self.packets = 0
        """What counts against the bounds."""
        self.held = 0
        """Bytes, including those exempt from the bounds."""
        self._account = account
        self._reserved = self._room = 0
        """What is reserved in the budget, and how much of that is for packets."""
        self._order = 0

    def join(self, track: Track, who: Watcher, now_ns: HostNs, demand: Demand | None = None) -> Lane:
        """Subscribe to `track` as well; if there is no room, raise GraphError and change nothing."""
        lane = Lane(self, track.info)
        self.lanes.append(lane)
        try:
            lane.subscription = track.join(lane, who, now_ns, demand)
        except Exception:
            self._remove(lane)
            raise
        return lane

    def leave(self, lane: Lane) -> None:
        """Unsubscribe from a track and discard what is queued of it."""
        self._remove(lane)

    def close(self) -> None:
        """The subscriber is gone. It is woken no more: it has this, a cycle (daemon/collector.py)."""
        for lane in list(self.lanes):
            self.leave(lane)
        self.wake = nothing

    # The track's subscription has the lane, and the lane has that: a cycle (daemon/collector.py), whichever ended.
    def _remove(self, lane: Lane) -> None:
        subscription, lane.subscription = lane.subscription, None
        if subscription is not None:
            subscription.leave()
        lane.clear()
        if lane in self.lanes:
            self.lanes.remove(lane)
        self.reserve(0)

    def take(self, now_ns: HostNs) -> tuple[Lane, tuple[Item, ...]] | None:
        """What to send next, and of which track: one item, or a Gap and the item after it."""
        first, earliest = None, (False, 0)
        for lane in self.lanes:
            if len(lane) and (first is None or lane.turn < earliest):
                first, earliest = lane, lane.turn
        if first is None:
            return None
        items = first.take()
        if isinstance(items[-1], End):
            self._remove(first)
        first.ask(now_ns)
        # Given back only when empty, and by steps: a queue that hovers around one step would otherwise ask the budget
        # for each packet.
        if not self.held and self._reserved > self._needed(0):
            self.reserve(0)
        return first, items

    # -- for lanes -------------------------------------------------------------------------------

    def next_order(self) -> int:
        """A sequence number for what was pushed just now."""
        self._order += 1
        return self._order

    @property
    def full(self) -> bool:
        """Whether it holds more than it may, or more than was reserved in the budget."""
        return self.bytes > BYTES_MAX or self.packets > PACKETS_MAX or self.held > self._room

    def _needed(self, more: int) -> int:
        """What must be reserved for the lanes, what is held and `more`."""
        return rounded_up(LANE_BYTES * len(self.lanes) + self.held + more)

    def reserve(self, more: int) -> bool:
        """Whether the budget has room for the lanes, what is held and `more`."""
        needed = self._needed(more)
        if needed != self._reserved:
            if not self._account.fits("queue", needed, self._share):
                return False
            self._reserved = needed
        self._room = needed - LANE_BYTES * len(self.lanes)
        return True

    def fit(self, lane: Lane, now_ns: HostNs) -> None:
        """Drop what is too late or too much, after `lane` got a packet."""
        self._drop_late(lane, now_ns)
        while self.bytes > BYTES_MAX or self.packets > PACKETS_MAX or not self.reserve(0):
            if not self._drop() and not lane.drop_all():
                break

    def _drop_late(self, lane: Lane, now_ns: HostNs) -> None:
        limit_ns = lane.late_ns
        oldest_ns = lane.oldest_ns
        if oldest_ns is None or now_ns - oldest_ns <= limit_ns:
            return
        if lane.info.kind is Kind.AUDIO:
            # The connection can't even carry the sound, so all pictures go before any of it does.
            for pictures in self._lanes(Kind.VIDEO):
                pictures.drop_disposables()
                while pictures.drop_group(FOREVER):
                    pass
            lane.drop_oldest(now_ns - SOUND_NS_MAX + SOUND_NS_MAX // DROP_SHARE)
        elif lane.info.kind is Kind.VIDEO:
            while lane.oldest_ns is not None and now_ns - lane.oldest_ns > limit_ns:
                if not lane.drop_disposables() and not lane.drop_group(now_ns - limit_ns):
                    break

    def _drop(self) -> bool:
        """Drop once, in the documented order; False if nothing can be dropped."""
        return (
            self._drop_pictures()
            or any(lane.drop_oldest() for lane in self._lanes(Kind.TEXT, Kind.DATA))
            or any(lane.drop_oldest() for lane in self._lanes(Kind.AUDIO))
        )

    def _drop_pictures(self) -> bool:
        lanes = self._lanes(Kind.VIDEO)
        return any(lane.drop_disposables() for lane in lanes) or any(lane.drop_group() for lane in lanes)

    def _lanes(self, *kinds: Kind) -> list[Lane]:
        """Lanes of some kinds, the largest first, those of stills last."""
        lanes = [lane for lane in self.lanes if lane.info.kind in kinds]
        return sorted(lanes, key=lambda lane: (lane.info.cache is Cache.LAST, -lane.bytes))
