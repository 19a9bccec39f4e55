"""Untrusted names and messages on the operator's terminal and in the log; untrusted values at every boundary."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import os
import pty
import re
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from millrace.cli.logs import JsonLines, TextLines
from millrace.client.pulse import PulsePlayer
from millrace.codec.parameters import CodecParameters
from millrace.daemon.app import Daemon
from millrace.daemon.config import Config
from millrace.guest.machines.address import parse_door
from millrace.io.clock import now_ns
from millrace.rights.grants import Identity, Permission, Subject, Verdict
from millrace.rights.model import Right
from millrace.wire.peer.messages import Configured, Fault, FormatChanged, Hello, Welcome, encode_message
from millrace.wire.pulse.client import playback_fields, record_fields
from millrace.wire.pulse.constants import NO_INDEX, Command
from millrace.wire.pulse.tagstruct import Spec
from tests.everycommand import command_of, tree

ROOT = Path(__file__).parents[2]
FOREIGN = "\x1b]0;owned\x07\x1b[2J\nERROR millrace: forged\r\u202e\u2066\u200f\u2028\x9b31m\x7f\ue000 [red]x[/nope]"
SHOWN = "\\x1b]0;owned\\x07"
ELSEWHERE = {"serve", "demo", "matrix", "lab", "listen", "page", "report"}


def commanding(text: str) -> str:
    """The characters of `text` that would control a terminal, or change the direction of text."""
    bad = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    return "".join(c for c in text if c not in "\n\u200c\u200d" and unicodedata.category(c) in bad)


async def commands_run(
    runtime: Path, commands: list[list[str]], streams: Sequence[str] = ("/dev/null", "captured", "captured"),
    of: Path | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Run commands of Millrace in the folder `of`, else of the one under test, against the daemon in `runtime`."""
    read, write = os.pipe()
    spec = {"results": write, "streams": list(streams), "daemon": False} | ({"tree": str(of)} if of else {})
    env = os.environ | {"XDG_RUNTIME_DIR": str(runtime), "XDG_STATE_HOME": str(runtime), "HOME": str(runtime)}
    process = await asyncio.create_subprocess_exec(
        *command_of(spec | {"commands": commands}), pass_fds=(write,), env=env, cwd=ROOT
    )
    os.close(write)
    with os.fdopen(read) as results:
        lines = await asyncio.to_thread(results.readlines)
    assert await process.wait() == 0
    return [json.loads(line) for line in lines]


async def hostile(daemon: Daemon) -> tuple[PulsePlayer, list[list[str]]]:
    """Give a bad name to everything that has one. Returns a client to keep, and commands about the objects."""
    guest = daemon.worker.guests["default"]
    player = await PulsePlayer.connect(guest.pulse.path, FOREIGN)
    name = FOREIGN.encode() + b"\0"
    fields = playback_fields(Spec(5, 2, 48_000), (1, 2), props={"media.name": name, "application.name": name})
    await player.ask(Command.CREATE_PLAYBACK_STREAM, **fields)
    fields = record_fields(Spec(5, 2, 48_000), (1, 2), source_index=NO_INDEX, source_name=None)
    await player.ask(Command.CREATE_RECORD_STREAM, **fields)
    (stream,), (recorder,) = guest.graph.streams, guest.graph.taps
    guest.graph.add_sink(FOREIGN, FOREIGN)
    await daemon.worker.access.new(FOREIGN, Right.SEE, [FOREIGN], 0)
    await daemon.worker.grant(guest, Permission.CAMERA, FOREIGN, Verdict.DENY)
    daemon.worker.attach(daemon.worker.guests["default"], parse_door("qmp:/nowhere/\x1b[31m"))
    daemon.worker.diagnosis.incidents.record("rights", "refused", now_ns(), "", FOREIGN, {FOREIGN: FOREIGN})
    daemon.worker.prompts.ask(
        "default", Permission.CAMERA, Subject(Identity(1, 2, FOREIGN)), FOREIGN, now_ns(), lambda yes: None
    )
    about = [["latency", f"stream/{stream}"], ["explain", f"stream/{stream}"], ["explain", f"recorder/{recorder}"]]
    asked = [
        ["ls", "--json"],
        ["incidents", "--json"],
        ["token", "list", "--json"],
        ["grants", "--json"],
        ["top", "--once"],
    ]
    return player, [*about, *asked, ["explain", FOREIGN], ["guest", "remove", FOREIGN], ["guest", "add", FOREIGN],
                    ["set", FOREIGN, f"{FOREIGN}={FOREIGN}"], ["no such \x1b[31mcommand"], ["ls", "--\x1b[31m"],
                    ["listen", FOREIGN, "--to", "null:", "--no-reconnect"], ["serve", "--listen", FOREIGN],
                    ["serve", "--config", FOREIGN]]  # fmt: skip


