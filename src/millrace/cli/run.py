"""Running commands: what every entry point does before, and what becomes of errors and signals."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

from millrace.cli.console import PIPE_CLOSED, flush_stdout, guard, warn
from millrace.errors import MillraceError

T = TypeVar("T")

INTERRUPTED = 130
# Exit codes for scripts: what `errors` has for each kind, where 2 is the shell's own for wrong usage; 128 and more are
# what the shell makes of signals: 129 SIGHUP, 130 SIGINT, 141 SIGPIPE, 143 SIGTERM. Anything else is 1.
AGAIN_S = 0.01
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main_of(app: Callable[[], object], name: str) -> NoReturn:
    """Run a command to its exit code: errors become one line, whatever the surroundings are."""
    guard()
    from millrace.cli.logs import set_up

    set_up()
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
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        _fail(name, f"{where}{error.strerror or error}", 1)
    finally:
        # What follows is the interpreter's own end: an exception would be printed there, and end nothing in order.
        _at_stop(signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 0)
        flush_stdout()
    sys.exit(0)


def _at_stop(what: Callable[[int, object], NoReturn] | signal.Handlers) -> None:
    """What stop signals do, but for those that whoever started this had ignored (nohup)."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, what)


def _stopped(number: int, frame: object) -> NoReturn:
    """End in order, as what was begun has to be ended: a screen, a machine that was started."""
    sys.exit(128 + number)


def _unheard(unraisable: sys.UnraisableHookArgs) -> None:
    """A signal that came while an object was freed, where exceptions end: it is heard soon after."""
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


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end, by uvloop where there is one."""
    if sys.platform == "win32":
        import asyncio

        return asyncio.run(main)
    import uvloop

    return uvloop.run(main)


def run_until_stopped(main: Coroutine[Any, Any, None]) -> None:
    """Run what only watches: to stop it is no error."""
    run(_until_stopped(main))


async def _until_stopped(main: Coroutine[Any, Any, None]) -> None:
    import asyncio

    work = asyncio.ensure_future(main)
    on_stop(work.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await work


def on_stop(stop: Callable[[], object]) -> None:
    """Call `stop` at SIGINT, SIGTERM and SIGHUP, but for those that whoever started this had ignored (nohup)."""
    import asyncio

    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop)
