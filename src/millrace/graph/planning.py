"""Planning: the plan in force, and the next one being built.

A plan for thousands of streams takes longer than a guest's share of a round. So it is built in steps, over as many
rounds as that takes, while the previous plan plays on. A small plan is ready before the cycle that it was made for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from millrace.graph.lanes import Lanes
from millrace.graph.model import Sink, Stream, Tap
from millrace.graph.plan import Plan, Planner
from millrace.graph.quantum import Quanta
from millrace.graph.state import AppliedState
from millrace.units import Frames


# What holds between two calls:
#
# - At most one plan is being built. Changes meanwhile only set `stale`, and the next one is begun when it is done, so a
#   graph that changes all the time still gets new plans. None is begun before the plan in force runs, or it would ramp
#   from gains that nobody has heard.
# - The plan in force is complete. It may mention nodes that have ended, whose lanes are silent, and lack new ones,
#   whose lanes wait (`plan.begin`): they start at the position from which this plan is heard.
# - The quantum changes with the plan and not before it.
class Planning:
    """The plans of one graph."""

    def __init__(self, quanta: Quanta, lanes: Lanes) -> None:
        self.quantum = quanta.longest
        """Frames per cycle under the plan in force."""
        self.plan = Plan()
        """The plan in force."""
        self.stale = True
        """Whether something has changed since the last plan was begun."""
        self._quanta, self._lanes = quanta, lanes
        self._planner = Planner(quanta.longest)
        self._steps: Iterator[None] | None = None

    @property
    def unfinished(self) -> bool:
        """Whether a plan is being built."""
        return self._steps is not None

    def freeze(self) -> tuple[Frames, AppliedState]:
        """The quantum, and what the last plan applied. A plan being built is built anew."""
        return self.quantum, self._planner.freeze()

    def resume(self, quantum: Frames, applied: AppliedState) -> None:
        """Continue from another graph's plans."""
        self.quantum = quantum
        self._planner.resume(applied)

    def begin(self, mixes: Iterable[Sink], streams: Iterable[Stream], taps: Iterable[Tap]) -> None:
        """Begin a new plan if one is needed, none is being built, and the one in force has been heard."""
        if self.stale and self._steps is None and not self._planner.ahead:
            self.stale = False
            requested = [stream.latency_ask_ns for stream in streams if stream.active or stream.starved]
            requested += [tap.latency_ask_ns for tap in taps if tap.active]
            self._steps = self._make(list(mixes), list(taps), self._quanta.chosen(requested, self.quantum))

    def go_on(self, over: Callable[[], bool], position: Frames) -> None:
        """Continue building until `over`. A finished plan comes into force for what is heard from `position` on."""
        if self._steps is None:
            return
        # Cleared first: a generator that has raised is exhausted, and would pass for a finished plan in the next round.
        steps, self._steps = self._steps, None
        for _ in steps:
            if over():
                self._steps = steps
                return
        for pool, lane, stream in self.plan.begin:
            pool.begin(lane, stream, position)
        self.plan.begin.clear()

    def heard(self) -> None:
        """The plan in force begins to run."""
        self._planner.heard()

    def drop(self) -> None:
        """Discard all plans: nothing plays."""
        self.plan, self._steps, self.stale = Plan(), None, True
        self._planner.forget()

    def _make(self, mixes: list[Sink], taps: list[Tap], quantum: Frames) -> Iterator[None]:
        plan = Plan()
        yield from self._planner.build(plan, mixes, self._lanes.pools, taps)
        self.plan, self.quantum = plan, quantum
