"""The requests that commands make, and what they print about the answers. The daemon is a table of answers."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from millrace.cli import api, attach, grants, latency, ls, page, stages
from millrace.cli.look import picture
from millrace.cli.main import app
from millrace.errors import ConfigError, GraphError
from millrace.io.paths import HANDOVER_SOCKET

COMMAND = typer.main.get_command(app)


class Daemon:
    """Answers by method and path; repeated requests get the answers of a list in turn."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, Any]] = []

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        self.asked.append((f"{method} {path}", body))
        answer = self.answers.get(f"{method} {path}", {"ok": True})
        if isinstance(answer, list) and answer and isinstance(answer[0], Turn):
            return answer[0].value if len(answer) == 1 else answer.pop(0).value
        return answer


class Turn:
    """One answer of several."""

    def __init__(self, value: Any) -> None:
        self.value = value


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    made = Daemon()
    monkeypatch.setattr(api, "call", made.call)
    return made


def said(*words: str) -> str:
    """What a command prints on stdout and stderr; its errors are raised."""
    shown = io.StringIO()
    with redirect_stdout(shown), redirect_stderr(shown):
        assert not COMMAND.main(list(words), standalone_mode=False)
    return shown.getvalue()


# -- machines ------------------------------------------------------------------------------------


def door(state: str, **more: str) -> dict[str, str]:
    return {"id": "door/7", "door": "qmp:/q", "state": state, "machine": "", "error": ""} | more


def doors(*states: dict[str, str]) -> list[Turn]:
    other = {"name": "other", "doors": [door("attached", machine="wrong")]}
    return [Turn({"guests": [other, {"name": "vm a", "doors": [door("x", id="door/6"), one]}]}) for one in states]


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    made: list[float] = []
    monkeypatch.setattr("time.sleep", made.append)
    return made


def test_attach_prints_that_machine_is_attached(daemon: Daemon, naps: list[float]) -> None:
    daemon.answers["POST /api/v1/guests/vm%20a/doors"] = door("waiting")
    daemon.answers["GET /api/v1/state"] = doors(door("waiting"), door("attached", machine="win11"), door("gone"))
    out = said("attach", "qemu", "--qmp", "q", "--guest", "vm a")
    assert out == "door/7 qmp:/q attached (win11)\n" and len(naps) == 2
    assert daemon.asked[0][1] == {"door": f"qmp:{Path('q').absolute()}", "vm": ""}


def test_attach_prints_why_machine_is_not_attached_and_retries(daemon: Daemon, naps: list[float]) -> None:
    daemon.answers["POST /api/v1/guests/vm%20a/doors"] = door("waiting")
    daemon.answers["GET /api/v1/state"] = doors(door("waiting", error="no such file"))
    keeps = "Millrace keeps trying until the machine answers; `millrace detach door/7` ends that\n"
    words = ("attach", "qemu", "--dbus", "unix:path=/b", "--vm", "w", "--guest", "vm a")
    assert said(*words) == f"door/7 qmp:/q waiting\nno such file\n{keeps}"
    assert daemon.asked[0][1] == {"door": "dbus:unix:path=/b", "vm": "w"} and len(naps) == 1
    daemon.answers["GET /api/v1/state"] = [Turn({"guests": []})]
    whole = f"door/7 qmp:/q waiting\nno answer yet\n{keeps}"
    assert said("attach", "qemu", "--qmp", "/q", "--guest", "vm a") == whole
    assert len(naps) == 21 and sum(naps) <= 2.5, "two seconds at most"


