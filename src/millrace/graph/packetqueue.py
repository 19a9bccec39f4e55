"""A subscriber's queue: what of some tracks waits for one line, bounded, and what is left out when that is too slow.

Each track has a lane of its own, in order. `take` gives sound before all else, or a key picture would hold it up for as
long as the line takes to carry that, and then what came first of the other lanes. Left out is, until the rest fits:

1. pictures that no other needs (DISPOSABLE),
2. the oldest group of pictures to its end, stills and thumbnails after the others; a key picture that begins the only
   group stays, and what follows it goes: so a line that can't carry all pictures still gets one now and then,
3. captions and other data, one by one, the oldest first,
4. sound, the oldest first.

Laws: what is taken after a Gap can be decoded; a Gap is taken together with the packet that it stands before, so there
are never two in a row; parameters, segments and ends are never left out, but where two of a kind follow each other only
the later is told. Bytes are bounded, and for pictures and sound time; outside the bound are only the group that a
newcomer is given and one key picture a lane. What is held is in the account of whom it waits for; where the guest's
budget is used up, it is as if the queue were full.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

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
"""How long what is queued may have waited."""
DROP_SHARE = 4
"""Of sound and data a quarter is left out at once, so that the next packet does not meet the bound again."""
_KEY, _END, _DISPOSABLE = int(Flags.KEY), int(Flags.END), int(Flags.DISPOSABLE)


class Entry(NamedTuple):
    """An item that waits; `spare` ones count against no bound but the budget's, `lost` is what is missing before it."""

    order: int
    item: Item
    weight: int = 0
    spare: bool = False
    lost: int = 0


class Lane:
    """What waits of one track; a `PacketSink`."""

    def __init__(self, queue: PacketQueue, info: TrackInfo) -> None:
        self.info = info
        self.subscription: Subscription | None = None
        self.dropped = 0
        """Packets left out since it joined."""
        self.bytes = 0
        """What it has that counts against the bound."""
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
        """The last packet taken was the last of its access unit; else the rest of that is not left out."""

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def turn(self) -> tuple[bool, int]:
        """When it is taken from: the least of all lanes is next."""
        return self._yields, self._entries[0].order

    @property
    def late_ns(self) -> HostNs:
        """How long its packets may wait."""
        return self._late_ns

    @property
    def oldest_ns(self) -> HostNs | None:
        """When the oldest packet that counts came."""
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
        # Done for each packet of each subscriber: what every other method does by steps is written out here.
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

    def _missing(self, item: Item) -> int:
        """What is missing before `item`: told with the next packet, or the end."""
        lost = 0
        if self._lost and isinstance(item, Packet | End):
            lost, self._lost = self._lost, 0
        return lost

    def _left_out(self, flags: int) -> bool:
        """Whether a packet goes with what was left out before it."""
        if flags & _KEY:
            self._waits_for_key = self._skips_unit = False
        if self._waits_for_key:
            return True
        if self._skips_unit:
            self._skips_unit = not flags & _END
            return True
        return False

    def _push_state(self, item: Item) -> None:
        """What is said of packets: of two of a kind without a packet between them only the later is told."""
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
        """Ask for a key frame, if that is what it waits for: once the line has had all there was."""
        if self._waits_for_key and not self._entries and self.subscription is not None:
            self.subscription.upstream(KeyFrame(), now_ns)

    # -- the line's side -------------------------------------------------------------------------

    def take(self) -> tuple[Item, ...]:
        """What comes next of it."""
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

    # -- what is left out ------------------------------------------------------------------------

    def drop_disposables(self) -> bool:
        """Leave out what no other needs; False where there is none."""
        if not self._disposables:
            return False
        return self._leave_out(self._first(), len(self._entries), lambda packet: packet.flags & _DISPOSABLE != 0)

    def drop_group(self) -> bool:
        """Leave out the oldest group of pictures; False where nothing can be."""
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
        """Packets from a place on, and where they stand."""
        return [
            (at, entry.item) for at, entry in enumerate(self._entries) if at >= first and isinstance(entry.item, Packet)
        ]

    def _keep_key(self, packets: list[tuple[int, Packet]]) -> bool:
        """Of the only group its key picture stays, outside the bound."""
        ends = next((at for at, packet in packets if packet.flags & _END), packets[-1][0])
        if ends < packets[-1][0]:
            self._waits_for_key = True
            return self._leave_out(ends + 1, len(self._entries))
        if all(self._entries[at].spare for at, _ in packets):
            return False
        self._rebuild([entry._replace(spare=True) for entry in self._entries])
        return True

    def drop_oldest(self, before_ns: HostNs | None = None) -> bool:
        """Leave out, by whole access units, what came before a time, or the oldest quarter."""
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
        """Leave out whatever can be: there is no memory for it."""
        self._waits_for_key = self._waits_for_key or self.info.kind is Kind.VIDEO
        return self._leave_out(self._first(), len(self._entries))

    def _first(self) -> int:
        """Where that begins which may be left out: after the rest of an access unit of which some was taken."""
        if self._unit_taken:
            return 0
        ends = (at for at, packet in self._packets(0) if packet.flags & _END)
        return next(ends, len(self._entries) - 1) + 1

    def _leave_out(self, first: int, end: int, which: Callable[[Packet], bool] = lambda packet: True) -> bool:
        """Leave out packets between two places. What follows any says how many."""
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
        # Parts of it are still to come.
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
        """Nothing waits any more."""
        self._rebuild(())


