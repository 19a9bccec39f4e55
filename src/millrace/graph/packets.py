"""Packet ports: one track, from its source to all its subscribers.

`Track` enforces these rules, whatever its source does:

- Parameters come before the first packet and before every change; each packet carries their generation.
- `number` only increases, starting from 0 or from where a relay joined. A jump means loss. Loss is reported by one Gap,
  directly before the next packet that can be decoded. On a track whose packets come in groups that is the next key
  packet, unless the hop that dropped the packets said with a Gap of its own that the rest can be decoded without them.
- dts never decreases except at DISCONTINUITY. KEY marks the first part of its access unit and no other, so a receiver
  that lost that part can't mistake the rest for a beginning. Parameters, KEY and a Gap end an access unit that is
  incomplete: its source was replaced, or its end was lost.
- A new subscriber gets the parameters, then the last group if that is cached, else nothing until the next key packet,
  which is requested. Nobody gets part of an access unit without its beginning.
- Payloads are shared, and pushing never blocks: what a subscriber can't take is for its own queue to handle.

A source that breaks the rules gets a GraphError, which its door translates to an error of its protocol; the track is
unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from millrace.budget import Budget
from millrace.errors import GraphError
from millrace.graph.packetcache import make_cache, with_gaps
from millrace.graph.packetdemand import Wishes
from millrace.graph.seat import Seat, Watcher
from millrace.media.format import AudioFormat, DataFormat, VideoFormat
from millrace.media.packet import (
    NO_DEMAND,
    Cache,
    Demand,
    End,
    Flags,
    Gap,
    Item,
    KeyFrame,
    Kind,
    Packet,
    PacketSink,
    Parameters,
    Segment,
    TrackInfo,
    Upstream,
)
from millrace.units import NS_PER_S, HostNs, MediaNs

KEY_FRAME_NS = NS_PER_S // 2
"""A source is asked for a key frame no more often than this."""
KEY_FRAME_AGAIN_NS = 2 * NS_PER_S
"""It is asked again if packets kept coming for this long without one."""
UNIT_BYTES_MAX = 4 * 1024 * 1024
"""Per access unit; the largest is a key frame of a dense desktop."""
EXTRADATA_MAX = 64 * 1024
SUBSCRIBERS_MAX = 256
TRACK_BYTES = 8 * 1024
_FORMATS = {Kind.AUDIO: AudioFormat, Kind.VIDEO: VideoFormat, Kind.TEXT: DataFormat, Kind.DATA: DataFormat}
_KEY, _END, _DISCONTINUITY = int(Flags.KEY), int(Flags.END), int(Flags.DISCONTINUITY)


class PacketSource(Protocol):
    """The producer of a track's packets. Requests arrive here; it answers later, and never pushes from these calls."""

    def demand(self, wanted: Demand) -> None:
        """What all subscribers together want; called when that changes."""
        ...

    def upstream(self, event: Upstream, who: Watcher | None) -> None:
        """A request from `who`, or from the track itself (None) on behalf of all that wait."""
        ...


class Subscription:
    """One subscriber's hold on a track."""

    __slots__ = ("_track", "demand", "sink", "who")

    def __init__(self, track: Track, sink: PacketSink, who: Watcher, demand: Demand) -> None:
        self._track, self.sink, self.who, self.demand = track, sink, who, demand

    @property
    def info(self) -> TrackInfo:
        """What the track is."""
        return self._track.info

    def wish(self, demand: Demand) -> None:
        """Change what the subscriber wants."""
        before, self.demand = self.demand, demand
        self._track.wish(self, before)

    def upstream(self, event: Upstream, now_ns: HostNs) -> None:
        """Make a request to the source; RightsError for one that is reserved for the holder of the keyboard."""
        if isinstance(event, KeyFrame):
            self._track.ask_key_frame(now_ns)
        else:
            self._track.tell_source(event, self.who)

    def leave(self) -> None:
        """End the subscription. A second call does nothing."""
        self._track.leave(self)