def test_script_gets_only_the_door_on_standard_output(
    daemon: Daemon, naps: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    for state in (door("waiting", error="no such file"), door("attached", machine="win11")):
        daemon.answers["POST /api/v1/guests/vm%20a/doors"] = door("waiting")
        daemon.answers["GET /api/v1/state"] = doors(state)
        COMMAND.main(["attach", "vnc", "h:5901", "--guest", "vm a", "--json"], standalone_mode=False)
        out, err = capsys.readouterr()
        assert json.loads(out) == state and err.partition("\n")[0] == state["error"]


@pytest.mark.parametrize(("words", "body"), [
    ("spice h:5930", {"door": "spice://h:5930"}), ("spice h:5930 --tls", {"door": "spice+tls://h:5930"}),
    ("spice unix:/s", {"door": "spice+unix:///s"}), ("vnc h:1", {"door": "vnc://h:1"}),
    ("vnc unix:/v --password-file /p", {"door": "vnc+unix:///v", "password_file": "/p"}),
    ("spice h:1 --password-file p --ca-file c", {"door": "spice://h:1", "password_file": "@p", "ca_file": "@c"}),
    ("vnc h:1 --ca-file /c", {"door": "vnc://h:1", "ca_file": "/c"}),
])  # fmt: skip
def test_network_address_is_sent_with_absolute_paths(
    daemon: Daemon, naps: list[float], words: str, body: dict[str, str]
) -> None:
    daemon.answers["POST /api/v1/guests/default/doors"] = door("attached")
    daemon.answers["GET /api/v1/state"] = [Turn({"guests": []})]
    said("attach", *words.split())
    here = {name: value.replace("@", f"{Path.cwd()}/") for name, value in body.items()}
    assert daemon.asked[0] == ("POST /api/v1/guests/default/doors", here)


@pytest.mark.parametrize("words", ["", "--qmp /q --dbus unix:path=/b", "--p2p 5 --qmp /q"])
def test_attach_qemu_takes_exactly_one_way(daemon: Daemon, words: str) -> None:
    with pytest.raises(ConfigError, match="one of --qmp SOCKET, --dbus ADDRESS, --p2p FD"):
        said("attach", "qemu", *words.split())
    assert daemon.asked == []


@pytest.fixture
def handover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "millrace").mkdir()
    return tmp_path / "millrace" / HANDOVER_SOCKET


def answering(path: Path, answer: bytes) -> tuple[threading.Thread, list[Any]]:
    """A daemon that takes one descriptor, and writes into it to show that it has it."""
    listening, got = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), list[Any]()
    listening.bind(str(path))
    listening.listen()

    def serve() -> None:
        with listening, listening.accept()[0] as line:
            data, fds, _, _ = socket.recv_fds(line, 65536, 4)
            got.append(json.loads(data))
            for fd in fds:
                os.write(fd, b"hello")
                os.close(fd)
            line.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread, got


def test_descriptor_is_handed_over_unchanged(daemon: Daemon, handover: Path) -> None:
    thread, got = answering(handover, b'{"id": "door/3", "door": "p2p", "state": "attached", "machine": ""}\n')
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert said("attach", "qemu", "--p2p", str(ours.fileno()), "--guest", "win11") == "door/3 p2p attached\n"
        thread.join(10)
        assert theirs.recv(16) == b"hello" and got == [{"guest": "win11"}]
    assert daemon.asked == []


@pytest.mark.parametrize(("answer", "kind", "why"), [
    (b'{"error": "there is no guest x"}', GraphError, "there is no guest x"),
    (b"", GraphError, "the daemon gave no answer"),
])  # fmt: skip
def test_refused_descriptor_is_reported_with_reason(
    handover: Path, answer: bytes, kind: type[Exception], why: str
) -> None:
    thread, _ = answering(handover, answer)
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(kind, match=why):
        said("attach", "qemu", "--p2p", str(ours.fileno()))
    thread.join(10)


