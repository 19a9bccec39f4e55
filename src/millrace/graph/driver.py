"""The timer driver: one deadline queue clocks every running graph of a worker.

Graphs that are idle are not in the queue. It reads no clock: `next_timeout` says when it wants
to be called, `handle_timeout` is told what time it is (DESIGN: time is an argument).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from millrace.graph.graph import Graph
from millrace.units import HostNs


class TimerDriver:
    """Runs the cycles of many graphs when they are due."""

    def __init__(self) -> None:
        self.rearm: Callable[[], None] = lambda: None
        self._queue: list[tuple[HostNs, int, Graph]] = []
        self._queued: set[Graph] = set()
        self._serial = 0
        self.cycles = 0

    def attach(self, graph: Graph) -> None:
        """Clock `graph` from now on, whenever it needs it."""
        graph.wake = lambda: self._enqueue(graph)
        self._enqueue(graph)

    def detach(self, graph: Graph) -> None:
        """Stop clocking `graph`."""
        graph.wake = lambda: None
        self._queue = [entry for entry in self._queue if entry[2] is not graph]
        heapq.heapify(self._queue)
        self._queued.discard(graph)

    def next_timeout(self) -> HostNs | None:
        """When the next cycle of any graph is due."""
        return self._queue[0][0] if self._queue else None

    def handle_timeout(self, now_ns: HostNs) -> None:
        """Run everything that is due at `now_ns`, once each."""
        due: list[Graph] = []
        while self._queue and self._queue[0][0] <= now_ns:
            _, _, graph = heapq.heappop(self._queue)
            self._queued.discard(graph)
            due.append(graph)
        for graph in due:
            self.cycles += 1
            graph.handle_timeout(now_ns)
            self._enqueue(graph)

    def _enqueue(self, graph: Graph) -> None:
        deadline = graph.next_timeout()
        if deadline is None or graph in self._queued:
            return
        self._serial += 1
        self._queued.add(graph)
        heapq.heappush(self._queue, (deadline, self._serial, graph))
        if self._queue[0][2] is graph:
            self.rearm()