class Publisher:
    """One source's hold on a track. Once another source has the track, pushes from this one are ignored."""

    __slots__ = ("_track", "source")

    def __init__(self, track: Track, source: PacketSource) -> None:
        self._track, self.source = track, source

    @property
    def next_generation(self) -> int:
        """The lowest generation that its next parameters may have."""
        return self._track.generation + 1

    @property
    def next_number(self) -> int:
        """The lowest number that its next packet may have."""
        return self._track.number + 1

    def push(self, item: Item) -> None:
        """Push the next item; GraphError if it breaks a rule."""
        if self._track.publisher is self:
            self._track.push(item)

    def push_in_steps(self, packet: Packet, each: int) -> Iterator[None]:
        """Push a packet to so many subscribers at a time. Between two steps requests may arrive.

        What is pushed before the last step lets the others have this packet first.
        """
        if self._track.publisher is self:
            self._track.begin(packet)
            while not self._track.go_on(each):
                yield

    def withdraw(self) -> None:
        """The source is gone. Subscribers stay, and another source may take its place."""
        if self._track.publisher is self:
            self._track.publisher = None


class Track:
    """One elementary stream of packets."""

    def __init__(self, info: TrackInfo, seat: Seat, budget: Budget) -> None:
        self.info = info
        self.publisher: Publisher | None = None
        self.ended = False
        self.demand = NO_DEMAND
        """The demand that the source was last told."""
        self.parameters: Parameters | None = None
        self.segment: Segment | None = None
        self.number = self.generation = -1
        self._seat = seat
        self._account = budget.open("track", {"track": TRACK_BYTES})
        self._cache = make_cache(info.cache, self._account)
        self._grouped = info.cache is Cache.GROUP
        self._subscriptions: dict[Subscription, None] = {}
        """In order. Of these, some wait for a key packet, and the others are live."""
        self._waiting: dict[Subscription, None] = {}
        self._live: dict[Subscription, None] = {}
        self._receivers: tuple[Subscription, ...] | None = ()
        """The live ones; None: they have changed."""
        self._wishes = Wishes()
        self._under_way: tuple[Packet, tuple[Subscription, ...]] | None = None
        """A packet, and who gets it: so many have got it, or have left."""
        self._reached = 0
        self._dts_ns: MediaNs | None = None
        self._resume_ns: MediaNs = 0
        self._unit_bytes = 0
        self._starts = True
        self._lost = 0
        self._declared: int | None = None
        """How many packets the source's own Gap says are missing before the next packet."""
        self._broken = False
        self._pushing = False
        self._asked_ns: HostNs | None = None
        self._key_wanted = self._key_awaited = False

    # -- the source's side -----------------------------------------------------------------------

    # Numbers and generations continue across sources, and each Publisher can ask where they stand (`next_number`):
    # subscribers see a change of source as new parameters and a key packet, not as packets that go back. Pushes of the
    # old Publisher have no effect from here on.
    def publish(self, source: PacketSource) -> Publisher:
        """Make `source` the source from now on, replacing any other; it begins with parameters and a key packet."""
        if self.ended:
            raise GraphError(f"track {self.info.key} has ended: make another")
        self.go_on(SUBSCRIBERS_MAX)
        self.publisher = Publisher(self, source)
        self.parameters = self.segment = None
        # What the old source lost stays lost, but says nothing about a jump in the new one's numbers.
        self._lost, self._declared = self._lost + (self._declared or 0), None
        self._begin_anew()
        source.demand(self.demand)
        return self.publisher

    def _begin_anew(self) -> None:
        """Prepare for packets that can't be decoded from what came before."""
        self._cache.clear()
        self._starts, self._unit_bytes = True, 0
        self._broken = self._grouped

    def push(self, item: Item) -> None:
        """For publishers: push the next item."""
        self.begin(item)
        self.go_on(SUBSCRIBERS_MAX)

    def begin(self, item: Item) -> None:
        """For publishers: push the next item. `go_on` gives it to the subscribers, if it is a packet."""
        self.go_on(SUBSCRIBERS_MAX)
        if self.ended:
            raise GraphError(f"track {self.info.key} has ended")
        if isinstance(item, Packet):
            self._pushing = True
            try:
                self._push_packet(item)
            finally:
                self._pushing = False
        elif isinstance(item, Gap):
            self._declared = (self._declared or 0) + item.dropped
        elif isinstance(item, End):
            self._end(item)
        else:
            self._push_state(item)

    # A subscriber may ask for a key frame when it gets a packet. The source must not be called while it is pushing, so
    # the request waits until the packet is delivered. Who leaves meanwhile gets no more, and who joins had it from the
    # cache.
    def go_on(self, most: int) -> bool:
        """Give the packet that is under way to so many more subscribers; returns whether all have it."""
        if self._under_way is None:
            return True
        packet, receivers = self._under_way
        begin, self._reached, self._pushing = self._reached, self._reached + most, True
        try:
            for subscription in receivers[begin : self._reached]:
                if subscription in self._live:
                    subscription.sink.push(packet)
        finally:
            self._pushing = False
        if self._reached < len(receivers):
            return False
        self._under_way = None
        if self._key_wanted:
            self.handle_timeout(packet.arrived_ns)
        return True

    def _push_state(self, item: Parameters | Segment) -> None:
        if not self._starts:
            raise GraphError(f"track {self.info.key}: parameters within an access unit")
        if isinstance(item, Segment):
            self.segment = item
        else:
            self._check_parameters(item)
            self.parameters, self.generation = item, item.generation
            self._begin_anew()
        self._fan_out(item)

    def _check_parameters(self, item: Parameters) -> None:
        if item.generation <= self.generation:
            raise GraphError(
                f"track {self.info.key}: parameters {item.generation} after {self.generation}; count them upward"
            )
        if not isinstance(item.format, _FORMATS[self.info.kind]):
            raise GraphError(f"track {self.info.key} is {self.info.kind.value}: {item.format!r} is not its format")
        if len(item.extradata) > EXTRADATA_MAX:
            raise GraphError(
                f"track {self.info.key}: {len(item.extradata)} bytes of extradata; {EXTRADATA_MAX} at most"
            )

    def _push_packet(self, packet: Packet) -> None:
        flags, declared = int(packet.flags), self._declared
        jump = packet.number - self.number - 1
        key = bool(flags & _KEY)
        torn = jump > (declared or 0)
        starts = key or (self._starts and not torn)
        self._check(packet, starts)
        # A Gap and the jump in numbers report the same loss. A jump beyond what the Gap declared may include packets
        # that the following ones need.
        if torn:
            self._begin_anew()
            self._broken = True
        self._lost += max(jump if self.number >= 0 else 0, declared or 0)
        self._declared = None
        self.number, self._dts_ns = packet.number, packet.dts_ns
        self._resume_ns = packet.pts_ns + packet.duration_ns
        self._unit_bytes = packet.weight + (0 if starts else self._unit_bytes)
        self._starts = bool(flags & _END)
        resumes = key or (starts and not self._grouped)
        self._under_way, self._reached = (packet, ()), 0
        if self._broken and not resumes:
            self._lost += 1
            self._want_again(packet.arrived_ns)
        else:
            self._deliver(packet, starts, resumes)

    # The order matters. The Gap goes only to those that were live when the loss happened: a subscriber that has waited
    # so far has missed nothing that it was promised. Then those that waited become live, so that this packet is their
    # first. The cache gets the packet before it is delivered: a sink that is added meanwhile (by another sink, a relay)
    # finds it there and does not get it twice, since the tuple of receivers is the one from before.
    def _deliver(self, packet: Packet, starts: bool, resumes: bool) -> None:
        if resumes:
            self._broken = self._key_wanted = self._key_awaited = False
        if self._lost:
            self._fan_out(Gap(self._lost, packet.pts_ns))
            self._lost = 0
        if self._waiting:
            if resumes:
                self._go_live()
            else:
                self._want_again(packet.arrived_ns)
        self._cache.add(packet, starts)
        self._under_way = packet, self._now_live()

    # All checks come before any change: a source that is refused may correct the packet and push it again.
    def _check(self, packet: Packet, starts: bool) -> None:
        """Check the rules for a packet; changes nothing."""
        name, parameters = self.info.key, self.parameters
        if parameters is None or packet.generation != parameters.generation:
            raise GraphError(f"track {name}: a packet of parameters {packet.generation}, which were not given")
        if packet.number <= self.number:
            raise GraphError(f"track {name}: packet {packet.number} after {self.number}; count them upward")
        back = self._dts_ns is not None and packet.dts_ns < self._dts_ns
        if back and not packet.flags & _DISCONTINUITY:
            raise GraphError(f"track {name}: packet {packet.number} goes back in time; mark a discontinuity")
        if packet.weight + (0 if starts else self._unit_bytes) > UNIT_BYTES_MAX:
            raise GraphError(f"track {name}: an access unit of more than {UNIT_BYTES_MAX} bytes")

    def _end(self, item: End) -> None:
        lost = self._lost + (self._declared or 0)
        if lost:
            self._fan_out(Gap(lost, self._resume_ns))
        self._fan_out(item)
        self.ended, self.publisher = True, None
        self._cache.clear()
        self._subscriptions, self._waiting, self._live, self._receivers = {}, {}, {}, ()
        self._wishes.clear()
        self._account.close()

    def _fan_out(self, item: Item) -> None:
        waiting = () if isinstance(item, Packet | Gap) else tuple(self._waiting)
        for subscription in (*self._now_live(), *waiting):
            subscription.sink.push(item)

    def _now_live(self) -> tuple[Subscription, ...]:
        if self._receivers is None:
            self._receivers = tuple(self._live)
        return self._receivers

    # -- the subscribers' side -------------------------------------------------------------------

    def join(self, sink: PacketSink, who: Watcher, now_ns: HostNs, demand: Demand | None = None) -> Subscription:
        """Subscribe `sink` from now on; if there is no room, raise GraphError and change nothing."""
        if self.ended:
            raise GraphError(f"track {self.info.key} has ended")
        if len(self._subscriptions) >= SUBSCRIBERS_MAX:
            raise GraphError(f"track {self.info.key} already has {SUBSCRIBERS_MAX} subscribers, the maximum")
        cached = self._cache.packets()
        state = (item for item in (self.parameters, self.segment) if item is not None)
        # First, because it may raise BudgetError: nothing has changed yet.
        sink.begin((*state, *with_gaps(cached)))
        subscription = Subscription(self, sink, who, Demand() if demand is None else demand)
        self._subscriptions[subscription] = None
        self._wishes.add(subscription.demand)
        if cached or (self._starts and not self._grouped):
            self._live[subscription] = None
            self._receivers = None
        else:
            self._waiting[subscription] = None
            if self._grouped:
                self.ask_key_frame(now_ns)
        self.tell_demand()
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """For subscriptions: remove one."""
        if subscription not in self._subscriptions:
            return
        del self._subscriptions[subscription]
        self._waiting.pop(subscription, None)
        if subscription in self._live:
            del self._live[subscription]
            self._receivers = None
        self._wishes.remove(subscription.demand)
        self.tell_demand()

    def _go_live(self) -> None:
        self._live |= self._waiting
        self._waiting, self._receivers = {}, None

    # -- upstream --------------------------------------------------------------------------------

    def wish(self, subscription: Subscription, before: Demand) -> None:
        """For subscriptions: one of them wants something else than before."""
        if subscription in self._subscriptions:
            self._wishes.remove(before)
            self._wishes.add(subscription.demand)
        self.tell_demand()

    def tell_demand(self) -> None:
        """Tell the source what is wanted, if that has changed."""
        who, played = self._seat.who, None
        if who is not None and self._wishes.played:
            played = next((held.demand.played_ns for held in self._subscriptions if held.who is who), None)
        wanted = self._wishes.merged(played)
        if wanted != self.demand:
            self.demand = wanted
            if self.publisher is not None:
                self.publisher.source.demand(wanted)

    def tell_source(self, event: Upstream, who: Watcher) -> None:
        """Pass the source a request from the holder of the keyboard; RightsError for others."""
        self._seat.demand(who, type(event).__name__.lower())
        if self.publisher is not None:
            self.publisher.source.upstream(event, who)

    def ask_key_frame(self, now_ns: HostNs) -> None:
        """Somebody needs a key frame: ask the source now, or as soon as it may be asked again."""
        self._key_wanted = True
        if not self._pushing:
            self.handle_timeout(now_ns)

    def _want_again(self, now_ns: HostNs) -> None:
        late = self._asked_ns is None or now_ns - self._asked_ns >= KEY_FRAME_AGAIN_NS
        if self._grouped and (late or not self._key_awaited):
            self._key_wanted = True

    def next_timeout(self) -> HostNs | None:
        """The next deadline."""
        if not self._key_wanted or self.publisher is None:
            return None
        return 0 if self._asked_ns is None else self._asked_ns + KEY_FRAME_NS

    def handle_timeout(self, now_ns: HostNs) -> None:
        """Ask for the wanted key frame, if it is time."""
        due_ns = self.next_timeout()
        if due_ns is None or self.publisher is None or now_ns < due_ns:
            return
        self._key_wanted, self._key_awaited, self._asked_ns = False, True, now_ns
        self.publisher.source.upstream(KeyFrame(), None)
