"""A lane of a subscriber's queue: the packets of one track that wait, in order, and what is dropped of them.

Whatever is dropped, a push costs a constant on average, however much waits. Dropping works from an end of the lane: it
takes entries off and puts back those that stay, so it costs as much as it drops, or as was pushed since it last looked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice, takewhile
from typing import NamedTuple, Protocol

from millrace.errors import BudgetError
from millrace.graph.packets import Subscription
from millrace.media.packet import End, Flags, Gap, Item, KeyFrame, Kind, Packet, Parameters, TrackInfo
from millrace.units import NS_PER_S, HostNs, MediaNs

PICTURES_NS_MAX = NS_PER_S // 2
SOUND_NS_MAX = NS_PER_S
"""The longest that queued packets may have waited."""
DROP_SHARE = 4
"""Sound and data are dropped a quarter at a time, so that the next packet does not exceed the bound again."""
FOREVER: HostNs = 1 << 63
"""Later than anything arrives."""
_KEY, _END, _DISPOSABLE = int(Flags.KEY), int(Flags.END), int(Flags.DISPOSABLE)


class Entry(NamedTuple):
    """A queued item. `spare` ones count only against the budget; `lost` is the number of packets missing before it."""

    order: int
    item: Item
    weight: int = 0
    spare: bool = False
    lost: int = 0


class LaneQueue(Protocol):
    """What a lane needs of its queue, which counts what all lanes hold."""

    bytes: int
    packets: int
    held: int
    wake: Callable[[], None]

    @property
    def full(self) -> bool:
        """Whether it holds more than it may."""
        ...

    def next_order(self) -> int:
        """A sequence number for what was pushed just now."""
        ...

    def reserve(self, more: int) -> bool:
        """Whether the budget has room for what is held and `more`."""
        ...

    def fit(self, lane: Lane, now_ns: HostNs) -> None:
        """Drop what is too late or too much, after `lane` got a packet."""
        ...


# Two flags decide about packets that follow a drop. `_skips_unit`: the unit that lost a part is dropped to its end.
# `_waits_for_key`: a picture is missing that later ones need, so everything up to the next key packet is dropped. A key
# packet clears both, because it needs nothing before it.
class Lane:
    """The queued items of one track; a `PacketSink`."""

    def __init__(self, queue: LaneQueue, info: TrackInfo) -> None:
        self.info = info
        self.subscription: Subscription | None = None
        self.dropped = 0
        """Packets dropped since it joined."""
        self.bytes = 0
        """Its bytes that count against the bound."""
        self._queue = queue
        self._entries: deque[Entry] = deque()
        self._arrivals: deque[HostNs] = deque()
        self._disposable = False
        """One that is disposable may have been pushed since `_looked`."""
        self._looked = self._settled = 0
        """Up to which order all disposable ones are dropped, and up to which no group can be."""
        self._lost = 0
        self._resume_ns: MediaNs = 0
        self._waits_for_key = False
        self._skips_unit = False
        self._late_ns = PICTURES_NS_MAX if info.kind is Kind.VIDEO else SOUND_NS_MAX
        self._yields = info.kind is not Kind.AUDIO
        self._unit_taken = True
        """The last packet taken ended its access unit. If not, the rest of that unit must not be dropped."""
        self._rest = 0
        """So many entries are known to be that rest."""

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
            self._disposable = True
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
            self._disposable = self._disposable or int(entry.item.flags) & _DISPOSABLE != 0
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
            self._unit_taken = bool(int(item.flags) & _END)
            if not spare:
                self._arrivals.popleft()
        self._rest = 0 if self._unit_taken else max(0, self._rest - 1)
        if not lost:
            return (item,)
        return Gap(lost, item.pts_ns if isinstance(item, Packet) else self._resume_ns), item

    # -- dropping --------------------------------------------------------------------------------

    def drop_disposables(self) -> bool:
        """Drop pictures that no other needs; False if there are none."""
        if not self._disposable:
            return False
        since, self._looked, self._disposable = self._looked, self._entries[-1].order if self._entries else 0, False
        new = sum(1 for _ in takewhile(lambda entry: entry.order > since, reversed(self._entries)))
        first = max(self._first(), len(self._entries) - new)
        return self._leave_out(first, len(self._entries), lambda packet: packet.flags & _DISPOSABLE != 0)

    def drop_group(self, before_ns: HostNs = 0) -> bool:
        """Drop the oldest group of pictures, and later ones that arrived before a time; False if nothing can be."""
        if not self._entries or self._entries[-1].order == self._settled:
            return False
        first, begins, goes_on = self._first(), None, None
        for at, entry in enumerate(islice(self._entries, first, None), first):
            if not isinstance(packet := entry.item, Packet):
                continue
            if begins is None:
                begins = packet.flags & _KEY
            elif packet.flags & _KEY:
                goes_on = at
                if packet.arrived_ns >= before_ns:
                    break
        if goes_on is not None:
            return self._leave_out(first, goes_on)
        if begins is None or begins:
            return self._keep_key(first)
        self._waits_for_key = True
        return self._leave_out(first, len(self._entries))

    # Marking the key frame as spare frees room without dropping anything, so `fit` makes progress; once all is spare,
    # nothing is left to drop here until something is pushed. Otherwise `fit` would not end.
    def _keep_key(self, first: int) -> bool:
        """Drop all but the key frame of the only group, which is then exempt from the bounds."""
        packets = self._packets(first)
        ends = next((at for at, packet in packets if packet.flags & _END), len(self._entries))
        if packets and ends < packets[-1][0]:
            self._waits_for_key = True
            return self._leave_out(ends + 1, len(self._entries))
        if all(self._entries[at].spare for at, _ in packets):
            self._settled = self._entries[-1].order
            return False
        for entry in self._taken_off(len(self._entries)):
            self._append(entry._replace(spare=True))
        return True

    def _packets(self, first: int) -> list[tuple[int, Packet]]:
        """The packets from an index on, with their indexes."""
        behind = enumerate(islice(self._entries, first, None), first)
        return [(at, entry.item) for at, entry in behind if isinstance(entry.item, Packet)]

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
        if self._unit_taken or (self._rest and _ends(self._entries[self._rest - 1])):
            return self._rest
        for entry in islice(self._entries, self._rest, None):
            self._rest += 1
            if _ends(entry):
                break
        return self._rest

    def _leave_out(self, first: int, end: int, which: Callable[[Packet], bool] = lambda packet: True) -> bool:
        """Drop packets between two indexes; the next remaining packet or end carries their number."""
        before, from_left, entries = self.dropped, end < len(self._entries), self._entries
        if from_left:
            stays, run = self._taken_off(first), self._taken_off(end - first)
            while entries and (len(run) == end - first or not isinstance(run[-1].item, Packet | End)):
                run += self._taken_off(1)
            kept = self._thinned(run, end - first, which)
            self._put_back([*stays, *kept])
            return self.dropped > before
        while first and not isinstance(entries[first - 1].item, Packet | End):
            first -= 1
        for entry in self._thinned(self._taken_off(end - first, left=False), end - first, which):
            self._append(entry)
        return self.dropped > before

    def _thinned(self, run: list[Entry], end: int, which: Callable[[Packet], bool]) -> list[Entry]:
        """These successive entries without such packets, up to an index. Nothing is behind them but what carries."""
        kept: list[Entry] = []
        states: dict[type[Item], Entry] = {}
        lost, last = 0, None
        for at, entry in enumerate(run):
            item = entry.item
            if isinstance(item, Packet) and at < end and which(item):
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
        return [*kept, *states.values()]

    def _taken_off(self, count: int, left: bool = True) -> list[Entry]:
        """So many entries, in order, which are taken off an end."""
        queue, weights, held, packets = self._queue, 0, 0, 0
        take, arrived = (
            (self._entries.popleft, self._arrivals.popleft) if left else (self._entries.pop, self._arrivals.pop)
        )
        taken = [take() for _ in range(count)]
        for _, item, weight, spare, _ in taken:
            held += weight
            if not spare:
                weights += weight
                if isinstance(item, Packet):
                    packets += 1
                    arrived()
        self.bytes -= weights
        queue.bytes -= weights
        queue.held -= held
        queue.packets -= packets
        return taken if left else taken[::-1]

    def _put_back(self, entries: list[Entry]) -> None:
        """Put entries that were taken off in front again."""
        for entry in reversed(entries):
            self._entries.appendleft(entry)
            self._tally(entry, 1)
            if isinstance(entry.item, Packet) and not entry.spare:
                self._arrivals.appendleft(entry.item.arrived_ns)

    def clear(self) -> None:
        """Discard everything."""
        self._taken_off(len(self._entries))
        self._rest = 0


def _ends(entry: Entry) -> bool:
    """Whether an access unit ends with this entry."""
    return isinstance(entry.item, Packet) and entry.item.flags & _END != 0


def _weight(item: Item) -> int:
    if isinstance(item, Packet):
        return item.weight
    return len(item.extradata) if isinstance(item, Parameters) else 0
