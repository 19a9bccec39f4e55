"""Turns: what becomes of steps in which an error is raised."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from millrace.absent import never
from millrace.graph.steps import Steps
from millrace.io.turns import STRETCH_NS, Stretch
from tests.turning import HandTurned


@pytest.mark.parametrize("at", [0, 1])
def test_steps_that_have_failed_are_made_anew_when_queued_again(at: int) -> None:
    made: list[int] = []
    turns = HandTurned(lambda: 0)

    def steps() -> Iterator[None]:
        made.append(0)
        for step in range(3):
            if len(made) == 1 and step == at:
                raise ZeroDivisionError
            made[-1] += 1
            yield

    # Each step takes a round.
    worker = Steps(steps, lambda: True)
    for told in ([at], [at, 3], [at, 3, 3]):
        turns.wait(worker)
        turns.run()
        assert made == told


def test_steps_that_one_of_them_closes_are_not_gone_on_with() -> None:
    done: list[int] = []

    def steps() -> Iterator[None]:
        for number in range(5):
            done.append(number)
            if number == 2:
                worker.close()
            yield

    worker = Steps(steps, lambda: len(done) == 1)
    assert not worker.work() and worker.begun
    assert worker.work() and not worker.begun and done == [0, 1, 2]
    assert worker.work() and done == [0, 1, 2], "nothing is made any more"


def test_steps_are_all_run_where_no_turn_may_be_over() -> None:
    done: list[int] = []
    worker = Steps(lambda: (done.append(number) for number in range(5)), never)
    assert worker.work() and not worker.begun and done == [0, 1, 2, 3, 4]


def test_stretch_of_work_is_over_after_its_time_and_another_begins() -> None:
    now = 0
    stretch = Stretch(lambda: now)
    seen = []
    for now in range(0, 3 * STRETCH_NS, STRETCH_NS // 4):  # noqa: B007 the clock reads it
        seen.append(stretch.over())
    assert [at for at, over in enumerate(seen) if over] == [4, 8]
