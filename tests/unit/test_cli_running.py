"""How commands start, run and end: entry points, signals, progress, options."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from millrace import __version__ as shown_version
from millrace.cli import entry, policy, run
from millrace.cli.console import PIPE_CLOSED, OutputClosed
from millrace.errors import ConfigError, GraphError, OutputLost, RightsError
from millrace.version import __version__

SIGNALS = (*run.STOP_SIGNALS, signal.SIGALRM)


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Signals, streams and hooks belong to whoever runs the tests."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_there_is_one_version() -> None:
    assert shown_version == __version__ and [int(part) for part in __version__.split(".")] >= [0, 2, 0]


# -- entry points --------------------------------------------------------------------------------


@pytest.mark.parametrize(("begin", "goes_on"), [
    (entry.main, "millrace.cli.main.main"), (entry.policy, "millrace.cli.policy.main"),
])  # fmt: skip
def test_command_can_be_stopped_before_it_is_loaded(
    begin: Callable[[], None], goes_on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("millrace.cli.console.open_descriptors", lambda: seen.append(signal.getsignal(signal.SIGINT)))
    monkeypatch.setattr(goes_on, lambda: seen.append("main"))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    begin()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    begin()
    assert seen == [signal.SIG_DFL, "main", signal.SIG_IGN, "main"], "a signal that nohup ignores stays ignored"


def ended(app: Callable[[], object]) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as done:
        run.main_of(app, "name")
    assert isinstance(done.value.code, int)
    return done.value.code


def raising(error: BaseException) -> Callable[[], object]:
    def app() -> None:
        raise error

    return app


@pytest.mark.parametrize(("error", "code", "told"), [
    (ConfigError("use another"), 2, "name: use another\n"), (GraphError("no\x1b"), 3, "name: no\\x1b\n"),
    (RightsError("no"), 4, "name: no\n"), (OutputLost("full"), 7, "name: full\n"),
    (OutputClosed("x"), PIPE_CLOSED, ""), (BrokenPipeError(), PIPE_CLOSED, ""),
    (KeyboardInterrupt(), 130, ""), (SystemExit(5), 5, ""),
    (OSError(13, "Permission denied", "/x"), 1, "name: /x: Permission denied\n"),
    (OSError("odd"), 1, "name: odd\n"),
])  # fmt: skip
def test_error_is_one_line_with_exit_code(
    error: BaseException, code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(raising(error)) == code
    assert capsys.readouterr() == ("", told)


BROKEN = {
    "unnamed": ("raise ImportError('its C part does not load')", "its C part does not load"),
    "advising": (
        "try:\n  from nothere.deep import x\nexcept ImportError as why:\n  raise ImportError('\\n\\nREAD\\n') from why",
        "No module named 'nothere'",
    ),
    "silent": ("raise ImportError", "it does not say why"),
    "damaged": ("import importlib\nimportlib.import_module('damaged.part')", "file too short"),
    "half": ("from half import other", "cannot import name 'other' from"),
}


@pytest.mark.parametrize("library", BROKEN)
def test_broken_library_is_named_in_one_sentence(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, why = BROKEN[library]
    (tmp_path / library).mkdir()
    (tmp_path / library / "__init__.py").write_text(code)
    (tmp_path / library / f"part{EXTENSION_SUFFIXES[0]}").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert ended(lambda: importlib.import_module(library)) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"name: the library {library} is missing or broken (") and why in said
    assert said.endswith("); install Millrace again")


def test_import_error_of_our_own_stays_a_traceback() -> None:
    for code in ("from millrace.units import nothing", "import millrace.nothing", "raise ImportError('odd')"):
        with pytest.raises(ImportError):
            run.main_of(partial(exec, code, {"__name__": "millrace.bug"}), "name")


def test_package_runs_as_a_module_and_only_then() -> None:
    import millrace.__main__

    assert millrace.__main__.main is entry.main
    done = subprocess.run([sys.executable, "-m", "millrace", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"millrace {__version__}\n", "")


def test_successful_command_exits_with_0_and_default_signal_handlers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    during: list[Any] = []
    flushed: list[str] = []
    monkeypatch.setattr(run, "flush_stdout", lambda: flushed.append("flushed"))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert ended(lambda: during.extend(signal.getsignal(number) for number in run.STOP_SIGNALS)) == 0
    assert during == [run._stopped, run._stopped, signal.SIG_IGN] and flushed == ["flushed"]
    after = [signal.getsignal(number) for number in run.STOP_SIGNALS]
    assert after == [signal.SIG_DFL, signal.SIG_DFL, signal.SIG_IGN]


@pytest.mark.parametrize("number", run.STOP_SIGNALS)
def test_signal_ends_command_cleanly_with_its_code(number: int) -> None:
    order: list[str] = []
    signal.signal(number, signal.SIG_DFL)

    def app() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            order.append("the screen is put back")

    assert ended(app) == 128 + number and order


def test_signal_lost_in_destructor_is_delivered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(sys, "__unraisablehook__", told.append)
    ours: Any = SimpleNamespace(exc_value=ValueError())
    run._unheard(ours)
    assert told == [ours] and signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    stop: Any = SimpleNamespace(exc_value=SystemExit(143))
    with pytest.raises(SystemExit) as again:
        run._unheard(stop)
        time.sleep(10)
    assert again.value.code == 143 and told == [ours]


# -- what runs until it is stopped ---------------------------------------------------------------


@pytest.mark.parametrize("number", run.STOP_SIGNALS)
def test_watching_command_is_stopped_without_error(number: int) -> None:
    cleared: list[str] = []
    signal.signal(number, signal.SIG_DFL)

    async def watch() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.sleep(10)
            cleared.append("slept")
        finally:
            cleared.append("cleared")

    run.run_until_stopped(watch())
    assert cleared == ["cleared"]


def test_finished_command_ends_with_its_own_error() -> None:
    async def work(error: Exception | None) -> None:
        if error is not None:
            raise error

    run.run_until_stopped(work(None))
    with pytest.raises(GraphError, match="refused"):
        run.run_until_stopped(work(GraphError("refused")))


def test_signals_ignored_by_parent_stay_ignored() -> None:
    stopped: list[str] = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    async def main() -> None:
        run.on_stop(lambda: stopped.append("stop"))
        os.kill(os.getpid(), signal.SIGHUP)
        for _ in range(20):
            await asyncio.sleep(0)
        assert stopped == []
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(10):
            while not stopped:
                await asyncio.sleep(0.001)

    run.run(main())
    assert stopped == ["stop"]


AS_THE_LOOP_BEGINS = """
import asyncio, os, signal, threading
from millrace.cli.run import main_of, run
due = []

