"""The command line's output, to any kind of stream."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from millrace.cli import console
from millrace.cli.logs import JsonLines, TextLines
from millrace.errors import OutputLost

FOREIGN = "\x1b[2J\x9b31m\u202e\n\ud800 Gerät 音"


class Full(io.BytesIO):
    """Takes nothing."""

    def __init__(self, why: int = errno.ENOSPC) -> None:
        super().__init__()
        self._why = why

    def write(self, data: object) -> int:
        raise OSError(self._why, os.strerror(self._why))


def guarded(monkeypatch: pytest.MonkeyPatch, encoding: str) -> io.BytesIO:
    """Standard output as bytes of some encoding, through the guard."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, errors="strict", write_through=True))
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.setattr(sys, "stdin", sys.stdin)
    console.guard()
    return raw


@pytest.mark.parametrize(("encoding", "seen"), [
    ("utf-8", "Gerät 音\n".encode()), ("latin-1", b"Ger\xe4t \\u97f3\n"), ("ascii", b"Ger\\xe4t \\u97f3\n"),
])  # fmt: skip
def test_any_encoding_accepts_any_text(monkeypatch: pytest.MonkeyPatch, encoding: str, seen: bytes) -> None:
    raw = guarded(monkeypatch, encoding)
    console.say(FOREIGN)
    assert raw.getvalue() == b"\\x1b[2J\\x9b31m\\u202e\\n\\ud800 " + seen


def test_writes_past_console_are_sanitised_too(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = guarded(monkeypatch, "utf-8")
    print("one\x1b[2J\ttwo")
    sys.stdout.write("three\r\n")
    assert raw.getvalue() == b"one\\x1b[2J\ttwo\nthree\\r\n"


def test_tables_ignore_markup_and_controls_in_foreign_text(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.table import Table

    raw = guarded(monkeypatch, "utf-8")
    table = Table("name")
    table.add_row("[red]x[/nope] :smile: \x1b[2J")
    console.screen().print(table)
    text = raw.getvalue().decode()
    assert "[red]x[/nope] :smile: \\x1" in text and "\x1b" not in text


def test_failed_output_is_an_error_but_failed_progress_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Full()))
    with pytest.raises(OutputLost, match="No space left"):
        console.say("what was asked for")
    console.tell("what nobody needs")


def test_closed_reader_is_told_apart_from_failed_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Full(errno.EPIPE)))
    with pytest.raises(console.OutputClosed):
        console.say("more")


def test_json_output_is_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    assert console.ascii_json({"a": "\x7f\x1b\u202e\ud800"}) == '{"a": "\\u007f\\u001b\\u202e\\ud800"}'


def test_log_record_is_always_one_line() -> None:
    try:
        raise ValueError(FOREIGN)
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "said %s", (FOREIGN,), sys.exc_info())
    text = TextLines().format(record)
    assert text.startswith("ERROR x: said \\x1b[2J\\x9b31m\\u202e\\n\\ud800 Gerät 音\nTraceback")
    assert "\x1b" not in text and "\u202e" not in text
    assert JsonLines().format(record).isascii()


def test_home_directory_may_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    from millrace.errors import ConfigError
    from millrace.io import paths

    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert paths.runtime_dir() == Path("/tmp/millrace-54321")
    assert paths.config_path() == Path("/etc/xdg/millrace/config.toml")
    with pytest.raises(ConfigError, match="set HOME, or XDG_STATE_HOME"):
        paths.state_path()
    with pytest.raises(ConfigError, match="give an absolute path"):
        paths.expanded("~/token")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    with pytest.raises(ConfigError):
        paths.state_path()
    monkeypatch.setenv("XDG_STATE_HOME", "/var/lib")
    assert paths.state_path() == Path("/var/lib/millrace/state.db")


def test_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from millrace.errors import ConfigError
    from millrace.io import paths

    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(paths, "TEMPORARY", tmp_path)
    place = tmp_path / f"millrace-{os.getuid()}"
    assert paths.runtime_dir() == place
    place.mkdir()
    assert paths.runtime_dir() == place
    place.rmdir()
    place.symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="is not owned by this user"):
        paths.runtime_dir()
    place.unlink()
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    (tmp_path / "millrace-54321").mkdir()
    with pytest.raises(ConfigError, match="set XDG_RUNTIME_DIR"):
        paths.runtime_dir()


def test_every_command_has_help_with_example(capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    from millrace.cli.main import app

    paths = list(commands(typer.main.get_command(app)))
    assert len(paths) > 35
    for path in paths:
        with contextlib.suppress(SystemExit):
            app([*path, "--help"])
        assert "Example" in capsys.readouterr().out, path


def commands(command: Any, *path: str) -> Iterator[list[str]]:
    """The words of every command."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield list(path)
    for name, one in (inner or {}).items():
        yield from commands(one, *path, name)


def test_non_utf_8_program_path_has_printable_name(tmp_path: Path) -> None:
    from millrace.io.peers import program_of

    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    shutil.copy("/bin/sleep", folder / "sleep")
    # Not the system's own: the whole path names it.
    (folder / "sleep").chmod(0o775)
    process = subprocess.Popen([folder / "sleep", "60"])
    try:
        assert program_of(process.pid) == f"{tmp_path}/\\xff/sleep"
    finally:
        process.kill()
        process.wait()


def test_token_expiry_beyond_calendar_is_shown() -> None:
    from millrace.cli.token import _when

    assert _when(10**18) == "never"
    assert _when(0) == "never" and _when(86_400 * 365).startswith("1971")


STOPPED = """
import os, signal, sys, threading, time
from millrace.cli.run import main_of

def stop():
    os.kill(os.getpid(), signal.SIGTERM)
"""
IN_THREAD_SHUTDOWN = """
def ending():
    frame = sys._current_frames()[threading.main_thread().ident]
    while frame is not None and frame.f_code.co_name != "_shutdown":
        frame = frame.f_back
    return frame is not None

def work():
    while not ending():
        time.sleep(0.01)
    stop()
    time.sleep(20)

main_of(threading.Thread(target=work).start, "test")
"""
WHILE_SOMETHING_IS_FREED = """
class Freed:
    def __del__(self):
        stop()

def app():
    Freed()
    time.sleep(20)

main_of(app, "test")
"""


@pytest.mark.parametrize(("when", "code"), [(IN_THREAD_SHUTDOWN, -15), (WHILE_SOMETHING_IS_FREED, 143)])
def test_signal_during_startup_ends_command_silently(when: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", STOPPED + when], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
