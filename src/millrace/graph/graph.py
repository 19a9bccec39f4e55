"""One guest's graph: the operations that change it, and the clock that runs it.

Every method that needs the host time takes it as an argument; nothing here reads a clock. The graph's position follows
the host clock exactly (position = elapsed host time × rate), so media time and host time map one to one. The driver
decides when the graph runs, the graph how far.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import TypeAlias

from millrace.budget import Budget
from millrace.errors import GraphError
from millrace.graph.accounts import NodeAccounts, alike, bytes_of, check_movable, link_to, linked, set_links
from millrace.graph.cycle import run_cycle
from millrace.graph.lanes import Lanes
from millrace.graph.model import (
    FIRST_SINK,
    NOTHING,
    Ids,
    Node,
    NodeState,
    Sink,
    Stream,
    Tap,
)
from millrace.graph.nodes import Nodes
from millrace.graph.planning import Planning
from millrace.graph.quantum import Quanta
from millrace.graph.reports import UNREPORTED, Reports
from millrace.graph.share import Lag, Share
from millrace.graph.state import GraphState
from millrace.units import (
    NS_PER_MS,
    NS_PER_S,
    Frames,
    HostNs,
    Positions,
    default_map,
    frames_to_ns,
    ns_to_frames,
)

STARVED = frozenset({"underrun", "prebuffering"})
LINGER_NS: HostNs = 200 * NS_PER_MS
"""How long a graph keeps running after its last stream stopped, because the next song often follows at once."""
BEHIND_MAX_NS: HostNs = NS_PER_S
"""A graph later than this (the machine was suspended) jumps ahead instead of catching up."""


Wake: TypeAlias = Callable[["Graph"], None]


class Graph(Nodes):
    """The nodes and links of one guest, and their cycle."""

    def __init__(
        self, name: str, ids: Ids, rate: int = 48_000, positions: Positions | None = None,
        budget: Budget | None = None, reports: Reports = UNREPORTED,
    ) -> None:  # fmt: skip
        super().__init__(positions or default_map(2), reports)
        self.name = name
        self.budget = budget or Budget(f"guest {name}")
        """Limits everything that the guest makes the daemon hold, nodes included."""
        self.rate = rate
        self.ids = ids
        self.position: Frames = 0
        self.late_cycles = 0
        self.skipped_frames: Frames = 0
        self.running = False
        self._quanta = Quanta(rate)
        # A long lane holds half a second, a short one two of the longest quanta, both rounded up to a power of two.
        lane, short = 1 << (rate // 2 - 1).bit_length(), 1 << (2 * self._quanta.longest - 1).bit_length()
        self.accounts = NodeAccounts(name, self.budget, self._quanta.longest, short)
        self._lanes = Lanes(lane, short)
        self._planning = Planning(self._quanta, self._lanes)
        self.share = Share()
        """How much of the worker's time it may use in one run of cycles."""
        self._wake: Wake | None = None
        self._steps: Iterator[None] | None = None
        self._lag = Lag(self.share)
        self._needed = False
        self._idle_since_ns: HostNs = 0
        self._now_ns: HostNs = 0

    # -- handing on ----------------------------------------------------------------------

    def freeze(self, kept: Container[int]) -> GraphState:
        """Return the graph as a value, with those streams and taps whose numbers are in `kept`; it is empty afterwards.

        Observers are not told. It must not be clocked any more.
        """
        for _ in self._steps or ():
            pass
        lanes = self._lanes.streams()
        for stream in lanes:
            self._lanes.remove(stream, self.position, keep=True)
        default = None if self.default is None else self.default.id
        quantum, applied = self._planning.freeze()
        mixes, streams, taps = self._freeze_nodes(kept)
        order = [stream.id for stream in lanes if stream.id in kept]
        running, self.running, self._needed = self.running, False, False
        return GraphState(
            position=self.position, now_ns=self._now_ns, running=running, idle_since_ns=self._idle_since_ns,
            late_cycles=self.late_cycles, skipped_frames=self.skipped_frames, quantum=quantum, default=default,
            mixes=mixes, streams=streams, taps=taps, lanes=order, applied=applied,
        )  # fmt: skip

    def resume(self, state: GraphState) -> None:
        """Continue from a frozen graph. Before the next cycle, its doors provide the feeds and consumers."""
        assert not self.sinks
        self.position, self._now_ns, self.running = state.position, state.now_ns, state.running
        self._idle_since_ns = state.idle_since_ns
        self.late_cycles, self.skipped_frames = state.late_cycles, state.skipped_frames
        self._planning.resume(state.quantum, state.applied)
        self._resume_nodes(state, self.accounts.readmit)
        for id_ in state.lanes:
            self._lanes.add(self.streams[id_])
        self._update_need()

    # -- nodes ---------------------------------------------------------------------------

    def add_first_sink(self, description: str = "") -> Sink:
        """The first sink of a guest, its default."""
        sink = self.add_sink(FIRST_SINK, description)
        self.set_default(sink)
        return sink

    def add_source(self, name: str, description: str, positions: Positions | None = None) -> Sink:
        """A new source: what is linked into it can be recorded. GraphError if the name is taken."""
        self._demand_free(name, "source")
        source = Sink(self.ids.take(), name, positions or self.positions, description=description or name, capture=True)
        return self._add_mix(source, self.sources)

    def add_sink(self, name: str, description: str = "", positions: Positions | None = None) -> Sink:
        """A new sink with its monitor; GraphError if the name is taken."""
        self._demand_free(name, "sink")
        sink = Sink(self.ids.take(), name, positions or self.positions, description=description or name)
        sink.aliases = self._former_names(name)
        return self._add_mix(sink, self.sinks)

    def _add_mix(self, mix: Sink, among: dict[int, Sink]) -> Sink:
        self.accounts.admit(mix, len(self.sinks) + len(self.sources))
        mix.state = NodeState.RUNNING if self.running else mix.state
        among[mix.id] = mix
        self._changed("new", mix)
        return mix

    def remove_sink(self, sink: Sink) -> None:
        """Remove `sink`; its inputs and taps move to its heir, except pinned ones, which end."""
        if self.sinks.get(sink.id) is not sink:
            return
        list(self.leave(sink))
        for stream in [stream for stream in self.streams.values() if linked(stream, sink)]:
            # It was linked there again in the meantime.
            self.remove_stream(stream)
        self._changed("leaving", sink)
        for tap in list(sink.taps):
            if tap.pinned:
                self.remove_tap(tap)
            else:
                self.move_tap(tap, self.heir(sink))
        self._let_go(sink, self.sinks)
        self.leaving.discard(sink)

    def leave(self, sink: Sink) -> Iterator[None]:
        """Move everything linked into `sink` to its heir, one stream per step; make the heir the default if needed.

        Must be completed by `remove_sink`. Other sinks may leave between the steps, even the heir. Does nothing if
        `sink` has gone.
        """
        if self.sinks.get(sink.id) is not sink:
            return
        self.leaving.add(sink)
        if self.default is sink:
            self.default = self.heir(sink)
            self._changed("default", self.default)
        for stream in list(self.streams.values()):
            if stream.id in self.streams and linked(stream, sink):
                self._pass_on(stream, self.heir(sink))
                yield

    def _pass_on(self, stream: Stream, heir: Sink) -> None:
        stream.placed = False
        try:
            check_movable(stream)
            self._relink(stream, heir)
        except GraphError:
            # Its client asked not to be moved, or the budget has no room for the link's matrix.
            self.remove_stream(stream)

    def remove_source(self, source: Sink) -> None:
        """Remove `source`. Its recorders are killed, not moved: recording another source needs its own permission."""
        self._changed("leaving", source)
        for tap in list(source.taps):
            self.remove_tap(tap)
        self._let_go(source, self.sources)

    def _let_go(self, mix: Sink, among: dict[int, Sink]) -> None:
        for other in self.mixes():
            set_links(other, [link for link in other.links if link.target is not mix])
        set_links(mix, [])
        del among[mix.id]
        mix.account.close()
        self._changed("remove", mix)

    def add_stream(self, stream: Stream, sink: Sink) -> None:
        """Add a stream, linked to `sink`, inactive."""
        link = link_to(stream, sink)
        stream.charges = stream.charges | {"links": bytes_of([link])}
        self.accounts.admit(stream, len(self.streams))
        stream.links = [link]
        self.streams[stream.id] = stream
        self._changed("new", stream)

    def remove_stream(self, stream: Stream) -> None:
        """Remove a stream at once."""
        # Off the list first, because the callbacks below may try to remove it again. The feed stays until the observers
        # have been called, since they may show its status for the last time.
        if self.streams.pop(stream.id, None) is None:
            return
        for tap in list(stream.taps):
            self.remove_tap(tap)
        stream.account.close()
        self._release(stream, keep=False)
        self._changed("remove", stream)
        stream.feed = NOTHING

    def add_tap(self, tap: Tap, source: Sink | Stream) -> None:
        """Add a tap on a sink's monitor, or on one stream; the latter ends with its stream."""
        self.accounts.admit(tap, alike(tap, self.taps.values()))
        tap.hear(source)
        self.taps[tap.id] = tap
        # `tap.enter`, not `_enter`: observers must not be told of a change in a node that they don't know yet.
        tap.enter(NodeState.RUNNING if self.running else NodeState.IDLE, "linked", self._now_ns)
        self._changed("new", tap)
        if not self.running:
            self._idle(tap)

    def remove_tap(self, tap: Tap) -> None:
        """Remove a tap."""
        if self.taps.pop(tap.id, None) is None:
            return
        tap.account.close()
        tap.leave()
        self._changed("remove", tap)
        tap.consumer = NOTHING

    # -- activity ------------------------------------------------------------------------

    def activate(self, stream: Stream) -> None:
        """`stream` has sound: it is pulled and mixed as soon as a plan that includes it is in force."""
        if stream.active:
            return
        stream.active, stream.starved = True, False
        self._lanes.add(stream)
        self._update_need()
        self._enter(stream, NodeState.RUNNING, "has sound")

    def deactivate(self, stream: Stream, cause: str, keep: bool = True) -> None:
        """`stream` pauses; frames pulled but not yet heard are kept for its return, unless `keep` is false."""
        if stream.starved != (cause in STARVED):
            stream.starved, self._planning.stale = cause in STARVED, True
        if stream.active:
            self._release(stream, keep)
            self._enter(stream, NodeState.IDLE, cause)
            self._update_need()

    def _release(self, stream: Stream, keep: bool) -> None:
        if not stream.active:
            return
        stream.active = False
        self._lanes.remove(stream, self.position, keep)
        self._planning.stale = True

    def ahead(self, stream: Stream) -> Frames:
        """Frames taken from the stream's client and not heard yet."""
        if stream.active:
            return self._lanes.ahead(stream, self.position)
        return 0 if stream.stash is None else len(stream.stash)

    def rendered_at(self, now_ns: HostNs) -> Frames:
        """The position up to which sound, or the silence of an idle graph, has been rendered."""
        return max(self.position, ns_to_frames(now_ns, self.rate))

    def discard(self, stream: Stream) -> None:
        """Discard frames pulled and not yet heard (a flush)."""
        self._lanes.discard(stream, self.position)

    # -- the clock -----------------------------------------------------------------------

    @property
    def quantum_frames(self) -> Frames:
        """Current frames per cycle."""
        return self._planning.quantum

    @property
    def quantum_ns(self) -> HostNs:
        """Current duration of a cycle."""
        return frames_to_ns(self._planning.quantum, self.rate)

    @property
    def now_ns(self) -> HostNs:
        """The time that was given to the cycle now running."""
        return self._now_ns

    def clock_by(self, share: Share, wake: Wake | None = None) -> None:
        """Use this share from now on, and call `wake` when the graph needs to run."""
        self.share, self._lag, self._wake = share, Lag(share), wake

    def next_timeout(self) -> HostNs | None:
        """When the next cycle is due; None while the graph is idle."""
        if not (self.running or self._needed):
            return None
        if not self.running or self._steps is not None or self._planning.unfinished:
            return self._now_ns
        # Rounded up: rounding down would name a time before the position is reached, and the driver would spin.
        return -(-self.position * NS_PER_S // self.rate)

    def handle_timeout(self, now_ns: HostNs) -> None:
        """Run the cycles due at `now_ns`, as far as the share allows; the last may be finished by a later call."""
        self._now_ns = now_ns
        if not self.running:
            if not self._needed:
                return
            self._start(now_ns)
        # A cycle is due as soon as its first frame is. After this call `position` is therefore ahead of the host clock
        # by at most a quantum, and before it behind by as long as the call is late; up to two quanta don't count as
        # late.
        now = ns_to_frames(now_ns, self.rate)
        behind = now - self.position
        self.late_cycles += behind > 2 * self._planning.quantum
        if frames_to_ns(behind, self.rate) > BEHIND_MAX_NS:
            self._leave_out(behind, self._lag.cut)
        while self.running and (self._steps is not None or self.position <= now):
            if not self._step():
                if self._lag.hopeless(now_ns, now - self.position):
                    self._leave_out(now - self.position, cut=True)
                return
        self._lag.caught_up()
        self._planning.go_on(self.share.over, self.position)

    def _leave_out(self, behind: Frames, cut: bool) -> None:
        self.skipped_frames += behind
        self.jump(self.position + behind)
        self._lag.caught_up()
        self._reports.left_out(frames_to_ns(behind, self.rate), cut)

    def _step(self) -> bool:
        """Run or finish a cycle; False if it has to be finished later."""
        if self._steps is None:
            self._steps = self._cycle()
        for _ in self._steps:
            if self.share.over():
                return False
        self._steps = None
        return True

    def catch_up(self, now_ns: HostNs) -> None:
        """Run what is due by `now_ns`, before a change that must take effect after it."""
        if self.running:
            # The share of the last run was used up long ago.
            self.share.renew()
            self.share.enter()
            self.handle_timeout(now_ns)
            self.share.ended(now_ns)

    def jump(self, position: Frames) -> None:
        """Continue at `position`, taking along the contents of the lanes."""
        self._lanes.jump(self.position, position)
        self.position = position
        self._steps = None
        self._planning.stale = True

    def _cycle(self) -> Iterator[None]:
        """One cycle in steps. The graph may change between them: new streams are pulled in this cycle or the next."""
        if self.share.over():
            yield
        planning = self._planning
        if planning.stale or planning.unfinished:
            planning.begin(self.mixes(), self.streams.values(), self.taps.values())
            planning.go_on(self.share.over, self.position)
        frames, pools = planning.quantum, planning.plan.pools
        # Refilling a lane runs client-side protocol code, which may start, stop or move other streams. So the pools
        # that are due are determined again until there are none. Only then is the position advanced, so that nothing
        # that was pulled for this cycle is missed.
        while due := [pool for pool in pools if pool.due < self.position + frames]:
            for pool in due:
                yield from pool.service(self.position, frames, self._fail)
        # A stream that starts after this line begins with the next cycle.
        position, self.position = self.position, self.position + frames
        planning.heard()
        yield from run_cycle(planning.plan, position, frames, self._fail)
        if self._needed:
            self._idle_since_ns = self._now_ns
        elif self._now_ns - self._idle_since_ns > LINGER_NS:
            self._stop()

    def _start(self, now_ns: HostNs) -> None:
        """Leave the idle state. Media time kept running, so the position jumps to now."""
        # On a grid of the shortest quantum, so that a worker with many graphs wakes up once for several of them.
        now = ns_to_frames(now_ns, self.rate)
        # Never back: what was rendered before the pause keeps its positions.
        self.jump(max(self.position, now - now % self._quanta.shortest))
        self.running = True
        self._idle_since_ns = now_ns
        for node in (*self.mixes(), *self.taps.values()):
            self._enter(node, NodeState.RUNNING, "a stream plays")

    def _stop(self) -> None:
        self.running = False
        self._planning.drop()
        for sink in self.mixes():
            sink.level = 0.0
            self._enter(sink, NodeState.IDLE, "nothing plays")
        for tap in list(self.taps.values()):
            self._enter(tap, NodeState.IDLE, "nothing plays")
            self._idle(tap)

    def _idle(self, tap: Tap) -> None:
        try:
            tap.consumer.idle(self.position)
        except Exception as error:
            self._fail(tap, error)

    def _enter(self, node: Node, state: NodeState, cause: str) -> None:
        if node.state is not state:
            node.enter(state, cause, self._now_ns)
            self._changed("change", node)

    # The graph is woken once, on the way from not needed to needed. The way back needs no call: the next cycles notice,
    # and stop after LINGER_NS.
    def _update_need(self) -> None:
        self._planning.stale = True
        needed = len(self._lanes) > 0 or any(t.clocked and t.active for t in self.taps.values())
        if needed and not self._needed:
            self._needed = True
            if self._wake is not None:
                self._wake(self)
        self._needed = needed

    def _changed(self, change: str, node: Node) -> None:
        self._update_need()
        super()._changed(change, node)