def ident(thread):
    if due:
        os.kill(os.getpid(), due.pop())
        for _ in range(100): pass
    return threading.get_ident()

def app():
    due.append(signal.SIGINT)
    run(asyncio.sleep(20))

threading._MainThread.ident = property(ident)  # uvloop asks for it as it begins to run
main_of(app, "x")
"""


def test_signal_as_the_loop_begins_ends_the_command_cleanly() -> None:
    done = subprocess.run([sys.executable, "-c", AS_THE_LOOP_BEGINS], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.filterwarnings("error")
def test_signal_before_the_loop_is_made_leaves_nothing_to_be_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise SystemExit(143)

    async def never() -> None:
        raise AssertionError("it has begun")

    unheard: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unheard.append)
    monkeypatch.setattr(signal, "pthread_sigmask", stopped)
    with pytest.raises(SystemExit):
        run.run_until_stopped(never())
    gc.collect()
    assert not unheard


def test_uvloop_is_used_and_result_is_returned() -> None:
    async def which() -> str:
        return type(asyncio.get_running_loop()).__module__

    assert run.run(which()) == "uvloop"


# -- the session manager -------------------------------------------------------------------------


def test_policy_command_passes_socket_and_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Program:
        def __init__(self, *args: Any) -> None:
            made.append(args)

        def run(self) -> str:
            return "running"

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "c"))
    monkeypatch.setattr("millrace.policy.config.load", lambda path, usual: ("config", path, usual))
    monkeypatch.setattr("millrace.policy.program.Program", Program)
    monkeypatch.setattr(run, "run_until_stopped", made.append)
    monkeypatch.setattr(policy, "set_up", lambda form, verbose: made.append((form, verbose)))
    command = typer.main.get_command(policy.app)
    command.main([], standalone_mode=False)
    command.main(["--config", "/o.toml", "--socket", "/s", "--replace", "-v"], standalone_mode=False)
    usual = tmp_path / "c" / "millrace" / "policy.toml"
    assert made == [
        ("text", False), (tmp_path / "millrace" / "native.sock", ("config", None, usual), False), "running",
        ("text", True), (Path("/s"), ("config", Path("/o.toml"), usual), True), "running",
    ]  # fmt: skip
    monkeypatch.setattr(policy, "main_of", lambda app, name: made.append((app, name)))
    policy.main()
    assert made[-1] == (policy.app, "millrace-policy")
