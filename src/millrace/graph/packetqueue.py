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

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from millrace.absent import nothing
from millrace.budget import LISTENERS, Account
from millrace.errors import BudgetError
from millrace.graph.packetcache import HOLD_STEP, rounded_up
from millrace.graph.packets import Subscription, Track
from millrace.graph.seat import Watcher
from millrace.media.packet import Cache, Demand, End, Flags, Gap, Item, KeyFrame, Kind, Packet, Parameters, TrackInfo
from millrace.units import NS_PER_S, HostNs, MediaNs

BYTES_MAX = 1024 * 1024
PACKETS_MAX = 2048
PICTURES_NS_MAX = NS_PER_S // 2
SOUND_NS_MAX = NS_PER_S
"""The longest that queued packets may have waited."""
DROP_SHARE = 4
"""Sound and data are dropped a quarter at a time, so that the next packet does not exceed the bound again."""
_KEY, _END, _DISPOSABLE = int(Flags.KEY), int(Flags.END), int(Flags.DISPOSABLE)


class Entry(NamedTuple):
    """A queued item. `spare` ones count only against the budget; `lost` is the number of packets missing before it."""

    order: int
    item: Item
    weight: int = 0
    spare: bool = False
    lost: int = 0


# Two flags decide about packets that follow a drop. `_skips_unit`: the unit that lost a part is dropped to its end.
# `_waits_for_key`: a picture is missing that later ones need, so everything up to the next key packet is dropped. A key
# packet clears both, because it needs nothing before it.
class Lane:
    """The queued items of one track; a `PacketSink`."""

    def __init__(self, queue: PacketQueue, info: TrackInfo) -> None:
        self.info = info
        self.subscription: Subscription | None = None
        self.dropped = 0
        """Packets dropped since it joined."""
        self.bytes = 0
        """Its bytes that count against the bound."""
        self._queue = queue
        self._entries: deque[Entry] = deque()
        self._arrivals: deque[HostNs] = deque()
        self._disposables = 0
        self._lost = 0
        self._resume_ns: MediaNs = 0
        self._waits_for_key = False
        self._skips_unit = False
        self._late_ns = PICTURES_NS_MAX if info.kind is Kind.VIDEO else SOUND_NS_MAX
        self._yields = info.kind is not Kind.AUDIO
        self._unit_taken = True
        """The last packet taken ended its access unit. If not, the rest of that unit must not be dropped."""

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def broken(self) -> bool:
        """Whether something was dropped that the next packets need."""
        return self._waits_for_key or self._skips_unit or bool(self._lost)

    @property
    def turn(self) -> tuple[bool, int]:
        """Sort key for `take`: the lane with the lowest is next."""
        return self._yields, self._entries[0].order

    @property
    def late_ns(self) -> HostNs:
        """How long its packets may wait."""
        return self._late_ns

    @property
    def oldest_ns(self) -> HostNs | None:
        """Arrival time of the oldest packet that counts against the bounds."""
        return self._arrivals[0] if self._arrivals else None

    # -- the track's side ------------------------------------------------------------------------

    def begin(self, items: tuple[Item, ...]) -> None:
        """See `PacketSink`."""
        weights = [_weight(item) for item in items]
        if not self._queue.reserve(sum(weights)):
            raise BudgetError(f"no room for the last pictures of track {self.info.key}")
        for item, weight in zip(items, weights, strict=True):
            if isinstance(item, Gap):
                self._lost += item.dropped
            else:
                self._append(Entry(self._queue.next_order(), item, weight, True, self._missing(item)))

    def push(self, item: Item) -> None:
        """See `PacketSink`."""
        if isinstance(item, Packet):
            self._push_packet(item)
        elif isinstance(item, Gap):
            self._lost += item.dropped
        else:
            self._push_state(item)

    def _push_packet(self, packet: Packet) -> None:
        # Runs for every packet of every subscriber: what the other methods do in steps is inlined here.
        self._resume_ns = packet.pts_ns + packet.duration_ns
        flags, arrived_ns, weight, queue = int(packet.flags), packet.arrived_ns, packet.weight, self._queue
        if (self._waits_for_key or self._skips_unit) and self._left_out(flags):
            self._lost += 1
            self.dropped += 1
            self.ask(arrived_ns)
            return
        self._entries.append(Entry(queue.next_order(), packet, weight, False, self._lost))
        self._arrivals.append(arrived_ns)
        self._lost = 0
        if flags & _DISPOSABLE:
            self._disposables += 1
        self.bytes += weight
        queue.bytes += weight
        queue.held += weight
        queue.packets += 1
        if queue.full or arrived_ns - self._arrivals[0] > self._late_ns:
            queue.fit(self, arrived_ns)
            self.ask(arrived_ns)
        queue.wake()

    def _missing(self, item: Item) -> int:
        """Packets missing before `item`; only a packet or an end reports them."""
        lost = 0
        if self._lost and isinstance(item, Packet | End):
            lost, self._lost = self._lost, 0
        return lost

    def _left_out(self, flags: int) -> bool:
        """Whether a packet must be dropped because of what was dropped before it."""
        if flags & _KEY:
            self._waits_for_key = self._skips_unit = False
        if self._waits_for_key:
            return True
        if self._skips_unit:
            self._skips_unit = not flags & _END
            return True
        return False

    def _push_state(self, item: Item) -> None:
        """Queue parameters, a segment or an end; of two of a kind with no packet in between only the later stays."""
        tail: list[Entry] = []
        while self._entries and not isinstance(self._entries[-1].item, Packet):
            entry = self._entries.pop()
            self._tally(entry, -1)
            if type(entry.item) is not type(item):
                tail.append(entry)
        for entry in reversed(tail):
            self._append(entry)
        self._append(Entry(self._queue.next_order(), item, _weight(item), False, self._missing(item)))
        self._queue.reserve(0)
        self._queue.wake()

    def _append(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._tally(entry, 1)
        if isinstance(entry.item, Packet):
            self._disposables += bool(int(entry.item.flags) & _DISPOSABLE)
            if not entry.spare:
                self._arrivals.append(entry.item.arrived_ns)

    def _tally(self, entry: Entry, sign: int) -> None:
        _, item, weight, spare, _ = entry
        queue, weight = self._queue, sign * weight
        queue.held += weight
        if not spare:
            self.bytes += weight
            queue.bytes += weight
            if isinstance(item, Packet):
                queue.packets += sign

    def ask(self, now_ns: HostNs) -> None:
        """Request a key frame if the lane waits for one, but only once it is empty: sooner would add to the backlog."""
        if self._waits_for_key and not self._entries and self.subscription is not None:
            self.subscription.upstream(KeyFrame(), now_ns)

    # -- the connection's side -------------------------------------------------------------------

    def take(self) -> tuple[Item, ...]:
        """The lane's next item, preceded by a Gap if packets are missing."""
        _, item, _, spare, lost = entry = self._entries.popleft()
        self._tally(entry, -1)
        if isinstance(item, Packet):
            flags = int(item.flags)
            self._unit_taken = bool(flags & _END)
            if flags & _DISPOSABLE:
                self._disposables -= 1
            if not spare:
                self._arrivals.popleft()
        if not lost:
            return (item,)
        return Gap(lost, item.pts_ns if isinstance(item, Packet) else self._resume_ns), item

    # -- dropping --------------------------------------------------------------------------------

    def drop_disposables(self) -> bool:
        """Drop pictures that no other needs; False if there are none."""
        if not self._disposables:
            return False
        return self._leave_out(self._first(), len(self._entries), lambda packet: packet.flags & _DISPOSABLE != 0)

    def drop_group(self) -> bool:
        """Drop the oldest group of pictures; False if nothing can be dropped."""
        first = self._first()
        packets = self._packets(first)
        if not packets:
            return False
        begins = packets[0][1].flags & _KEY
        later = next((at for at, packet in packets[1:] if packet.flags & _KEY), None)
        if later is not None:
            return self._leave_out(first, later)
        if not begins:
            self._waits_for_key = True
            return self._leave_out(first, len(self._entries))
        return self._keep_key(packets)

    def _packets(self, first: int) -> list[tuple[int, Packet]]:
        """The packets from an index on, with their indexes."""
        return [
            (at, entry.item) for at, entry in enumerate(self._entries) if at >= first and isinstance(entry.item, Packet)
        ]

    # Marking the key frame as spare frees room without dropping anything, so `fit` makes progress; once all is spare,
    # nothing is left to drop here and it says so. Otherwise `fit` would not end.
    def _keep_key(self, packets: list[tuple[int, Packet]]) -> bool:
        """Drop all but the key frame of the only group, which is then exempt from the bounds."""
        ends = next((at for at, packet in packets if packet.flags & _END), packets[-1][0])
        if ends < packets[-1][0]:
            self._waits_for_key = True
            return self._leave_out(ends + 1, len(self._entries))
        if all(self._entries[at].spare for at, _ in packets):
            return False
        self._rebuild([entry._replace(spare=True) for entry in self._entries])
        return True

    def drop_oldest(self, before_ns: HostNs | None = None) -> bool:
        """Drop, by whole access units, what arrived before a time, or the oldest quarter."""
        first = self._first()
        packets = self._packets(first)
        if before_ns is None:
            gone = packets[: max(1, len(packets) // DROP_SHARE)]
        else:
            gone = [(at, packet) for at, packet in packets if packet.arrived_ns < before_ns]
        if not gone:
            return False
        ends = (at for at, packet in packets if at >= gone[-1][0] and packet.flags & _END)
        return self._leave_out(first, next(ends, len(self._entries) - 1) + 1)

    def drop_all(self) -> bool:
        """Drop whatever can be: there is no memory for it."""
        self._waits_for_key = self._waits_for_key or self.info.kind is Kind.VIDEO
        return self._leave_out(self._first(), len(self._entries))

    def _first(self) -> int:
        """The first index that may be dropped: after the rest of an access unit of which part was taken."""
        if self._unit_taken:
            return 0
        ends = (at for at, packet in self._packets(0) if packet.flags & _END)
        return next(ends, len(self._entries) - 1) + 1

    def _leave_out(self, first: int, end: int, which: Callable[[Packet], bool] = lambda packet: True) -> bool:
        """Drop packets between two indexes; the next remaining packet or end carries their number."""
        kept: list[Entry] = []
        states: dict[type[Item], Entry] = {}
        before, lost, last = self.dropped, 0, None
        for at, entry in enumerate(self._entries):
            item = entry.item
            if isinstance(item, Packet) and first <= at < end and which(item):
                lost, self.dropped, last = lost + entry.lost + 1, self.dropped + 1, item
            elif isinstance(item, Packet | End):
                kept += [*states.values(), entry._replace(lost=lost + entry.lost)]
                states, lost, last = {}, 0, None
            else:
                states.pop(type(item), None)
                states[type(item)] = entry
        self._lost += lost
        # The last access unit dropped is incomplete: drop its remaining parts when they arrive.
        self._skips_unit = self._skips_unit or (last is not None and not last.flags & _END)
        self._rebuild([*kept, *states.values()])
        return self.dropped > before

    def _rebuild(self, entries: Iterable[Entry]) -> None:
        for entry in self._entries:
            self._tally(entry, -1)
        self._entries.clear()
        self._arrivals.clear()
        self._disposables = 0
        for entry in entries:
            self._append(entry)

    def clear(self) -> None:
        """Discard everything."""
        self._rebuild(())


def _weight(item: Item) -> int:
    if isinstance(item, Packet):
        return item.weight
    return len(item.extradata) if isinstance(item, Parameters) else 0


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
        self._reserved = 0
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
        if lane.subscription is not None:
            lane.subscription.leave()
        self._remove(lane)

    def close(self) -> None:
        """The subscriber is gone. It is woken no more: it has this, a cycle (daemon/collector.py)."""
        for lane in list(self.lanes):
            self.leave(lane)
        self.wake = nothing

    def _remove(self, lane: Lane) -> None:
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
        if not self.held and self._reserved > HOLD_STEP:
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
        return self.bytes > BYTES_MAX or self.packets > PACKETS_MAX or self.held > self._reserved

    def reserve(self, more: int) -> bool:
        """Whether the budget has room for what is held and `more`; one step stays reserved while there are lanes."""
        needed = rounded_up(max(self.held + more, len(self.lanes) and 1))
        if needed != self._reserved:
            if not self._account.fits("queue", needed, self._share):
                return False
            self._reserved = needed
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
            while self._drop_pictures():
                pass
            lane.drop_oldest(now_ns - SOUND_NS_MAX + SOUND_NS_MAX // DROP_SHARE)
        elif lane.info.kind is Kind.VIDEO:
            while lane.oldest_ns is not None and now_ns - lane.oldest_ns > limit_ns:
                if not lane.drop_disposables() and not lane.drop_group():
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
