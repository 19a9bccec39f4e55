"""How commands start, run and end: entry points, signals, progress, options; and the daemon's own command."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from millrace import __version__ as shown_version
from millrace.cli import entry, policy, run, serve
from millrace.cli.console import PIPE_CLOSED, OutputClosed
from millrace.cli.main import app as main_app
from millrace.daemon.config import Config
from millrace.errors import ConfigError, GraphError, OutputLost, RightsError
from millrace.guest.config import GuestConfig
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


# -- the daemon ----------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration in a file."""
    for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("MILLRACE_TOKEN", raising=False)
    path = tmp_path / "c.toml"
    path.write_text(
        '[daemon]\nlisten = "127.0.0.1:1"\n[tls]\ncert = "/f.pem"\nkey = "/g.pem"\n[guest.a]\nrate = 44100\n[guest.b]\n'
    )
    return path


def test_command_line_overrides_configuration_file(written: Path, tmp_path: Path) -> None:
    plain = serve._configured(written, None, None, None, None, None)
    assert (plain.listen, plain.tls_cert, plain.tls_key) == ("127.0.0.1:1", "/f.pem", "/g.pem")
    assert [guest.name for guest in plain.guests] == ["a", "b"]
    secret = tmp_path / "token"
    secret.write_text("0123456789abcdef\n")
    secret.chmod(0o600)
    made = serve._configured(written, "[::1]:2", ["c", "d", "c"], Path("/c.pem"), Path("/k.pem"), secret)
    assert (made.listen, made.tls_cert, made.tls_key, made.token) == ("[::1]:2", "/c.pem", "/k.pem", "0123456789abcdef")
    assert made.guests == (GuestConfig("c"), GuestConfig("d")), "in addition to those of the file; each once"
    assert serve._configured(written, None, None, Path("/c.pem"), None, None).tls_key == "", (
        "reported where it is missing"
    )
    for listen, guests in (("x", None), (None, ["a/b"])):
        with pytest.raises(ConfigError):
            serve._configured(written, listen, guests, None, None, None)


