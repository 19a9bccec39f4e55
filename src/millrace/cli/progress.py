"""Progress of long tasks: a line on the terminal that disappears at the end. Without a terminal nothing is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(what: str, steps: int) -> Iterator[Callable[[str], None]]:
    """Show on standard error, if that is a terminal, how many of `steps` are done and the elapsed time.

    Yields a function to call before each step, with a description of the step.
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
