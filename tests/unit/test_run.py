"""The runs of `make test`."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pytest

from tests import run
from tests.run import AGAIN_MAX, REAL

ROOT = Path(__file__).parents[2]
MARKED = re.compile(r"pytest\.mark\.(?:real|beside|alone)\b")


def test_marks_that_choose_a_run_are_only_where_runs_are_chosen_by_them() -> None:
    """Elsewhere such a mark would have no effect: the test would run beside those that it disturbs."""
    marked = {path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py") if MARKED.search(path.read_text())}
    assert marked
    assert not {path for path in marked if not path.is_relative_to(REAL)}


def test_tests_that_come_late_are_there_and_judge_no_sound() -> None:
    for path in run.LATE:
        assert "mark.beside" in (ROOT / path).read_text()


class Runs:
    """Runs nothing: each command ends with a status, and names of tests that failed, or says that it was run again."""

    def __init__(self, codes: dict[str, int], names: Sequence[str] = (), last: int = 0) -> None:
        self.codes, self.names, self.last = codes, names, last
        self.again: list[list[str]] = []
        self.ended: list[str] = []
        self.before_alone: list[str] = []
        self._sounds = threading.Event()

    def __call__(self, command: list[str], log: IO[bytes], failed: Path | None = None, show: bool = False) -> int:
        kinds = {
            "compute": run.COMPUTE, "own": run.IN_PROCESS, "beside": run.BESIDE_SOUND, "sound": run.SOUND,
            "late": run.AFTER_SOUND, "alone": run.ALONE,
            **{f"lint {n}": [*run.IDLY, *one] for n, one in enumerate(run.LINT)},
        }  # fmt: skip
        kind = next((kind for kind, known in kinds.items() if known == command), "")
        if not kind:
            self.again.append(command[-len(self.names) :])
            return self.last
        log.write(f"output of {kind}\n".encode())
        if kind == "beside":
            # It ends after the sound, which is what `alone` has to wait for too.
            assert self._sounds.wait(10)
        elif kind == "sound":
            self._sounds.set()
        elif kind == "alone":
            self.before_alone = list(self.ended)
        code = self.codes.get(kind, 0)
        if code == 1 and failed is not None:
            failed.write_text("".join(f"{name}\n" for name in self.names))
        self.ended.append(kind)
        return code


KINDS = ("lint 0", "lint 1", "lint 2", "compute", "own", "beside", "late", "sound", "alone")
PARALLEL = ("compute", "own", "beside", "late", "sound")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", [2, -9])
def test_a_run_that_breaks_off_fails_all_and_is_not_repeated(
    kind: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = Runs({kind: code}, ["tests/a.py::b"])
    assert run.main(runs) == abs(code) and not runs.again and len(runs.ended) == len(KINDS)
    # What was not shown as it ran is printed at the end, and of what failed, the failures once more.
    assert capsys.readouterr().out.count(f"output of {kind}\n") == (1 if kind in ("sound", "alone") else 2)


@pytest.mark.parametrize("kind", PARALLEL)
@pytest.mark.parametrize("last", [0, 1, -11])
def test_what_failed_in_parallel_is_run_again_by_itself_and_that_counts(kind: str, last: int) -> None:
    runs = Runs({kind: 1}, ["tests/a.py::b", "tests/c.py::d"], last)
    assert run.main(runs) == abs(last) and runs.again == [["tests/a.py::b", "tests/c.py::d"]]


@pytest.mark.parametrize("kind", ["lint 1", "alone"])
def test_what_ran_by_itself_is_not_run_again(kind: str) -> None:
    runs = Runs({kind: 1}, ["tests/a.py::b"])
    assert run.main(runs) == 1 and not runs.again


@pytest.mark.parametrize("number", [0, AGAIN_MAX + 1])
@pytest.mark.parametrize("kind", PARALLEL)
def test_failures_without_names_or_too_many_of_them_count_as_they_are(kind: str, number: int) -> None:
    runs = Runs({kind: 1}, [f"tests/a.py::test_{n}" for n in range(number)])
    assert run.main(runs) == 1 and not runs.again


def test_all_is_well_if_nothing_failed_and_what_is_alone_waits_for_what_sounds_or_starts_programs() -> None:
    runs = Runs({})
    assert run.main(runs) == 0
    assert {"sound", "beside", "late"} <= set(runs.before_alone) and sorted(runs.ended) == sorted(KINDS)


def test_a_command_s_output_is_logged_and_shown_and_its_failures_are_named(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    failed = tmp_path / "failed"
    command = ["sh", "-c", f'echo said; echo complained >&2; echo "$MILLRACE_FAILED"; exit {3}']
    for show in (False, True):
        with (tmp_path / "log").open("w+b") as log:
            assert run.run(command, log, failed, show) == 3
            log.seek(0)
            assert log.read() == f"said\ncomplained\n{failed}\n".encode()
        assert capfdbinary.readouterr().out == (f"said\ncomplained\n{failed}\n".encode() if show else b"")