def test_handing_over_needs_daemon_and_socket(handover: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(ConfigError, match=r"no daemon answers at .*attach\.sock; start one"):
        attach._given_descriptor("default", ours.fileno())
    with open("/dev/null") as null, pytest.raises(ConfigError, match=r"descriptor \d+ is not a socket"):
        attach._given_descriptor("default", null.fileno())
    with pytest.raises(ConfigError, match="descriptor 1000000 is not a socket"):
        attach._given_descriptor("default", 1_000_000)


def test_silent_daemon_is_reported(handover: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def send(*args: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "send_fds", send)
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(handover))
        listening.listen()
        with pytest.raises(ConfigError, match=r"the daemon at .*attach\.sock does not answer"):
            attach._given_descriptor("default", ours.fileno())


def test_detach_takes_either_name(daemon: Daemon) -> None:
    assert said("detach", "door/7") == said("detach", "7") == ""
    assert daemon.asked == [("DELETE /api/v1/doors/7", None)] * 2


def test_sink_is_removed_by_name_or_as_listed(daemon: Daemon) -> None:
    daemon.answers["DELETE /api/v1/guests/vm%20a/sinks/music"] = {}
    for name in ("music", "sink/music"):
        assert said("sink", "remove", name, "--guest", "vm a") == ""


# -- rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "allow"), [
    ("grant monitor", True), ("grant monitor --forget", None), ("revoke monitor", False), ("prompt monitor", "prompt"),
])  # fmt: skip
def test_rule_is_set_for_one_program_or_all(daemon: Daemon, words: str, allow: Any) -> None:
    said(*words.split())
    said(*words.split(), "--guest", "a b", "--program", "flatpak:*")
    rule = {"what": "monitor", "program": "", "allow": allow}
    assert daemon.asked == [
        ("POST /api/v1/guests/default/grants", rule),
        ("POST /api/v1/guests/a%20b/grants", rule | {"program": "flatpak:*"}),
    ]


@pytest.mark.parametrize(("words", "path", "body"), [
    ("grant request/12", "request%2F12", {"allow": True, "always": False}),
    ("grant 12 --always", "12", {"allow": True, "always": True}),
    ("deny request/12", "request%2F12", {"allow": False, "always": False}),
    ("deny 12 --always", "12", {"allow": False, "always": True}),
])  # fmt: skip
def test_request_is_answered_once_or_always(daemon: Daemon, words: str, path: str, body: dict[str, bool]) -> None:
    said(*words.split())
    assert daemon.asked == [(f"POST /api/v1/requests/{path}", body)]


RULES = [
    {"guest": "a", "program": "*", "what": "connect", "allow": True},
    {"guest": "a", "program": "firefox", "what": "monitor", "allow": False},
    {"guest": "b", "program": "flatpak:x", "what": "camera", "allow": "prompt"},
]
REQUEST = {
    "id": "request/3",
    "program": "tool",
    "name": "it's\x1b",
    "pid": 7,
    "uid": 1000,
    "guest": "a",
    "what": "camera",
}


def test_rules_and_requests_are_printed_as_sentences(daemon: Daemon) -> None:
    daemon.answers |= {"GET /api/v1/grants": RULES, "GET /api/v1/requests": [REQUEST]}
    assert said("grants").splitlines() == [
        "guest a: any other program may connect",
        "guest a: firefox may not record the monitor",
        "guest b: flatpak:x has to ask to record the camera",
        "request/3: tool ('it's\\x1b'), process 7 of user 1000, asks guest a to record the camera",
    ]
    assert json.loads(said("grants", "--json")) == {"rules": RULES, "requests": [REQUEST]}
    daemon.answers["GET /api/v1/requests"] = []
    assert "no rules" not in said("grants")
    daemon.answers["GET /api/v1/grants"] = []
    assert "no rules and no requests" in said("grants")
    assert json.loads(said("grants", "--json")) == {"rules": [], "requests": []}
    assert "(" not in grants._line(REQUEST | {"name": ""})


