"""Progress of long work: a line on the terminal that goes when the work is done, and nothing anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(what: str, steps: int) -> Iterator[Callable[[str], None]]:
    """Shows on standard error, if that is a terminal, how many of `steps` are done and how long it has taken.

    What it yields is called before each step, with what comes now.
    """
    if not sys.stderr.isatty():
        yield lambda now: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from millrace.cli.console import screen

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen(error=True), transient=True) as shown:
        task = shown.add_task(what, total=steps)
        begun = 0

        def step(now: str) -> None:
            nonlocal begun
            shown.update(task, completed=begun, description=f"{what}: {now}")
            begun += 1

        yield step