async def bad_server() -> tuple[web.AppRunner, list[str]]:
    """A server whose messages all contain escape sequences, and the command that connects to it."""

    async def upgrade(request: web.Request) -> web.WebSocketResponse:
        line = web.WebSocketResponse()
        await line.prepare(request)
        settings = {FOREIGN: FOREIGN}
        # The listener prints what it has joined once it has a format.
        sound = FormatChanged(CodecParameters(1, "s16", 48_000, ["front-left", "front-right"]))
        for said in (Welcome(1, FOREIGN, FOREIGN, settings), sound, Configured(settings)):
            await line.send_str(encode_message(said))
        await line.send_str(encode_message(Fault(FOREIGN, FOREIGN, fatal=True)))
        await line.close()
        return line

    app = web.Application()
    app.add_routes([web.get("/g", upgrade)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, ["listen", f"ws://127.0.0.1:{runner.addresses[0][1]}/g", "--to", "null:", "--no-reconnect"]


def top_on_a_terminal(runtime: Path) -> bytes:
    """What `top` writes to a terminal in a second, which includes escape sequences of its own."""
    own, theirs = pty.openpty()
    env = os.environ | {"XDG_RUNTIME_DIR": str(runtime), "TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen([sys.executable, "-m", "millrace.cli.main", "top"], stdout=theirs, env=env)
    os.close(theirs)
    seen = b""
    while b"stream/" not in seen and len(seen) < 1 << 20:
        seen += os.read(own, 65536)
    process.terminate()
    assert process.wait(20) == 0
    os.close(own)
    return seen


def test_commands_print_no_terminal_controls_from_foreign_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        caplog.set_level(logging.INFO)
        daemon = Daemon(Config("127.0.0.1:0", runtime=tmp_path / "millrace", state=Path(":memory:")))
        await daemon.start()
        runner, meet = await bad_server()
        try:
            player, about = await hostile(daemon)
            where = aiohttp.UnixConnector(str(tmp_path / "millrace" / "api.sock"))
            async with aiohttp.ClientSession(connector=where) as http, http.ws_connect("http://x/default") as line:
                await line.send_str(encode_message(Hello(name=FOREIGN, codecs=["opus"])))
                await line.receive()
                every = [command for command in tree() if command[0] not in ELSEWHERE]
                found = await commands_run(tmp_path, [*about, meet, *every])
                screen = await asyncio.to_thread(top_on_a_terminal, tmp_path)
            await player.close()
        finally:
            await runner.cleanup()
            await daemon.stop()
        judge(found)
        assert b"\x1b[2J\n" not in screen and b"owned\x07" not in screen and b"\\x1b]0;owned" in screen

    asyncio.run(main())
    for record in caplog.records:
        for made in (TextLines().format(record), JsonLines().format(record)):
            assert not commanding(made) and "\n" not in made


def judge(found: list[dict[str, Any]]) -> None:
    """Check that nothing controls the terminal, no line is forged, and the names are shown."""
    for one in found:
        for text in (one["out"], one["err"]):
            assert not commanding(text), one
            assert not re.search(r"^ERROR millrace", text, re.MULTILINE), one
            assert "Traceback" not in text, one
        if "--json" in one["args"]:
            assert one["out"].isascii() and [json.loads(part) for part in json_parts(one)], one
    said = {" ".join(one["args"][:2]): one["out"] + one["err"] for one in found}
    for name in ("ls", "ls --json", "token list", "grants", "incidents", "top --once", "dot", "prompts"):
        assert re.search(r"\\(x1b|u001b)\]0;owned", said[name]), (name, said[name])
    assert any(one["code"] == 5 and one["err"].count(SHOWN) > 3 for one in found if one["args"][0] == "listen")


def json_parts(one: dict[str, Any]) -> list[str]:
    """The JSON documents in an output: one, or one per line."""
    return one["out"].splitlines() if one["args"][0] == "incidents" else [one["out"]]


PAST = {"print", "typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write"}
PAST |= {"Console", "logging.basicConfig", "logging.StreamHandler"}


def test_nothing_is_printed_or_logged_past_the_console() -> None:
    for path in (ROOT / "src" / "millrace").rglob("*.py"):
        if path.name in ("console.py", "logs.py") or "rig" in path.parts:
            continue
        text = path.read_text()
        past = PAST if "rich.console" in text else PAST - {"Console"}
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in past, (path, called)


HUGE, LONE = "9" * 4500, '"\\ud800"'
VALUES: list[tuple[str, str, str]] = [
    ("POST", "/api/v1/tokens", '{"may": "hear", "expires": "99999999999w"}'),
    ("POST", "/api/v1/tokens", '{"may": "hear", "expires": "²h"}'),
    ("POST", "/api/v1/tokens", '{"may": "hear", "expires": "HUGEd"}'),
    ("POST", "/api/v1/tokens", '{"may": "hear", "name": "\\u001b[2J"}'),
    ("POST", "/api/v1/tokens", '{"may": "hear", "name": LONE}'),
    ("POST", "/api/v1/guests", '{"name": LONE}'),
    ("POST", "/api/v1/guests", '{"name": "x\\n"}'),
    ("POST", "/api/v1/guests", '{"name": "x", "rate": HUGE}'),
    ("POST", "/api/v1/guests", '{"name": "x", "rate": 1e999}'),
    ("POST", "/api/v1/guests", '{"name": "x", "rate": true}'),
    ("POST", "/api/v1/guests", '{"name": "x", "channels": 123456789012345678901234567890}'),
    ("POST", "/api/v1/guests/default/sinks", '{"name": "x", "description": LONE}'),
    ("POST", "/api/v1/guests/default/sinks", '{"name": "x", "description": "\\u202e"}'),
    ("POST", "/api/v1/guests/default/doors", '{"door": "spice://[::1"}'),
    ("POST", "/api/v1/guests/default/doors", '{"door": "vnc://h:²"}'),
    ("POST", "/api/v1/guests/default/doors", '{"door": "vnc://h\\u0000:5900"}'),
    ("POST", "/api/v1/guests/default/grants", '{"what": "camera", "allow": true, "program": "HUGE"}'),
    ("POST", "/api/v1/set", '{"target": "sink/0", "settings": {"volume": HUGE}}'),
    ("POST", "/api/v1/set", '{"target": "sink/0", "settings": {"volume": 12345678901234567890123456789012345678901}}'),
    ("POST", "/api/v1/set", '{"target": "sink/0", "settings": {"volume": "1.2.3%"}}'),
    ("POST", "/api/v1/set", '{"target": "sink/0", "settings": {"volume": "nan%"}}'),
    ("POST", "/api/v1/set", '{"target": "sink/0", "settings": {"volume": "-99999dB"}}'),
    ("POST", "/api/v1/set", '{"target": "stream/HUGE", "settings": {}}'),
    ("POST", "/api/v1/set", '{"target": "listener/0", "settings": {"bitrate": "1.2.3"}}'),
    ("POST", "/api/v1/set", '{"target": LONE, "settings": {LONE: LONE}}'),
    ("POST", "/api/v1/links", '{"source": "sink/0", "to": "sink/0", "matrix": [[1e300]]}'),
    ("POST", "/api/v1/links", '{"source": "sink/0", "to": "sink/0", "matrix": [[HUGE]]}'),
    ("POST", "/api/v1/memory", '{"key": "HUGE", "value": ""}'),
    ("GET", "/api/v1/explain?target=recorder/HUGE", ""),
    ("GET", "/api/v1/explain?target=recorder/%ed%a0%80", ""),
    ("GET", "/api/v1/latency?target=stream/%C2%B2&guest=%1b%5b2J", ""),
    ("DELETE", "/api/v1/tokens/HUGE", ""),
    ("DELETE", "/api/v1/doors/%ed%a0%80", ""),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[int, str]]:
    """The daemon's answer to each of VALUES, while a watcher is connected; and what the watcher saw at the end."""
    folder = tmp_path_factory.mktemp("values")
    got: dict[int, tuple[int, str]] = {}

    async def main() -> None:
        daemon = Daemon(Config("127.0.0.1:0", runtime=folder / "millrace", state=folder / "state.db"))
        await daemon.start()
        where = aiohttp.UnixConnector(str(folder / "millrace" / "api.sock"))
        try:
            async with (
                aiohttp.ClientSession(connector=where) as http,
                http.ws_connect("http://x/api/v1/events") as line,
            ):
                for number, (method, path, body) in enumerate(VALUES):
                    path, body = (text.replace("HUGE", HUGE).replace("LONE", LONE) for text in (path, body))
                    headers = {"Content-Type": "application/json"}
                    url = f"http://x{path}"
                    async with http.request(method, url, data=body.encode() or None, headers=headers) as answer:
                        got[number] = answer.status, await answer.text()
                await http.post("http://x/api/v1/guests/default/sinks", json={"name": "seen", "description": "Gerät"})
                async with asyncio.timeout(10):
                    while '"Gerät"' not in (text := await line.receive_str()):
                        pass
                got[-1] = 0, text
        finally:
            await daemon.stop()

    asyncio.run(main())
    return got


@pytest.mark.parametrize("number", range(len(VALUES)))
def test_invalid_value_is_refused_in_a_sentence(answers: dict[int, tuple[int, str]], number: int) -> None:
    status, text = answers[number]
    assert 400 <= status < 500, (VALUES[number], status, text)
    said = json.loads(text)["error"] if text.startswith("{") else text.rstrip("\n")
    assert said and len(said) < 600 and not commanding(said), (VALUES[number], text)


def test_invalid_value_does_not_break_watchers(answers: dict[int, tuple[int, str]]) -> None:
    assert "seen" in answers[-1][1]
