"""The timer driver: one deadline queue clocks all running graphs of a worker.

Idle graphs are not in the queue. The driver reads no clock to schedule: `next_timeout` says when it wants to be called,
and `handle_timeout` is given the time.

One graph's work must not take time away from the others. Of the graphs that are due together, those that have used
the least time lately go first; each may work for its share, and all together for one round. Then control returns to the
event loop before the rest continues. A graph that fails must not silence the others either: the failure is reported,
and only that graph misses a cycle.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from millrace.absent import nothing
from millrace.graph.graph import Graph
from millrace.graph.share import Clock, Share
from millrace.units import NS_PER_MS, HostNs, ns_to_frames

ROUND_NS: HostNs = 6 * NS_PER_MS
GRID_NS: HostNs = NS_PER_MS
LONG_NS: HostNs = 20 * NS_PER_MS
OVERLOAD_NS: HostNs = 100 * NS_PER_MS
"""The processor counts as overloaded if every round for this long ends before all due graphs have run."""


class TimerDriver:
    """Runs the cycles of many graphs when they are due. `clock` measures the work that is charged to shares."""

    def __init__(
        self, clock: Clock = lambda: 0, wall: Clock | None = None, rearm: Callable[[], None] = nothing,
        failed: Callable[[Graph, Exception], None] | None = None,
    ) -> None:  # fmt: skip
        """`rearm` is called when the next deadline moves earlier, `failed` when a graph raises, which is a bug.

        Without `failed` the exception propagates.
        """
        self._clock, self._wall, self._rearm, self._failed = clock, wall, rearm, failed
        self._queue: list[tuple[HostNs, int, Graph]] = []
        self._queued: set[Graph] = set()
        self._serial = 0
        self._running = False
        self._worked_ns: HostNs = 0
        self.computed_ns: HostNs = clock()
        """The clock when the last graph had run, which is when the next one begins: reading it takes a system call."""
        self._strained: tuple[HostNs, HostNs, HostNs] | None = None
        """Since when no round has run all due graphs, and how long the thread and the graphs had worked by then."""
        self.cycles = 0

    # A graph is in the queue once at most (`_queued`), and only while it has a deadline. An idle graph has none: it
    # calls `_enqueue` by itself when it needs to run again.
    def attach(self, graph: Graph) -> None:
        """Clock `graph` from now on, whenever it has something to do."""
        graph.clock_by(Share(self._clock, self._wall), self._enqueue)
        self._enqueue(graph)

    def detach(self, graph: Graph) -> None:
        """Stop clocking `graph`."""
        graph.clock_by(graph.share)
        self._queue = [entry for entry in self._queue if entry[2] is not graph]
        heapq.heapify(self._queue)
        self._queued.discard(graph)

    @property
    def running(self) -> list[str]:
        """The names of the graphs that have something to do."""
        return [graph.name for graph in self._queued]

    def next_timeout(self) -> HostNs | None:
        """When the next cycle of any graph is due."""
        return self._queue[0][0] if self._queue else None

    def handle_timeout(self, now_ns: HostNs) -> None:
        """Run each graph that is due at `now_ns` once, within the limits of a round."""
        due: list[Graph] = []
        while self._queue and self._queue[0][0] <= now_ns:
            _, _, graph = heapq.heappop(self._queue)
            self._queued.discard(graph)
            due.append(graph)
        self.computed_ns, self._running = self._clock(), True
        try:
            if len(due) == 1:
                self._run_alone(due[0], now_ns)
            else:
                self._run_by_turns(due, now_ns)
        finally:
            self._running = False

    def _run_alone(self, graph: Graph, now_ns: HostNs) -> None:
        self.cycles += 1
        graph.share.heavy, self._strained = True, None
        self._run(graph, now_ns)
        self._enqueue(graph)

    def _run_by_turns(self, due: list[Graph], now_ns: HostNs) -> None:
        due.sort(key=lambda graph: graph.share.recent_ns)
        recent_ns = sum(graph.share.recent_ns for graph in due)
        spent = left_over = 0
        for graph in due:
            if spent < ROUND_NS:
                self.cycles += 1
                # At least half the average of the graphs that are due: only such a graph may be blamed for lateness.
                graph.share.heavy = 2 * len(due) * graph.share.recent_ns >= recent_ns
                spent += self._run(graph, now_ns)
            else:
                left_over += 1
            self._enqueue(graph)
        if left_over:
            self._strained = self._strained or (now_ns, self.computed_ns, self._worked_ns)
        else:
            self._strained = None

    def overloaded(self, now_ns: HostNs) -> bool:
        """Whether the graphs together are too much work for this processor."""
        if self._strained is None:
            return False
        # Late rounds alone prove nothing: the machine may not have scheduled the thread. It is overload only if the
        # thread ran for more than half of the time, and spent more than half of that on cycles.
        since_ns, clock_ns, worked_ns = self._strained
        passed, computed = now_ns - since_ns, self._clock() - clock_ns
        return passed > OVERLOAD_NS and 2 * computed > passed and 2 * (self._worked_ns - worked_ns) > computed

    def _run(self, graph: Graph, now_ns: HostNs) -> HostNs:
        graph.share.begin(ROUND_NS, self.computed_ns)
        try:
            graph.handle_timeout(now_ns)
        except Exception as error:
            if self._failed is None:
                raise
            # Continue with a cycle that is not due yet: a graph that fails every time must not keep the loop busy.
            graph.jump(ns_to_frames(now_ns, graph.rate) + graph.quantum_frames)
            self._failed(graph, error)
        finally:
            used = graph.share.ended(now_ns)
            self._worked_ns += used
            self.computed_ns += used
        return used

    def _enqueue(self, graph: Graph) -> None:
        deadline = graph.next_timeout()
        if deadline is None or graph in self._queued:
            return
        # One wake-up then serves a dozen of a hundred guests. A twentieth of a cycle is nothing to long ones.
        if graph.quantum_ns >= LONG_NS:
            deadline = -(-deadline // GRID_NS) * GRID_NS
        # The serial decides between equal deadlines, first come first served; without it the heap would compare graphs.
        self._serial += 1
        self._queued.add(graph)
        heapq.heappush(self._queue, (deadline, self._serial, graph))
        # After a run the deadline is asked for in any case.
        if not self._running and self._queue[0][2] is graph:
            self._rearm()
