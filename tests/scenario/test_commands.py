"""Every command against a daemon: in a terminal of 80 columns, with invalid arguments, and with refused requests."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import struct
import termios
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

import millrace
from millrace.cli.api import refusal
from millrace.cli.columns import cells
from millrace.client.pulse import PulsePlayer
from millrace.control.storefile import NotSaved
from millrace.daemon.app import Daemon
from millrace.errors import BudgetError, ConfigError, GraphError, MillraceError, RightsError
from millrace.guest.config import GuestConfig
from millrace.guest.machines.address import parse_door
from millrace.guest.notfound import NotFound
from millrace.io.clock import now_ns
from millrace.rights.grants import Permission, Verdict
from millrace.rights.model import Right
from millrace.wire.peer.messages import Hello, encode_message
from millrace.wire.pulse.client import playback_fields
from millrace.wire.pulse.constants import Command
from millrace.wire.pulse.tagstruct import Spec
from tests.bus import running
from tests.everycommand import tree
from tests.scenario.test_foreign_text import commands_run

LONG = "the first player of many that have a name of some length"
ESCAPES = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")


def with_daemon(folder: Path, test: Callable[[Daemon], Awaitable[None]]) -> None:
    running(folder, test, guests=(GuestConfig("default"),), runtime=folder / "millrace", state=Path(":memory:"))


class Terminal:
    """A terminal with a given width, and everything written to it."""

    def __init__(self, columns: int) -> None:
        self._own, self._theirs = pty.openpty()
        fcntl.ioctl(self._own, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.name = os.ttyname(self._theirs)
        self._seen = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                self._seen += os.read(self._own, 65536)
            except OSError:
                return

    def lines(self) -> list[str]:
        """Everything that was written, once all writers are done."""
        os.close(self._theirs)
        self._reader.join()
        os.close(self._own)
        return ESCAPES.sub("\n", self._seen.decode()).replace("\r", "\n").split("\n")


def test_commands_are_those_of_the_tree_under_test_and_of_no_other_that_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "millrace").mkdir()
    for path in Path(millrace.__path__[0]).iterdir():
        (tmp_path / "millrace" / path.name).symlink_to(path)
    other = tmp_path / "millrace" / "version.py"
    other.unlink()
    other.write_text('__version__ = "0.0.1+other"\n')
    (tmp_path / "millrace" / "__pycache__").unlink(missing_ok=True)
    (said,) = asyncio.run(commands_run(tmp_path, [["--version"]], of=tmp_path))
    assert (said["code"], said["out"]) == (0, "millrace 0.0.1+other\n"), said


def test_output_fits_eighty_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)

    async def test(daemon: Daemon) -> None:
        guest = daemon.worker.guests["default"]
        player = await PulsePlayer.connect(guest.pulse.path, LONG)
        fields = playback_fields(Spec(5, 2, 44_100), (1, 2), props={"application.name": LONG.encode() + b"\0"})
        await player.ask(Command.CREATE_PLAYBACK_STREAM, **fields)
        (stream,) = guest.graph.streams
        await daemon.worker.access.new(LONG, Right.SEE | Right.HEAR | Right.SPEAK | Right.LINK, ["default"], 0)
        await daemon.worker.grant(guest, Permission.CAMERA, f"/home/{LONG}/bin/tool".replace(" ", "/"), Verdict.DENY)
        daemon.worker.attach(
            daemon.worker.guests["default"], parse_door(f"spice+unix:///run/{LONG}/spice.sock".replace(" ", "-"))
        )
        evidence = {"late_ms": 12.5, "waited_for_processor_ms": 9.25, "packets": 4}
        daemon.worker.diagnosis.incidents.record("loop", "starved", now_ns(), "default", f"stream/{stream}", evidence)
        terminal = Terminal(80)
        shown = [["ls"], ["top", "--every", "0.2"], ["incidents"], ["grants"], ["token", "list"],
                 ["explain", f"stream/{stream}"], ["latency", f"stream/{stream}"]]  # fmt: skip
        where = aiohttp.UnixConnector(str(tmp_path / "millrace" / "api.sock"))
        async with aiohttp.ClientSession(connector=where) as http, http.ws_connect("http://x/default") as line:
            await line.send_str(encode_message(Hello(name=LONG, codecs=["opus"])))
            listener = f"listener/{(await line.receive_json())['listener']}"
            shown += [["explain", listener], ["latency", listener]]
            found = await commands_run(tmp_path, shown, ["/dev/null", terminal.name, "captured"])
            piped = await commands_run(tmp_path, [["ls"]])
        await player.close()
        assert [one["code"] for one in found] == [0] * len(shown), found
        lines = terminal.lines()
        assert max(map(cells, lines)) <= 80
        text = " ".join(" ".join(lines).split())
        assert f"stream/{stream}" in text and re.search(r"\bthe \S*…\S* length\b|\bthe f…\w* length", text), text
        assert re.search(r"token/\d+ the \S.* never default see hear speak link\b", text), text
        assert re.search(r"listener/\d+ .*← sink/0, opus 128k, \d+ kb/s sent, latency -(?!, fill)", text), text
        assert (
            "ms to the mix; beyond that the listener reports no latency" in text
            and "no latency: it writes a file" in text
        )
        assert f"{listener} of guest default" in text and f"hears sink/0, in which stream/{stream} " in text
        # A machine that has not connected yet has a kind but no name.
        assert re.search(r"door/\d+ SPICE waiting", text) and "waited for processor 9.25 ms" in text
        whole = next(one["out"] for one in piped)
        assert any(LONG in line and "44100 Hz" in line for line in whole.splitlines()), (
            "a pipe gets one line per object"
        )

    with_daemon(tmp_path, test)


# Invalid in any state (exit code 2), and refused in the current state (3). {n} is an existing stream.
WRONG = [
    "set sink/millrace volume=loud", "set sink/millrace volume", "set sink/millrace bitrate=64k",
    "set {n} mute=maybe", "set millrace mute=on", "move sink/millrace sink/microphone", "move x sink/millrace",
    "link x sink/millrace", "link {n} sink/millrace --matrix 1;x", "link {n} sink/millrace --matrix 99",
    "unlink x y", "guest add a/b", "guest add lock", "guest add b --rate 1", "guest add b --channels x",
    "sink add a/b", "token new --may fly", "token new --expires soon", "grant dance", "revoke dance",
    "prompt dance", "explain x", "explain sink/millrace",
    "explain sink/0", "latency sink/0", "latency recorder/1", "latency x", "latency", "attach qemu",
    "attach qemu --p2p 0", "attach qemu --p2p x", "attach spice x:y", "attach vnc x:y", "attach x11 x:1",
    "listen --to tape:",
    "listen --to null: --mic tape", "listen --to null: --set bitrate=1", "listen --to null: --set x=1",
    "listen --to null: --latency slow", "view --to x.gif", "view --to null: --set x=1",
    "view --to null: --set fps=0", "top --every 0", "lab run nothing", "lab sound nothing",
    "lab impair nowhere", "serve --listen x", "serve --guest a/b", "matrix --cards none", "demo --to tape:",
]  # fmt: skip
REFUSED = [
    "set stream/999 volume=50%", "set sink/none mute=on", "set {n} volume=1%,2%,3%", "set listener/999 bitrate=64k",
    "move stream/999 sink/millrace", "move {n} sink/none", "link sink/millrace sink/millrace",
    "unlink {n} sink/millrace", "link {n} sink/millrace --matrix 1,2,3", "guest add default", "guest remove none",
    "sink add millrace", "sink remove millrace", "sink remove none", "sink add x --guest none", "token rotate 999",
    "token revoke token/999", "grant request/999", "grant 999", "deny request/999",
    "deny 999", "grant connect --guest none",
    "revoke connect --guest none", "prompt connect --guest none", "explain stream/999", "explain recorder/999",
    "explain listener/999", "latency listener/999", "latency stream/999",
    "detach door/999", "attach qemu --qmp /x --guest none", "attach spice x:1 --guest none",
    "attach vnc x:1 --guest none", "attach x11 :1 --guest none",
    "listen none --to null:", "listen --to null: --sink none", "dot --guest none",
]  # fmt: skip
SHOWS = r"`millrace (ls|grants|token list)`|there are: default$|it has (sink/)?millrace\b"
"""Text that says how to list the existing objects."""
LEADS = "which points to the guest you are listening to"
NOTHING_TO_GET_WRONG = {"page", "ls", "report", "incidents", "grants", "prompts", "token list", "lab list"}


def test_invalid_value_exits_with_2_and_refusal_with_3(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        player = await PulsePlayer.connect(daemon.worker.guests["default"].pulse.path, "player")
        await player.ask(Command.CREATE_PLAYBACK_STREAM, **playback_fields(Spec(5, 2, 48_000), (1, 2)))
        (key,) = (stream.key for stream in daemon.worker.guests["default"].graph.streams.values())
        lines = [*WRONG, *REFUSED]
        found = await commands_run(tmp_path, [line.replace("{n}", key).split(" ") for line in lines])
        await player.close()
        got = {line: one["code"] for line, one in zip(lines, found, strict=True)}
        assert got == dict.fromkeys(WRONG, 2) | dict.fromkeys(REFUSED, 3)
        for line, one in zip(lines, found, strict=True):
            assert one["err"] and "Traceback" not in one["err"] and not one["out"], one
            asked_for = re.search(r"\S*\b(999|none)\b", line)
            if line in REFUSED and asked_for is not None:
                assert asked_for[0] in one["err"] and re.search(SHOWS, one["err"]), one

    with_daemon(tmp_path, test)
    leaves = {" ".join(word for word in command if word.isalnum()) for command in tree()}
    untried = [leaf for leaf in leaves if not any(_same(leaf, line) for line in (*WRONG, *REFUSED))]
    assert {leaf for leaf in untried if not any(_same(leaf, known) for known in NOTHING_TO_GET_WRONG)} == set()


def _same(leaf: str, line: str) -> bool:
    """Whether two command lines use the same command: by their first word, or the first two in a group."""
    groups = {"attach", "guest", "sink", "token", "lab"}
    one, other = leaf.split(), line.split()
    return one[0] == other[0] and (one[0] not in groups or one[1:2] == other[1:2])


def test_commands_that_need_a_daemon_say_so_without_one(tmp_path: Path) -> None:
    needing = [["ls"], ["set", "sink/millrace", "mute=on"], ["incidents"], ["incidents", "--follow"], ["prompts"],
               ["latency", "--probe"], ["detach", "x"],
               ["listen", "--to", "null:", "--no-reconnect"]]  # fmt: skip
    for one in asyncio.run(commands_run(tmp_path, needing)):
        assert one["code"] == 2 and "millrace serve" in one["err"] and one["err"].count("\n") == 1, one


@pytest.mark.parametrize("by", ["unix", "tcp"])
def test_output_that_can_not_be_opened_is_reported_before_joining(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setenv("PULSE_CLIENTCONFIG", "/nowhere")

    async def test(daemon: Daemon) -> None:
        guest = daemon.worker.guests["default"]
        server = f"unix:{guest.pulse.path}" if by == "unix" else f"tcp:{guest.pulse.tcp[0]}"
        monkeypatch.setenv("PULSE_SERVER", server)
        outputs = ("device:no such card", "wav:/nowhere/a.wav")
        device, file = await commands_run(tmp_path, [["listen", "--to", to] for to in outputs])
        assert (device["code"], file["code"]) == (2, 2) and file["err"].startswith("millrace: /nowhere/a.wav: No such")
        assert device["err"].startswith("millrace: no sound device ")
        assert device["err"].endswith(f"; or set PULSE_SERVER, {LEADS}, to a server with a sound card\n")
        assert device["err"].count("\n") == file["err"].count("\n") == 1
        assert not guest.sessions

    running(
        tmp_path, test, guests=(GuestConfig("default", pulse_tcp=("127.0.0.1:0",)),),
        runtime=tmp_path / "millrace", state=Path(":memory:"),
    )  # fmt: skip


@pytest.mark.parametrize(("status", "kind"), [
    (400, ConfigError), (413, ConfigError), (401, RightsError), (403, RightsError), (404, GraphError),
    (409, GraphError), (429, GraphError), (500, GraphError), (503, GraphError), (507, GraphError),
])  # fmt: skip
def test_http_statuses_map_to_exit_codes(status: int, kind: type[Exception]) -> None:
    assert refusal(status) is kind


@pytest.mark.parametrize("kind", [ConfigError, GraphError, BudgetError, RightsError, NotFound, NotSaved])
def test_refusal_has_same_exit_code_over_http_and_locally(kind: type[MillraceError]) -> None:
    assert refusal(kind.status).exit_code == kind.exit_code