def test_daemon_runs_session_manager_unless_disabled(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []

    async def work(config: Config, policy: bool) -> None:
        ran.append((config.listen, [len(guest.doors) for guest in config.guests], policy))

    monkeypatch.setattr(serve, "_serve", work)
    monkeypatch.setattr("millrace.cli.logs.set_up", lambda *how: ran.append(how))
    monkeypatch.setattr("gc.disable", lambda: ran.append("no collecting while all is loaded"))
    command = typer.main.get_command(main_app)
    command.main(["serve", "--config", str(written)], standalone_mode=False)
    command.main(["serve", "--config", str(written), "--no-policy", "--listen", ":5", "--qemu-qmp", "/q", "--qemu-dbus",
                  "unix:path=/b", "--log-format", "json", "-v"], standalone_mode=False)  # fmt: skip
    quiet = "no collecting while all is loaded"
    assert ran == [quiet, ("text", False), ("127.0.0.1:1", [0, 0], True), quiet, ("json", True), (":5", [2, 0], False)]


def test_machines_from_command_line_belong_to_first_guest(written: Path) -> None:
    config = serve._configured(written, None, None, None, None, None)
    made = serve._with_machines(config, [Path("q"), Path("/r")], "unix:path=/b")
    assert [door.text for door in made.guests[0].doors] == [
        f"qmp:{Path('q').absolute()}",
        "qmp:/r",
        "dbus:unix:path=/b",
    ]
    assert made.guests[0].rate == 44_100 and made.guests[1:] == config.guests[1:]
    again = serve._with_machines(made, [], None)
    assert again == made, "the guests of the file stay"


@pytest.mark.parametrize(("now", "asked"), [
    ((1024, 4096), (4096, 4096)), ((1024, 1 << 20), (65_536, 1 << 20)), ((65_536, 1 << 20), None),
    ((1 << 19, 1 << 20), None), ((1024, resource.RLIM_INFINITY), (65_536, resource.RLIM_INFINITY)), ((64, 64), None),
])  # fmt: skip
def test_descriptor_limit_is_raised_up_to_what_is_useful(
    now: tuple[int, int], asked: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to: list[Any] = []
    monkeypatch.setattr(resource, "getrlimit", lambda what: now)
    monkeypatch.setattr(resource, "setrlimit", lambda what, limits: set_to.append(limits))
    serve._more_descriptors()
    assert set_to == ([] if asked is None else [asked])


class Daemon:
    """A daemon that records what is done to it."""

    def __init__(self, config: Config, did: list[Any], fails: bool = False) -> None:
        guest = SimpleNamespace(
            name="a", pulse=SimpleNamespace(path="/p", cookie_path="/k"), config=GuestConfig("a", pulse_tcp=("h:1",))
        )
        self.worker = SimpleNamespace(guests={"a": guest}, quiet=lambda: True)
        self.serving = SimpleNamespace(outward_url="wss://127.0.0.1:9", page_url="https://x/")
        self._did, self._fails = did, fails
        did.append(config)

    def page_link(self) -> str:
        return "https://x/#in=1"

    async def start(self) -> None:
        self._did.append("start")
        if self._fails:
            raise ConfigError("in use")

    async def stop(self) -> None:
        self._did.append("stop")


@pytest.fixture
def did(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `serve` does, in order; it is stopped when it says that it is ready."""
    order: list[Any] = []

    class Program:
        def __init__(self, path: Path, config: Any) -> None:
            order.append(("policy", path))

        async def run(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                order.append("policy ends")

    def notify(text: str) -> None:
        order.append(text)
        if text == "READY=1":
            os.kill(os.getpid(), signal.SIGTERM)

    async def keep_calm(quiet: Any) -> None:
        await asyncio.Event().wait()

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    monkeypatch.setattr("millrace.daemon.allocator.pin_malloc", lambda: order.append("malloc"))
    monkeypatch.setattr("millrace.daemon.threads.set_switch_interval", lambda: order.append("interval"))
    monkeypatch.setattr("millrace.daemon.collector.calm", lambda: order.append("calm"))
    monkeypatch.setattr("millrace.daemon.collector.keep_calm", keep_calm)
    monkeypatch.setattr("millrace.io.notify.notify", notify)
    monkeypatch.setattr("millrace.policy.config.load", lambda *paths: None)
    monkeypatch.setattr("millrace.policy.program.Program", Program)
    monkeypatch.setattr(serve, "_more_descriptors", lambda: None)
    return order


def served(did: list[Any], config: Config, policy: bool, monkeypatch: pytest.MonkeyPatch, fails: bool = False) -> None:
    monkeypatch.setattr("millrace.daemon.app.Daemon", lambda config: Daemon(config, did, fails))
    work: Coroutine[Any, Any, None] = serve._serve(config, policy)
    asyncio.run(work)


def test_daemon_reports_ready_and_shuts_down_in_order(
    did: list[Any], written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(serve._configured(written, None, None, None, None, None), runtime=Path("/r"))
    served(did, config, True, monkeypatch)
    assert did == [
        config, ("policy", Path("/r/native.sock")), "start", "malloc", "interval", "calm", "READY=1", "STOPPING=1",
        "policy ends", "stop",
    ]  # fmt: skip
    assert capsys.readouterr().out.splitlines() == [
        "guest a",
        "  applications:  export PULSE_SERVER=unix:/p",
        "  over TCP:      export PULSE_SERVER=tcp:h:1 PULSE_COOKIE=/k",
        "  hear and see:  millrace listen a; millrace view a",
        "by network: millrace view wss://127.0.0.1:9/a --token-file FILE; or listen",
        "machines:   millrace attach qemu|spice|vnc|x11 …   shows and plays a virtual machine or desktop",
        "browser:    https://x/ with a token, or by the link that `millrace page` prints",
        "ready; `millrace ls` shows the state, Ctrl-C stops the daemon",
        "stopping …",
    ]


def test_many_guests_are_told_in_a_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    daemon: Any = Daemon(Config(runtime=Path("r"), state=Path("s")), [])
    daemon.worker.guests = {f"g{n}": daemon.worker.guests["a"] for n in range(13)}
    serve._tell(daemon)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 20 and "and 10 more guests, likewise; `millrace ls` shows them" in lines


def test_browser_link_is_printed_on_terminals_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon: Any = Daemon(Config(runtime=Path("r"), state=Path("s")), [])
    daemon.serving.outward_url = "wss://[2001:db8::7]:9"
    for terminal in (True, False):
        monkeypatch.setattr(os, "isatty", lambda fd, terminal=terminal: terminal)
        serve._tell(daemon)
        out = capsys.readouterr().out
        assert ("#in=1" in out) is terminal and "wss://[2001:db8::7]:9/a" in out


def test_daemon_runs_without_session_manager(did: list[Any], written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = serve._configured(written, None, None, None, None, None)
    served(did, config, False, monkeypatch)
    assert did == [config, "start", "malloc", "interval", "calm", "READY=1", "STOPPING=1", "stop"]


def test_daemon_that_fails_to_start_cleans_up(did: list[Any], written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = serve._configured(written, None, None, None, None, None)
    with pytest.raises(ConfigError, match="in use"):
        served(did, config, False, monkeypatch, fails=True)
    assert did == [config, "start", "stop"]
