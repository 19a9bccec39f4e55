"""Runs every command of the command line in an unusual environment.

The commands come from typer's own tree, so that a new one is included automatically. One process loads Millrace, enters
the environment, and runs each command in a fork of itself: a start costs half a second, a fork a hundredth.

`python -m tests.everycommand SPEC`: SPEC is a JSON object, and results go to descriptor `results`, one object per line.
It runs the Millrace in the folder `tree`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import pkgutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn, TextIO

DOCUMENTED = {0, 1, 2, 3, 4, 5, 6, 7, 129, 130, 141, 143}
# Values for required arguments; any other gets a word that names nothing.
VALUES = {"settings": "volume=50%", "to": "sink/none", "target": "stream/999", "source": "stream/999"}
# Options for commands that would otherwise take long or have side effects.
OPTIONS: dict[str, list[str]] = {
    "demo": ["--seconds", "0.4", "--to", "null:", "--no-stay"], "matrix": ["--cards", "none"],
    "lab run": ["--hours", "0.001"], "lab sound": ["--seconds", "10"], "listen": ["--to", "null:", "--no-reconnect"],
    "view": ["--to", "null:", "--no-reconnect"],
    "attach qemu": ["--qmp", "/nowhere"], "attach vnc": [], "latency": ["stream/999"], "top": ["--every", "0.2"],
    "report": ["--to", "/nowhere/report.tar.gz"], "lab impair": ["--listen", "127.0.0.1:0"],
}  # fmt: skip
DAEMON = ["the daemon"]
SPOILED = b"\x9bx".decode(errors="surrogateescape")
"""Bytes that are no UTF-8, as an argument of a program in Python."""
LASTING = {
    "listen --to null: --no-reconnect",
    "view --to null: --no-reconnect",
    "prompts",
    "top --every 0.2",
    "lab impair --listen 127.0.0.1:0",
}
LASTING_S, LIMIT_S = 0.7, 40.0
"""After how long a command that runs until it is stopped gets SIGINT, and any command counts as hanging."""


def command_of(spec: dict[str, Any]) -> list[str]:
    """The command that runs this, with the Millrace that this process has imported, and no other that is installed."""
    import millrace

    here = str(Path(millrace.__path__[0]).parent)
    return [sys.executable, "-m", "tests.everycommand", json.dumps({"tree": here, **spec})]


def tree() -> list[list[str]]:
    """Every command, with arguments."""
    import typer

    from millrace.cli.main import app

    return list(_leaves(typer.main.get_command(app), []))


def _leaves(command: Any, path: list[str]) -> Any:
    for leaf, way in _ends(command, path):
        given = [VALUES.get(p.name, "none") for p in leaf.params if p.param_type_name == "argument" and p.required]
        yield [*way, *given, *OPTIONS.get(" ".join(way), [])]


def _ends(command: Any, path: list[str]) -> Any:
    """The commands that are no groups, each with its words."""
    inner = getattr(command, "commands", None)
    if inner:
        for name, one in inner.items():
            yield from _ends(one, [*path, name])
    else:
        yield command, path


def spoiled() -> list[list[str]]:
    """Every command once for each of its parameters, which gets bytes that are no UTF-8."""
    import typer

    from millrace.cli.main import app

    return [one for leaf, path in _ends(typer.main.get_command(app), []) for one in _spoiled(leaf, path)]


def _spoiled(leaf: Any, path: list[str]) -> Any:
    arguments = [p for p in leaf.params if p.param_type_name == "argument"]
    rest = OPTIONS.get(" ".join(path), [])
    for at, spoiled_one in enumerate(arguments):
        given = [VALUES.get(p.name, "none") for p in arguments[: at + 1] if p.required or p is spoiled_one]
        after = [VALUES.get(p.name, "none") for p in arguments[at + 1 :] if p.required]
        yield [*path, *given[:-1], SPOILED, *after, *rest]
    needed = [VALUES.get(p.name, "none") for p in arguments if p.required]
    for option in leaf.params:
        if option not in arguments and not getattr(option, "is_flag", False):
            yield [*path, *needed, *rest, option.opts[0], SPOILED]


def load() -> None:
    """Import everything while it is readable: the user that we switch to may have no access to the interpreter."""
    import millrace

    for found in pkgutil.walk_packages(millrace.__path__, "millrace."):
        importlib.import_module(found.name)
    for name in ("rich.live", "rich.progress", "rich.table", "tarfile", "importlib.metadata", "encodings.ascii",
                 "encodings.latin_1", "encodings.idna", "concurrent.futures.process"):  # fmt: skip
        importlib.import_module(name)
    # Load what typer imports only when a command runs.
    from millrace.cli.main import app

    with contextlib.redirect_stdout(io.StringIO()):
        app(["lab", "list"], standalone_mode=False)


def fresh_streams(encoding: str) -> None:
    """Create the standard streams as the interpreter would from the open descriptors."""
    for name, number, mode in (("stdin", 0, "rb"), ("stdout", 1, "wb"), ("stderr", 2, "wb")):
        try:
            os.fstat(number)
            raw = open(number, mode, closefd=False)  # noqa: SIM115
            errors = "backslashreplace" if number == 2 else "strict"
            stream: Any = io.TextIOWrapper(raw, encoding=encoding, errors=errors, line_buffering=number == 2)
        except OSError:
            stream = None
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def become(args: list[str], streams: list[str], captured: list[int], encoding: str) -> NoReturn:
    """Run a command as `millrace` would, and exit as the interpreter would."""
    for number, kind in enumerate(streams):
        if kind == "closed":
            os.close(number)
            continue
        made = captured[number] if kind == "captured" else os.open(kind, os.O_RDWR)
        os.dup2(made, number)
    os.closerange(3, 256)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # SIGHUP is ignored under nohup, and children inherit that.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    fresh_streams(encoding)
    sys.argv = ["millrace", *args]
    from millrace.cli.main import main

    code = 1
    try:
        main()
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 99
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        code = 120
    os._exit(code & 0xFF)


class Run:
    """A running command."""

    def __init__(self, args: list[str], streams: list[str], encoding: str) -> None:
        self.begun = time.monotonic()
        self._encoding = encoding
        self._code: int | None = None
        self.lasts = " ".join(args) in LASTING or SPOILED in args
        self._captured = [os.memfd_create(f"std{number}") for number in range(3)]
        self.pid = os.fork()
        if not self.pid:
            become(args, streams, self._captured, encoding)

    def ended(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self) -> int:
        """Wait for the exit code; a command that hangs is killed."""
        begun, stopped = time.monotonic(), not self.lasts
        while (code := self.ended()) is None:
            ran = time.monotonic() - begun
            if ran > LASTING_S and not stopped:
                stopped = True
                os.kill(self.pid, signal.SIGINT)
            if ran > LIMIT_S:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.005)
        return code

    def said(self) -> tuple[str, str]:
        """What it printed to stdout and to stderr."""
        texts = []
        for number in self._captured:
            texts.append(os.pread(number, 1 << 22, 0).decode(self._encoding, "backslashreplace"))
            os.close(number)
        return texts[1], texts[2]


def main() -> None:
    """See the module's docstring."""
    spec = json.loads(sys.argv[1])
    sys.path.insert(0, spec["tree"])
    load()
    with contextlib.suppress(FileNotFoundError):
        os.chdir(spec.get("folder", "/"))
    if "uid" in spec:
        os.setgroups([])
        os.setresgid(spec["uid"], spec["uid"], spec["uid"])
        os.setresuid(spec["uid"], spec["uid"], spec["uid"])
    streams, encoding = spec["streams"], spec.get("encoding", "utf-8")
    with os.fdopen(spec["results"], "w") as results:
        daemon = _daemon(spec, streams, encoding) if spec.get("daemon", True) else None
        for args in spec.get("commands") or (spoiled() if spec.get("spoiled") else tree()):
            run = Run(args, streams, encoding)
            _tell(results, args, run.wait(), run)
        if daemon is not None:
            code = daemon.ended()
            if code is None:
                os.kill(daemon.pid, signal.SIGHUP)
                code = daemon.wait()
            _tell(results, DAEMON, code, daemon)


def _daemon(spec: dict[str, Any], streams: list[str], encoding: str) -> Run:
    """Start a daemon, and wait until it listens or has exited."""
    daemon = Run(["serve", "--listen", "127.0.0.1:0"], streams, encoding)
    last = Path(os.environ.get("XDG_RUNTIME_DIR", f"/tmp/millrace-{os.getuid()}")) / "millrace" / "attach.sock"
    while daemon.ended() is None and not last.exists() and time.monotonic() - daemon.begun < LIMIT_S:
        time.sleep(0.01)
    return daemon


def _tell(results: TextIO, args: list[str], code: int, run: Run) -> None:
    out, err = run.said()
    results.write(json.dumps({"args": args, "code": code, "out": out, "err": err}) + "\n")
    results.flush()


if __name__ == "__main__":
    main()
