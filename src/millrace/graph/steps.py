"""Work that is done a step at a time, between which its turn may be over."""

from __future__ import annotations

from collections.abc import Callable, Iterator


def _none() -> Iterator[None]:
    return iter(())


class Steps:
    """Runs the steps of an iterator from `make`, and when it has ended, of a new one. A `Worker` of io/turns.py."""

    def __init__(self, make: Callable[[], Iterator[None]], over: Callable[[], bool], first: bool = False) -> None:
        """`over` is asked after each step whether the turn is over."""
        self._make, self._over, self.first = make, over, first
        self._steps: Iterator[None] | None = None

    @property
    def begun(self) -> bool:
        """Whether some are left."""
        return self._steps is not None

    def work(self) -> bool:
        """Run steps until the turn is over; returns whether all are done."""
        self._steps = self._steps or self._make()
        while self._step():
            if self._over():
                return False
        return True

    # An iterator that has raised is exhausted, and would pass for finished work for ever. What a step of its own has
    # dropped is not gone on with.
    def _step(self) -> bool:
        """Run a step; returns whether more may be left."""
        steps, left = self._steps, False
        try:
            left = steps is not None and next(steps, self) is not self
        finally:
            if not left:
                self._steps = None
        return self._steps is not None

    def close(self) -> None:
        """Nothing is done any more. What it is made by often owns this: a cycle (daemon/collector.py)."""
        self._steps, self._make = None, _none