def _weight(item: Item) -> int:
    if isinstance(item, Packet):
        return item.weight
    return len(item.extradata) if isinstance(item, Parameters) else 0


class PacketQueue:
    """One subscriber's."""

    def __init__(self, account: Account) -> None:
        self.lanes: list[Lane] = []
        self.bytes = self.packets = 0
        """What counts against the bounds."""
        self.held = 0
        """Bytes, with what counts against none."""
        self._account = account
        self._reserved = 0
        self._order = 0

    def join(self, track: Track, who: Watcher, now_ns: HostNs, demand: Demand | None = None) -> Lane:
        """Get `track` as well; GraphError, and it does not, where there is no room."""
        lane = Lane(self, track.info)
        self.lanes.append(lane)
        try:
            lane.subscription = track.join(lane, who, now_ns, demand)
        except Exception:
            self._remove(lane)
            raise
        return lane

    def leave(self, lane: Lane) -> None:
        """Get that track no more, nor what waits of it."""
        if lane.subscription is not None:
            lane.subscription.leave()
        self._remove(lane)

    def close(self) -> None:
        """The subscriber is gone."""
        for lane in list(self.lanes):
            self.leave(lane)

    def _remove(self, lane: Lane) -> None:
        lane.clear()
        if lane in self.lanes:
            self.lanes.remove(lane)
        self.reserve(0)

    def take(self, now_ns: HostNs) -> tuple[Lane, tuple[Item, ...]] | None:
        """What goes on the line next, and of which track: one item, or a Gap and what it stands before."""
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
        if not self.held and self._reserved > HOLD_STEP:
            self.reserve(0)
        return first, items

    # -- for lanes -------------------------------------------------------------------------------

    def next_order(self) -> int:
        """A number for what was pushed just now."""
        self._order += 1
        return self._order

    @property
    def full(self) -> bool:
        """Whether it has more than it may, or than was asked of the budget."""
        return self.bytes > BYTES_MAX or self.packets > PACKETS_MAX or self.held > self._reserved

    def reserve(self, more: int) -> bool:
        """Whether the budget has room for what is held and so much more; one step is kept as long as it has lanes."""
        needed = rounded_up(max(self.held + more, len(self.lanes) and 1))
        if needed != self._reserved:
            if not self._account.fits("queue", needed, LISTENERS):
                return False
            self._reserved = needed
        return True

    def fit(self, lane: Lane, now_ns: HostNs) -> None:
        """Leave out what is too late or too much, now that `lane` has got a packet."""
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
            while self._drop_pictures():
                pass
            lane.drop_oldest(now_ns - SOUND_NS_MAX + SOUND_NS_MAX // DROP_SHARE)
        elif lane.info.kind is Kind.VIDEO:
            while lane.oldest_ns is not None and now_ns - lane.oldest_ns > limit_ns:
                if not lane.drop_disposables() and not lane.drop_group():
                    break

    def _drop(self) -> bool:
        """One step in the order of what is left out; False where nothing can be."""
        return (
            self._drop_pictures()
            or any(lane.drop_oldest() for lane in self._lanes(Kind.TEXT, Kind.DATA))
            or any(lane.drop_oldest() for lane in self._lanes(Kind.AUDIO))
        )

    def _drop_pictures(self) -> bool:
        lanes = self._lanes(Kind.VIDEO)
        return any(lane.drop_disposables() for lane in lanes) or any(lane.drop_group() for lane in lanes)

    def _lanes(self, *kinds: Kind) -> list[Lane]:
        """Lanes of some kinds, the one that takes most room first."""
        lanes = [lane for lane in self.lanes if lane.info.kind in kinds]
        return sorted(lanes, key=lambda lane: (lane.info.cache is Cache.LAST, -lane.bytes))
