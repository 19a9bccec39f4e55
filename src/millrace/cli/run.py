"""Running commands: the setup of every entry point, and the handling of errors and signals."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

from millrace.cli.console import PIPE_CLOSED, flush_stdout, guard, warn
from millrace.errors import MillraceError
from millrace.text import printable

T = TypeVar("T")

INTERRUPTED = 130
# Exit codes for scripts: each error class has its own (see `errors`), with 2 for wrong usage as in shells. From 128 on
# they follow the shell's convention for signals: 129 SIGHUP, 130 SIGINT, 141 SIGPIPE, 143 SIGTERM. Anything else is 1.
OURSELVES = "millrace"
AGAIN_S = 0.01
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


# Signals: a command ends by an exception from wherever it is, so that `finally` blocks run (a terminal restored, a
# machine that was started ended). There are three special cases: finalizers, where Python swallows the exception
# (`_unheard`); the interpreter's own shutdown, which would print it; and signals that the parent process has ignored,
# as nohup does.
def main_of(app: Callable[[], object], name: str) -> NoReturn:
    """Run a command and exit with its code; errors are reported in one line."""
    guard()
    _at_stop(_stopped)
    sys.unraisablehook = _unheard
    try:
        app()
    except MillraceError as error:
        _fail(name, str(error), error.exit_code)
    except BrokenPipeError:
        _fail(name, "", PIPE_CLOSED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except ImportError as error:
        library = _library_of(error)
        if library == OURSELVES:
            raise
        _fail(name, f"the library {library} is missing or broken ({_first_cause(error)}); install Millrace again", 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        _fail(name, f"{where}{error.strerror or error}", 1)
    finally:
        # From here on the interpreter shuts down: a signal handler's exception would only be printed as a traceback.
        _at_stop(signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 0)
        flush_stdout()
    sys.exit(0)


def _at_stop(what: Callable[[int, object], NoReturn] | signal.Handlers) -> None:
    """Set the handler of the stop signals, except for those that the parent process has ignored (nohup)."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, what)


def _stopped(number: int, frame: object) -> NoReturn:
    """Exit by an exception, so that cleanup runs: restoring the screen, ending a machine that was started."""
    sys.exit(128 + number)


def _unheard(unraisable: sys.UnraisableHookArgs) -> None:
    """Handle a stop signal that arrived in a finalizer, where Python swallows exceptions: exit a moment later."""
    stop = unraisable.exc_value
    if not isinstance(stop, SystemExit):
        sys.__unraisablehook__(unraisable)
        return
    signal.signal(signal.SIGALRM, lambda number, frame: sys.exit(stop.code))
    signal.setitimer(signal.ITIMER_REAL, AGAIN_S)


def _fail(name: str, why: str, code: int) -> NoReturn:
    if code != PIPE_CLOSED:
        warn(f"{name}: {why}")
    sys.exit(code)


def _library_of(error: ImportError) -> str:
    """The library that can't be imported: the one whose code has raised the error, or else the one that it names."""
    frame, library = error.__traceback__, OURSELVES
    while frame is not None:
        package = str(frame.tb_frame.f_globals.get("__name__")).partition(".")[0]
        # The import system runs below whoever imports; the standard library is part of Python.
        if package != "None" and package not in sys.stdlib_module_names:
            library = OURSELVES if package == "__main__" else package
        frame = frame.tb_next
    return library if library != OURSELVES else (error.name or OURSELVES).partition(".")[0]


def _first_cause(error: ImportError) -> str:
    """What the first of the import errors that led to this one says, in one line: libraries add pages of advice."""
    first: BaseException = error
    while isinstance(cause := first.__cause__ or first.__context__, ImportError):
        first = cause
    lines = str(first).splitlines()
    return printable(next((line.strip() for line in lines if line.strip()), "it does not say why"))


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end, with uvloop where available, and log unless logs were set up otherwise.

    Only what runs in a loop logs; `logging` is imported with `asyncio`, and not for other commands.
    """
    try:
        return _run(main)
    finally:
        # A stop signal during the imports, which take most of a command's start, leaves it unbegun.
        main.close()


def _run(main: Coroutine[Any, Any, T]) -> T:
    import logging

    from millrace.cli.logs import set_up

    if not logging.root.handlers:
        set_up()
    if sys.platform == "win32":
        import asyncio

        return asyncio.run(main)
    import uvloop

    # A loop that an exception interrupts as it begins to run can't be closed, so stop signals wait until it runs.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

    async def begun() -> T:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return await main

    try:
        return uvloop.run(begun())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_until_stopped(main: Coroutine[Any, Any, None]) -> None:
    """Run a task that goes on until a stop signal, which is not an error."""
    try:
        run(_until_stopped(main))
    finally:
        main.close()


async def _until_stopped(main: Coroutine[Any, Any, None]) -> None:
    import asyncio

    work = asyncio.ensure_future(main)
    on_stop(work.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await work


def on_stop(stop: Callable[[], object]) -> None:
    """Call `stop` on SIGINT, SIGTERM and SIGHUP, except for those that the parent process has ignored (nohup)."""
    import asyncio

    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop)
