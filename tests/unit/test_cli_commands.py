"""The requests that commands make, and what they print about the answers. The daemon is a table of answers."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from millrace.cli import api, grants, latency, ls, page, stages, token
from millrace.cli.columns import cells
from millrace.cli.look import picture
from millrace.errors import ConfigError, GraphError, OutputLost
from tests.answering import Daemon, said
from tests.places import fill, small_disk


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    made = Daemon()
    monkeypatch.setattr(api, "call", made.call)
    return made


# -- machines ------------------------------------------------------------------------------------


def test_sink_is_removed_by_name_or_as_listed(daemon: Daemon) -> None:
    daemon.answers["DELETE /api/v1/guests/vm%20a/sinks/music"] = {}
    for name in ("music", "sink/music"):
        assert said("sink", "remove", name, "--guest", "vm a") == ""


def test_what_was_changed_is_printed_with_its_guest(daemon: Daemon) -> None:
    for path in ("POST /api/v1/set", "POST /api/v1/move", "POST /api/v1/links", "DELETE /api/v1/links"):
        daemon.answers[path] = {"ok": True, "target": "stream/7", "guest": "alice"}
    for words, told in [
        ("set stream/7 volume=50% mute=on", "volume=50% mute=on"), ("move stream/7 sink/a", "moved to sink/a"),
        ("link stream/7 sink/a", "linked to sink/a"), ("unlink stream/7 sink/a", "no longer linked to sink/a"),
    ]:  # fmt: skip
        assert said(*words.split()) == f"guest alice, stream/7: {told}\n"


# -- rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "allow"), [
    ("grant monitor", True), ("grant monitor --forget", None), ("revoke monitor", False), ("prompt monitor", "prompt"),
    ("revoke monitor --forget", None), ("prompt monitor --forget", None),
])  # fmt: skip
def test_rule_is_set_for_one_program_or_all(daemon: Daemon, words: str, allow: Any) -> None:
    said(*words.split())
    said(*words.split(), "--guest", "a b", "--program", "flatpak:*")
    rule = {"what": "monitor", "allow": allow}
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


def test_name_that_is_empty_is_no_rule_for_all(daemon: Daemon) -> None:
    """As in --program "$X", if X is not set."""
    said("revoke", "connect", "--program", "")
    assert daemon.asked[0][1]["program"] == ""


def test_what_is_told_of_a_rule_is_printed(daemon: Daemon) -> None:
    daemon.answers["POST /api/v1/guests/default/grants"] = {"ok": True, "program": "x", "note": "stored as x"}
    assert said("revoke", "monitor", "--program", "/usr/bin/x") == "stored as x\n"


@pytest.mark.parametrize(("words", "why"), [
    ("revoke request/3", "'request/3' is a request; `millrace deny` refuses it"),
    ("deny connect", "'connect' is no request/N; `millrace revoke` makes a rule that denies"),
    ("grant microphone --always", "--always is for a pending request/N"),
    ("grant request/3 --forget", "'request/3' is a request"), ("grant 3 --program x", "'3' is a request"),
    ("grant request/3 --guest a", "'request/3' is a request"),
])  # fmt: skip
def test_request_is_not_taken_for_a_rule_nor_a_rule_for_a_request(daemon: Daemon, words: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        said(*words.split())
    assert not daemon.asked


RULES = [
    {"guest": "a", "program": "*", "what": "connect", "allow": True},
    {"guest": "a", "program": "firefox", "what": "monitor", "allow": False, "note": "'x' matches none"},
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
        "guest a: firefox may not record the monitor ('x' matches none)",
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
        "  viewer/13    wall             ← no screen, picture 2M, scale 0.25, fps 5, 0 kb/s sent, 0/s, hidden",
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


def test_top_fits_long_names_of_guests_and_machines() -> None:
    nodes = {key: [] for key in ("sinks", "sources", "streams", "listeners")}
    long = {**GUEST, **nodes, "name": "the-desktop-of-somebody-with-a-long-name", "late_cycles": 0, "viewers": []}
    long["screens"] = [{**GUEST["screens"][0], "name": "a screen with a name that has no end at all, or nearly none"}]
    lines = [line.plain for line in picture({"guests": [long]}, [], 80, 24)]
    assert len(lines) == 3 and all(cells(line) <= 80 for line in lines)
    assert lines[1].startswith("guest the") and "…" in lines[1]


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
    with pytest.raises(ConfigError, match=r"name a stream, listener, screen or viewer .* or use --probe"):
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
    said = capsys.readouterr()
    assert said.out == "http://127.0.0.1:8642/#in=x\n", "for programs"
    assert "before the daemon ends" in said.err
    assert daemon.asked == [("POST /api/v1/page-links", None)]


# -- one guest, and secrets in files ---------------------------------------------------------------


def test_ls_and_top_show_one_guest_if_asked(daemon: Daemon) -> None:
    state: dict[str, Any] = {"guests": []}
    daemon.answers |= {f"GET /api/v1/{what}": state if what == "state" else [] for what in ("state", "incidents")}
    daemon.answers |= {f"{path}?guest=a+b": answer for path, answer in list(daemon.answers.items())}
    said("ls")
    said("ls", "a b")
    said("top", "--once")
    said("top", "--once", "--guest", "a b")
    assert [path for path, _ in daemon.asked] == [
        "GET /api/v1/state", "GET /api/v1/state?guest=a+b",
        "GET /api/v1/state", "GET /api/v1/incidents", "GET /api/v1/state?guest=a+b", "GET /api/v1/incidents?guest=a+b",
    ]  # fmt: skip


def test_secret_goes_to_a_file_that_nobody_else_can_read(daemon: Daemon, tmp_path: Path) -> None:
    made = {"id": "token/3", "may": ["hear"], "guests": ["a"], "expires": None, "token": "mr_first"}
    daemon.answers |= {"POST /api/v1/tokens": made, "POST /api/v1/tokens/3/rotate": {"token": "mr_second"}}
    path, created = tmp_path / "a.token", list[int]()
    before = os.umask(0)
    try:
        assert "mr_first" not in said("token", "new", "--to", str(path))
        created.append(path.stat().st_mode & 0o777)
        assert path.read_text() == "mr_first\n"
        path.chmod(0o644)
        assert "mr_second" not in said("token", "rotate", "token/3", "--to", str(path))
        created.append(path.stat().st_mode & 0o777)
    finally:
        os.umask(before)
    assert created == [0o600, 0o600] and path.read_text() == "mr_second\n"
    asked = len(daemon.asked)
    with pytest.raises(ConfigError, match="already exists; --overwrite replaces it"):
        token.new(to=path)
    assert len(daemon.asked) == asked, "no token that nobody has seen"


@pytest.mark.parametrize("words", [["token", "rotate", "token/3"], ["token", "new"]], ids=["rotate", "new"])
def test_file_for_a_secret_is_opened_before_the_secret_is_made(
    words: list[str], daemon: Daemon, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk") as mounted:
        fill(tmp_path / "disk")
        full = [(tmp_path / "disk" / "a", "No space left")] if mounted else []
        for to, why in [(tmp_path / "typo" / "a", "No such file"), (tmp_path, "Is a directory"), *full]:
            with pytest.raises(OutputLost, match=f"{to} can't be written: {why}[^;]*$"):
                said(*words, "--to", str(to))
        assert daemon.asked == [] and not (tmp_path / "disk" / "a").exists()


def test_secret_that_can_not_be_written_after_all_is_told(daemon: Daemon) -> None:
    made = {"id": "token/3", "may": ["hear"], "guests": ["a"], "expires": None, "token": "mr_first"}
    daemon.answers |= {"POST /api/v1/tokens": made, "POST /api/v1/tokens/3/rotate": {"token": "mr_second"}}
    with pytest.raises(OutputLost, match="No space left on device; the old secret is no longer valid: rotate"):
        said("token", "rotate", "token/3", "--to", "/dev/full")
    with pytest.raises(OutputLost, match="No space left on device; the token was revoked"):
        said("token", "new", "--to", "/dev/full")
    assert daemon.asked[-1] == ("DELETE /api/v1/tokens/3", None)