def test_pending_requests_are_prompted_as_they_arrive(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, called, watched = iter("yanv"), list[Any](), list[Any]()

    class Bus:
        async def watch(self, kinds: list[str]) -> AsyncIterator[Any]:
            watched.append(kinds)
            for number in range(7):
                what = "removed" if number == 1 else "added"
                props = None if number == 2 else SimpleNamespace(key=f"request/{number}", props=REQUEST)
                yield SimpleNamespace(what=what, object=props)

        async def call(self, method: str, **args: Any) -> None:
            called.append((method, *args.values()))
            if args["request"] == "request/3":
                raise GraphError("it was answered")

    @asynccontextmanager
    async def connect(name: str) -> AsyncIterator[Bus]:
        assert name == "millrace prompts"
        yield Bus()

    async def asked() -> str:
        return next(words, "")

    monkeypatch.setattr("millrace.client.bus.connect", connect)
    monkeypatch.setattr(grants, "_asked", asked)
    asyncio.run(grants._answer())
    assert watched == [["request"]]
    assert called == [("decide", "request/0", True, False), ("decide", "request/3", True, True),
                      ("decide", "request/4", False, False), ("decide", "request/5", False, True)]  # fmt: skip
    told = capsys.readouterr()
    assert told.out.count("request/3: tool") == 5 and "it was answered" in told.err, (
        "a skipped request stays pending for others"
    )


@pytest.mark.parametrize(("typed", "letter"), [
    ("y\n", "y"), (" Always\n", "a"), ("NO", "n"), ("v\n", "v"), ("\n", ""), ("", ""), ("x\n", ""), ("yanv\n", "y"),
])  # fmt: skip
def test_one_letter_answers_and_any_other_leaves_request_pending(
    monkeypatch: pytest.MonkeyPatch, typed: str, letter: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert asyncio.run(grants._asked()) == letter


# -- objects -------------------------------------------------------------------------------------


def node(kind: str, number: int, **more: Any) -> dict[str, Any]:
    return {
        "id": f"{kind}/{number}",
        "name": f"{kind}{number}",
        "state": "running",
        "volume": 100,
        "mute": False,
    } | more


GUEST = {
    "name": "a", "state": "running", "rate": 48_000, "quantum_ms": 20.0, "clients": 1, "late_cycles": 2,
    "sinks": [node("sink", 0, default=True), node("sink", 1, default=False, volume=[50, 60], mute=True)],
    "sources": [node("source", 2, state="idle"), node("source", 3, state="idle", volume=50)],
    "doors": [
        {"id": "door/4", "machine": "", "door": "spice+tls://h:1", "state": "waiting", "recording": False,
         "error": "refused", "hint": "hint"},
        {"id": "door/5", "machine": "win11", "door": "qmp:/q", "state": "attached", "recording": True, "error": "",
         "hint": "no sound card"},
    ],
    "streams": [
        node("stream", 6, application="mpv", sink="sink/0", linked_to=["sink/0", "sink/1"], format="s16le",
             rate=44_100, channels=2, fill_ms=12.5, drift_ppm=3.4, underruns=1),
        node("stream", 7, application="", sink="sink/0", underruns=0),
    ],
    "recorders": [node("recorder", 8, sink="sink/0")],
    "listeners": [
        {"id": "listener/9", "name": "desk", "sink": "sink/0", "settings": {"codec": "opus", "bitrate": 128_000},
         "bitrate": 130_400, "latency_ms": 45.6, "fill_ms": 20.1, "microphone": {"state": "sending"}, "locked": True,
         "drift_ppm": -12.6, "underruns": 2, "lost": 3, "skipped": 0, "dropped_packets": 4},
        {"id": "listener/10", "name": "file", "sink": "sink/0", "settings": {"codec": "s16"}, "bitrate": 0,
         "latency_ms": None, "fill_ms": 0, "underruns": 0, "lost": 0, "skipped": 5, "dropped_packets": 0},
    ],
    "screens": [
        {"id": "screen/11", "name": "VGA", "door": "door/5", "width": 1920, "height": 1080, "state": "running",
         "viewers": 2, "keyboard": "viewer/12", "fps": 29.7},
        {"id": "screen/14", "name": "head 2", "door": "door/5", "width": 0, "height": 0, "state": "blank",
         "viewers": 0, "keyboard": None, "fps": 0.0},
    ],
    "viewers": [
        {"id": "viewer/12", "name": "desk", "screen": "screen/11", "bitrate": 2_345_000, "fps": 29.6, "keyboard": True,
         "settings": {"picture": "auto", "fps": 30, "scale": "1"}, "latency_ms": 41.4, "skew_ms": -3.2,
         "hidden": False, "skipped_fps": 12.4},
        {"id": "viewer/13", "name": "wall", "screen": None, "bitrate": 0, "fps": 0.0, "keyboard": False,
         "settings": {"picture": "2M", "fps": 5, "scale": "0.25"}, "latency_ms": None, "skew_ms": None, "hidden": True,
         "skipped_fps": 0.0},
    ],
}  # fmt: skip


@pytest.mark.parametrize("recording", [False, True])
def test_ls_and_top_call_a_sink_that_runs_on_silence_unused(daemon: Daemon, recording: bool) -> None:
    sinks = [node("sink", 0, default=True, linked_to=[]), node("sink", 1, default=False, linked_to=["sink/2"])]
    sinks += [node("sink", 2, default=False, linked_to=[]), node("sink", 3, default=False, linked_to=[])]
    microphone = node("source", 4, name="microphone", peak=0.5)
    sinks = [sink | {"peak": 0.5} for sink in sinks]
    doors = [{**GUEST["doors"][1], "recording": recording}]
    guest = GUEST | {"streams": [], "listeners": [], "sinks": sinks, "sources": [microphone], "doors": doors}
    guest |= {"screens": [], "viewers": []}
    daemon.answers["GET /api/v1/state"] = {"guests": [guest], "policy": {"name": "p"}}
    states = {words[0]: words[2] for line in said("ls").splitlines() if len(words := line.strip(" *").split()) > 2}
    assert [states[f"sink/{n}"] for n in range(4)] == ["running", "unused", "running", "unused"]
    assert states.get("source/4") == ("running" if recording else None)
    drawn = [line.plain.split()[0] for line in picture({"guests": [guest]}, [], 80, 24)]
    assert drawn == ["what", "guest", "sink/0", "sink/2", *(["source/4"] if recording else [])]


def test_ls_prints_one_line_per_object(daemon: Daemon) -> None:
    daemon.answers["GET /api/v1/state"] = {"guests": [GUEST], "policy": {"name": "p"}}
    assert said("ls").splitlines() == [
        "guest a  running, 48000 Hz, quantum 20.0 ms, 1 PulseAudio client, 2 late cycles",
        " *sink/0       sink0            running   100%",
        "  sink/1       sink1            running   50%/60% muted",
        "  source/3     source3          idle      50%",
        "  door/4       SPICE            waiting   spice+tls://h:1, refused",
        "  door/5       win11            attached  qmp:/q, records, no sound card",
        "  stream/6     mpv              running   100%  → sink/0 sink/1, 'stream6', s16le 44100 Hz 2 ch, fill 12.5 ms,"
        " +3 ppm, 1 underrun",
        "  stream/7     stream7          running   100%  → sink/0",
        "  recorder/8   recorder8        of sink/0",
        "  listener/9   desk             ← sink/0, opus 128k, 130 kb/s sent, latency 45.6 ms, fill 20.1 ms, mic"
        " sending, -13 ppm, 2 underruns, 3 lost, 4 dropped",
        "  listener/10  file             ← sink/0, s16, 0 kb/s sent, latency -, 5 skipped",
        "  screen/11    VGA              running   1920×1080, of door/5, 2 viewers, 30/s, keyboard viewer/12",
        "  screen/14    head 2           blank     of door/5",
        "  viewer/12    desk             ← screen/11, picture auto, 2345 kb/s sent, 30/s, 12/s skipped, latency 41 ms,"
        " -3 ms to its sound, keyboard",
        "  viewer/13    wall             ← no screen, picture 2M, scale 0.25, 0 kb/s sent, 0/s, hidden",
    ]
    assert json.loads(said("ls", "--json"))["guests"] == [GUEST]


def test_top_shows_screens_that_are_watched_and_viewers() -> None:
    nodes = {key: [] for key in ("sinks", "sources", "streams", "listeners")}
    lines = [line.plain for line in picture({"guests": [{**GUEST, **nodes}]}, [], 120, 24)]
    assert [line.split() for line in lines[2:]] == [
        ["screen/11", "VGA", "1920×1080", "30/s"],
        ["viewer/12", "desk", "screen/11", "30/s", "41.4", "ms", "-3", "ms", "2345", "12/s", "skipped"],
        ["viewer/13", "wall", "hidden", "0/s", "-", "0"],
    ]
    assert len(lines) == 5, "a screen that nobody watches is only in the list"


def test_ls_prints_daemon_warnings_last(daemon: Daemon) -> None:
    bare = {**GUEST, "late_cycles": 0, "clients": 2} | {
        key: [] for key in ("sinks", "streams", "recorders", "listeners", "screens", "viewers")
    }
    bare = {key: value for key, value in bare.items() if key not in ("sources", "doors")}
    daemon.answers["GET /api/v1/state"] = {"guests": [bare]}
    head = "guest a  running, 48000 Hz, quantum 20.0 ms, 2 PulseAudio clients"
    assert said("ls") == f"{head}\n", "an older daemon, or a caller without that right"
    daemon.answers["GET /api/v1/state"] = {"guests": [bare], "trouble": "disk full", "requests": 2, "policy": None}
    lines = said("ls").splitlines()
    assert lines[0] == head and lines[1] == "changes can't be saved: disk full"
    assert lines[2].startswith("pending: 2 requests; `millrace grants`")
    assert lines[3].startswith("no session manager is running: ") and len(lines) == 4


@pytest.mark.parametrize(("address", "kind"), [
    ("qmp:/q", "QEMU"), ("dbus:unix:path=/b", "QEMU"), ("p2p", "QEMU"), ("vnc+unix:///v", "VNC"), ("new+x://y", "new"),
])  # fmt: skip
def test_machine_without_name_is_shown_by_kind(address: str, kind: str) -> None:
    assert ls._kind_of(address) == kind


# -- latency and explain ------------------------------------------------------------------------

STAGES = [{"ms": 20.0, "stage": "mix", "why": "a quantum"}, {"ms": 5.004, "stage": "codec", "why": "opus"}]
WAY = {"listener": "listener/9", "name": "desk", "sum_ms": 61.239, "reported_ms": 60.5, "stages": STAGES}


def test_latency_is_printed_stage_by_stage(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["GET /api/v1/latency?target=stream%2F7"] = {"stream": "stream/7", "listeners": [WAY]}
    assert said("latency", "stream/7").splitlines() == [
        "stream/7 → listener/9 desk",
        "     20.00 ms  mix                      a quantum",
        "      5.00 ms  codec                    opus",
        "     61.24 ms  in total; 60.50 ms by the listener's clock",
    ]
    assert json.loads(said("latency", "stream/7", "--json"))["listeners"] == [WAY]
    stages.show("stream/7", WAY | {"reported_ms": None, "stages": []})
    assert "to the mix; beyond that the listener reports no latency" in capsys.readouterr().out
    daemon.answers["GET /api/v1/latency?target=stream%2F7"] = {"stream": "stream/7", "listeners": []}
    assert said("latency", "stream/7") == "stream/7: nobody hears it\n"
    daemon.answers["GET /api/v1/latency?target=screen%2F3"] = {"stream": "screen/3", "listeners": []}
    assert said("latency", "screen/3").startswith("screen/3: no viewer has drawn a picture")
    stages.show("screen/3", WAY | {"listener": "viewer/5"})
    assert "60.50 ms by the viewer's clock" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"name a stream, screen or viewer .* or use --probe"):
        said("latency")


def test_probe_connects_to_listeners_address(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.answers["GET /api/v1/state"] = {"listen": "127.0.0.1:9"}
    measured: list[Any] = []

    async def measure(*args: Any) -> None:
        measured.append(args)

    monkeypatch.setattr("millrace.cli.probe.measure", measure)
    monkeypatch.setattr("millrace.cli.run.run", asyncio.run)
    latency.latency(None, probe=True, guest="a", as_json=True)
    assert measured == [("a", "127.0.0.1:9", True)]


def test_explain_prints_stages_in_order_and_marks_changes(daemon: Daemon) -> None:
    steps = [
        {"stage": "client", "text": "s16le", "changes": False},
        {"stage": "mix", "text": "6 to 2", "changes": True},
    ]
    told = {"target": "stream/7", "guest": "a", "steps": steps}
    daemon.answers["GET /api/v1/explain?target=stream%2F7"] = told
    assert said("explain", "stream/7").splitlines() == [
        "stream/7 of guest a", "    client         s16le", "  * mix            6 to 2",
    ]  # fmt: skip
    assert json.loads(said("explain", "stream/7", "--json")) == told


def test_page_command_prints_a_new_link(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["POST /api/v1/page-links"] = {"link": "http://127.0.0.1:8642/#in=x"}
    page.page()
    assert capsys.readouterr().out == "http://127.0.0.1:8642/#in=x\n"
    assert daemon.asked == [("POST /api/v1/page-links", None)]
