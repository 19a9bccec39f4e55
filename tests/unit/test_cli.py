"""The command line as users see it: help, lines that fit, familiar words; and where its sound may go."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from millrace.backends import device
from millrace.cli import demo
from millrace.cli.columns import CELL_MAX, LINE_MAX, cells, column, folded, say_folded, shortened, table
from millrace.cli.hints import HINTS
from millrace.cli.look import picture
from millrace.cli.main import app
from millrace.client.soundserver import keep_out
from millrace.codec.settings import CodecSettings, changed, show_settings
from millrace.errors import ConfigError
from millrace.observe import explain
from millrace.text import show_measured

PARAGRAPH_MAX = 76
"""What is left of 80 columns for an example, between click's margins."""


def commands(command: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    inner = getattr(command, "commands", {})
    return [(path, command), *(found for name in inner for found in commands(inner[name], (*path, name)))]


EVERY = commands(typer.main.get_command(app))


@pytest.mark.parametrize("path", [path for path, command in EVERY if hasattr(command, "commands")])
def test_help_lists_every_command_untruncated_on_one_line(path: tuple[str, ...]) -> None:
    def listed(columns: int) -> list[str]:
        done = CliRunner().invoke(app, [*path, "--help"], terminal_width=columns)
        # Examples are never folded: they are there to be copied.
        folded, examples, rest = done.output.partition("  Examples:\n")
        assert done.exit_code == 0 and max(map(len, folded.splitlines())) <= columns
        assert examples and max(map(len, rest.splitlines())) <= max(80, columns)
        return done.output.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()

    inner = next(command for where, command in EVERY if where == path).commands
    wide = listed(80)
    assert len(wide) == len(inner), "a first sentence does not fit its line"
    assert all(line.endswith(".") and "…" not in line and "..." not in line for line in wide)
    assert "".join(" ".join(listed(40)).split()) == "".join(" ".join(wide).split())


@pytest.mark.parametrize(("path", "command"), EVERY, ids=[" ".join(path) for path, _ in EVERY])
def test_examples_fit_in_a_line(path: tuple[str, ...], command: Any) -> None:
    assert "Example" in (command.help or "") + (command.epilog or "")
    for paragraph in (command.help or "").split("\n\n"):
        if paragraph.strip().startswith(("\b", "millrace ")):
            assert all(len(line) <= PARAGRAPH_MAX for line in paragraph.splitlines()), paragraph
    assert not any("--no-insecure" in option for one in command.params for option in one.secondary_opts)


@pytest.mark.parametrize(("text", "room", "shown"), [
    ("short", 10, "short"), ("a long name of something", 11, "a lon…thing"), ("短い日本語の名前", 10, "短い…名前"),
    ("x" * 9, 1, "…"),
])  # fmt: skip
def test_name_is_shortened_in_its_middle(text: str, room: int, shown: str) -> None:
    assert shortened(text, room) == shown and cells(shown) <= room


def test_wrapped_text_loses_nothing_and_fits() -> None:
    text = (
        "  stream/5     mpv              idle   100%  → sink/0, 短い日本語の名前, /a/path/that/fits/in/no/line/of/those"
    )
    for width in (24, 40, 80, 200):
        lines = list(folded(text, 15, width))
        assert all(cells(line) <= width for line in lines)
        assert "".join("".join(lines).split()) == "".join(text.split())
    assert list(folded(text, 15, 200)) == [text]
    figures = "late 31.6 ms, +2.5 ppm, 138 kb/s sent, 44100 Hz 2 ch, -6 dB; 50 %"
    for width in range(12, 60):
        lines = list(folded(figures, 2, width))
        assert all(any(figure in line for line in lines) for figure in ("31.6 ms,", "138 kb/s", "44100 Hz", "50 %")), (
            lines
        )
    assert all(line[:15].isspace() for line in list(folded(text, 15, 80))[1:])


def test_long_names_are_cut_in_pipes_as_on_terminals(capsys: pytest.CaptureFixture[str]) -> None:
    name = "n" * 60_000
    assert cells(column(name, 16)) == CELL_MAX and column("music", 16) == "music" + " " * 11
    for width in (None, 300):
        row = table([("what", "name", "state"), ("stream/1", name, "running")], (1,), width)[1]
        assert cells(row) == len("stream/1") + 2 + CELL_MAX + 2 + len("running") and row.endswith("  running")
    say_folded(f"request/1: {name} asks", 4)
    assert len(capsys.readouterr().out) == LINE_MAX + 1


@pytest.mark.parametrize(("word", "told"), [("doctor", "incidents"), ("record", "view --to"), ("status", "ls")])
def test_command_of_other_programs_is_answered_with_ours(word: str, told: str) -> None:
    error = CliRunner().invoke(app, [word]).exception
    assert isinstance(error, ConfigError) and f"there is no command `{word}`: " in str(error) and told in str(error)
    assert not HINTS.keys() & {path[0] for path, _ in EVERY if path}


def test_table_shrinks_only_flexible_columns() -> None:
    rows = [("what", "name", "level", "faults"), ("stream/5", "n" * 60, "-12 dB", "12 underruns, 3 lost")]
    assert len(table(rows, (1,), None)[1]) == 8 + 2 + 60 + 2 + 6 + 2 + 20
    narrow = table(rows, (1,), 50)
    assert all(cells(line) <= 50 for line in narrow) and narrow[2].strip() == "12 underruns, 3 lost"
    assert narrow[1].startswith("stream/5 nnn") and "…" in narrow[1] and narrow[1].endswith("-12 dB")


def test_top_keeps_incidents_visible() -> None:
    stream = {"application": "player", "state": "running", "underruns": 0, "fill_ms": 80.0, "ahead_ms": 20.0}
    guest: dict[str, Any] = {"name": "default", "state": "running", "quantum_ms": 20.0, "late_cycles": 0, "sinks": []}
    guest |= {
        "sources": [],
        "listeners": [],
        "recorders": [],
        "streams": [stream | {"id": f"stream/{n}"} for n in range(300)],
    }
    said: dict[str, Any] = {"at": 0.0, "guest": "default", "subject": "stream/7", "stage": "stream", "cause": "starved"}
    said |= {"count": 1, "text": "the application wrote late", "evidence": {"late_ms": 12.5}}
    lines = [line.plain for line in picture({"guests": [guest]}, [said] * 5, 80, 24)]
    assert len(lines) == 24 and all(cells(line) <= 80 for line in lines)
    assert "quantum 20 ms" in lines[1]
    assert "100.0 ms" in next(line for line in lines if "stream/0" in line)
    assert lines[-1].endswith("12.5 ms]") and any("more lines; `millrace ls`" in line for line in lines)
    assert len(picture({"guests": [guest]}, [said] * 5, None, None)) == 302 + 5


def test_settings_and_figures_are_formatted_for_people() -> None:
    chosen = changed(CodecSettings(), {"bitrate": "64k", "frame": "2.5ms", "fec": "on"})
    shown = show_settings(chosen.as_dict() | {"latency": "low", "new": 5})
    assert shown.startswith("codec=opus, bitrate=64k, vbr=on") and "frame=2.5ms, fec=on" in shown
    assert shown.endswith("latency=low, new=5")
    taken = [word.split("=") for word in shown.split(", ")[:-2]]
    assert changed(CodecSettings(), dict(taken)) == chosen
    assert show_settings(changed(CodecSettings(), {"codec": "s16"}).as_dict()) == "codec=s16, frame=auto, channels=auto"
    assert show_measured({"waited_for_processor_ms": 3.5, "packets": 2, "off_ppm": 9}) == (
        "waited for processor 3.5 ms, packets 2, off 9 ppm"
    )
    assert show_measured({"the_who": "my_prog_x", "why": "set public_url"}) == "the who my_prog_x, why set public_url"


# -- help ---------------------------------------------------------------------------------------


def test_help_uses_one_style_for_arguments() -> None:
    told: dict[str, str] = {}
    for path, command in EVERY:
        if hasattr(command, "commands"):
            continue
        shown = told[" ".join(path)] = CliRunner().invoke(app, [*path, "--help"]).output
        names = [p.metavar for p in command.params if not getattr(p, "is_flag", False)]
        assert all(re.fullmatch(r"[A-Z][A-Z0-9_]*([|:=][A-Z]+)?", name) for name in names), (path, names)
        usage = re.sub(r"\s+", " ", shown.partition("\n\n")[0])
        words = r"( [A-Z|:=]+(\.\.\.)?| \[[A-Z|:=]+\](\.\.\.)?)*"
        assert re.fullmatch(rf"Usage: \S+ {' '.join(path)} \[OPTIONS\]{words}", usage.strip()), usage
        assert not re.search(r"[<{]|list\[", shown.partition("\nArguments:")[2] + shown.partition("\nOptions:")[2]), (
            shown
        )
    assert " set [OPTIONS] TARGET NAME=VALUE...\n" in told["set"] and " [GUEST|URL]\n" in told["listen"]
    assert "--token-file FILE " in told["listen"] and "--guest GUEST " in told["token new"]


# -- choosing a sound server -------------------------------------------------------------------


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The socket of a guest `default`; nothing else that a client of PulseAudio would find."""
    for name in ("PULSE_SERVER", "PULSE_RUNTIME_PATH", "PULSE_CLIENTCONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PULSE_CLIENTCONFIG", "/nowhere")
    path = tmp_path / "millrace" / "default" / "pulse"
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        yield path


def nowhere(guest: str) -> list[str]:
    """No TCP."""
    return []


HEARD = ("ws://localhost/default", "ws://127.0.0.1:8642/default", "ws://[::1]:1/default")


@pytest.mark.parametrize("url", HEARD)
@pytest.mark.parametrize(
    "form", ["unix:{}", "{}", "{{0123abcd}}unix:{}", "tcp:far.example:4713 unix:{}", "unix:{}/../pulse2"]
)
def test_listener_does_not_play_into_guest_that_it_hears(
    guest: Path, monkeypatch: pytest.MonkeyPatch, url: str, form: str
) -> None:
    (guest.parent / "pulse2").symlink_to("pulse")
    where = str(guest.parent / "x") if ".." in form else str(guest)
    (guest.parent / "x").mkdir()
    monkeypatch.setenv("PULSE_SERVER", form.format(where))
    assert keep_out(url, nowhere) and "PULSE_SERVER" not in os.environ


@pytest.mark.parametrize(("server", "bound"), [
    ("tcp:127.0.0.1:4714", "127.0.0.1:4714"), ("tcp:localhost:4714", "127.0.0.1:4714"),
    ("tcp4:127.0.0.1", "0.0.0.0:4713"), ("{0123abcd}tcp6:[::1]:4714", "[::1]:4714"), ("127.0.0.1", "127.0.0.1:4713"),
    ("unix:/nowhere tcp:127.0.0.2:99", "0.0.0.0:99"),
])  # fmt: skip
def test_listener_does_not_play_into_its_guest_over_tcp(
    guest: Path, monkeypatch: pytest.MonkeyPatch, server: str, bound: str
) -> None:
    monkeypatch.setenv("PULSE_SERVER", server)
    assert (
        keep_out(HEARD[1], lambda name: {"default": ["127.0.0.1:9", bound]}[name]) and "PULSE_SERVER" not in os.environ
    )


@pytest.mark.parametrize(("server", "bound"), [
    ("tcp:127.0.0.1:4715", "127.0.0.1:4714"), ("tcp:127.0.0.2:4714", "127.0.0.1:4714"),
    ("tcp:::1:4714", "127.0.0.1:4714"), ("tcp:192.0.2.7:4714", "0.0.0.0:4714"), ("tcp:[::1]:4714", "0.0.0.0:4714"),
    ("tcp:a..b:4714", "0.0.0.0:4714"),
])  # fmt: skip
def test_other_tcp_server_is_used(guest: Path, monkeypatch: pytest.MonkeyPatch, server: str, bound: str) -> None:
    monkeypatch.setenv("PULSE_SERVER", server)
    assert not keep_out(HEARD[1], lambda name: [bound]) and os.environ["PULSE_SERVER"] == server


@pytest.mark.parametrize("url", ["ws://localhost/alice", "wss://desk.example/default", "ws://192.0.2.7:8642/default"])
def test_listener_may_play_into_another_guest(guest: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("PULSE_SERVER", f"unix:{guest}")
    assert not keep_out(url, nowhere) and os.environ["PULSE_SERVER"] == f"unix:{guest}"


def test_demo_does_not_ask_its_own_guest_for_a_card(guest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for an answer in the thread that has to give the answer."""
    asked: list[str | None] = []
    monkeypatch.setattr(device, "device_names", lambda: asked.append(os.environ.get("PULSE_SERVER")) or ["card"])
    monkeypatch.setenv("PULSE_SERVER", f"unix:{guest}")
    assert demo._chosen("null:", HEARD[0]) == "null:" and os.environ["PULSE_SERVER"] == f"unix:{guest}"
    assert demo._chosen("", HEARD[0]) == "device" and asked == [None]


@pytest.mark.parametrize("way", ["runtime folder", "client.conf"])
def test_sound_server_that_is_the_guest_is_refused(
    guest: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: str
) -> None:
    assert not keep_out(HEARD[0], nowhere)
    if way == "client.conf":
        (tmp_path / "client.conf").write_text(f"; comment\n default-server = unix:{guest}\n")
        monkeypatch.setenv("PULSE_CLIENTCONFIG", str(tmp_path / "client.conf"))
    else:
        (tmp_path / "pulse").mkdir()
        (tmp_path / "pulse" / "native").symlink_to(guest)
    for server in (None, f"unix:{guest}"):
        if server:
            monkeypatch.setenv("PULSE_SERVER", server)
        with pytest.raises(ConfigError, match="sound server is the guest itself"):
            keep_out(HEARD[0], nowhere)
    monkeypatch.setenv("PULSE_SERVER", "unix:/elsewhere")
    assert not keep_out(HEARD[0], nowhere)


def test_version_is_defined_once_and_has_release_notes() -> None:
    import re
    import tomllib

    from millrace import __version__

    root = Path(__file__).parents[2]
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    assert settings["project"]["dynamic"] == ["version"] and "version" not in settings["project"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "millrace.version.__version__"}
    said = [path.name for path in (root / "src").rglob("*.py") if re.search(r"^__version__ =", path.read_text(), re.M)]
    assert said == ["version.py"]
    assert CliRunner().invoke(app, ["--version"]).output == f"millrace {__version__}\n"
    heads = re.findall(r"^## (.*)$", (root / "CHANGELOG.md").read_text(), re.M)
    releases = [
        re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d", head) for head in heads if head != "[Unreleased]"
    ]
    assert [found and found[1] for found in releases] == [__version__, "0.1.0"]
    kinds = re.findall(r"^### (.*)$", (root / "CHANGELOG.md").read_text(), re.M)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_one_channel_is_explained_in_singular(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "level", lambda stage, node: explain.Step(stage, ""))
    sink = SimpleNamespace(id=1, key="sink/1", kind="sink", name="a", positions=("left", "right"), links=[])
    link: Any = SimpleNamespace(target=sink, matrix=None)
    guest: Any = SimpleNamespace(sessions=[])
    told = [explain._linked(guest, "stream/7", channels, link, set())[0].text for channels in (1, 6)]
    assert told == ["stream/7 to sink/1: 1 channel mixed to 2", "stream/7 to sink/1: 6 channels mixed to 2"]


LARGE = {
    "PIL", "aiohttp", "asyncio", "av", "cryptography", "dataclasses", "decimal", "logging", "msgspec", "numpy",
    "pydantic", "rich",
}  # fmt: skip
LOADED = """
import json, sys
from millrace.cli.main import main
try:
    main()
except SystemExit:
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.mark.parametrize("command", [["ls"], ["set", "sink/default", "volume=50%"], ["token", "list"]])
def test_query_command_imports_nothing_large(command: list[str], tmp_path: Path) -> None:
    """Importing one of these would take longer than all the rest of the command."""
    env = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", LOADED, *command], env=env, capture_output=True, text=True, check=True)
    assert "no daemon" in done.stderr
    assert not LARGE & set(json.loads(done.stdout))


def test_help_imports_nothing_large_and_makes_no_other_command(tmp_path: Path) -> None:
    made = "print(json.dumps(list(app._parts._made)))"
    code = LOADED.replace("import main", "import app, main") + f"    {made}\n"
    for words, commands in (["--help"], []), (["ls", "--help"], ["ls"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        loaded, parts = map(json.loads, done.stdout.splitlines()[-2:])
        assert not LARGE & set(loaded) and parts == commands
