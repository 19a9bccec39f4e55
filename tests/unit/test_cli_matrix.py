"""millrace matrix and latency --probe: machines, their cells, and clicks that are played and heard."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer

from millrace.cli import matrix, probe
from millrace.cli.probe import CLICKS, EVERY_S, LEVEL, RATE, SETTLE_S, HearingOutput
from millrace.errors import ConfigError
from millrace.lab.cells import TONES_HZ, Cell, Verdict
from millrace.units import NS_PER_MS, NS_PER_S
from millrace.wire.peer.messages import Report

# -- machines ------------------------------------------------------------------------------------


def test_cells_are_selected_and_grouped_by_card() -> None:
    def names(*choice: Any) -> list[str]:
        return [f"{cell.card}/{cell.door}/{cell.direction}" for cell in matrix.chosen_cells(*choice)]

    assert names("hda,usb", "vnc,dbus", "all", False) == [
        f"{card}/{door}/{way}" for card in ("hda", "usb") for way in ("out", "in") for door in ("vnc", "dbus")
    ]
    assert names("hda,usb", "pa", "in", True) == ["hda/wav/out", "hda/pa/in", "usb/wav/out", "usb/pa/in"]
    assert len(names("all", "all", "all", False)) == 48
    for wrong in (("x", "all", "all"), ("all", "x", "all"), ("all", "all", "x")):
        with pytest.raises(ConfigError, match="'x': there are"):
            names(*wrong, False)


def test_guest_is_built_once_and_failures_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[list[str]] = []
    result = SimpleNamespace(returncode=1, stderr="one\nE: no lists\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", lambda command, **options: built.append(command) or result)
    with pytest.raises(ConfigError, match=r"can't be built: E: no lists; it needs Debian's apt-get"):
        matrix.guest_images()
    result.stderr = ""
    with pytest.raises(ConfigError, match="no reason given"):
        matrix.guest_images()
    result.returncode = 0
    base = tmp_path / "millrace" / "guest"
    (base / "out").mkdir()
    assert matrix.guest_images() == base / "out"
    assert built[-1][0] == sys.executable, "the system's own Python may lack what the scripts need"
    assert built[-1][2:] == ["--out", str(base / "out"), "--work", str(base / "work")]
    assert matrix.guest_images() == base / "out" and len(built) == 3
    (base / "out" / "built-by").write_text("other scripts")
    assert matrix.guest_images() == base / "out" and len(built) == 4, "of another version of Millrace"


def test_cell_keeps_recordings_only_in_keep_folder_and_cleans_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[Path] = []

    class Run:
        def __init__(self, cell: Cell, d: Path, verdict: Verdict) -> None:
            self.d, self.verdict = d, verdict

        def run(self, images: Path, seconds: int, binary: str) -> None:
            assert (images, seconds, binary) == (Path("/i"), 3, "qemu")
            (self.d / "pcm.wav").touch()
            (self.d / "millrace").mkdir()
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(self.d / "qmp"))
            self.verdict.samples["latency"] = [5.0]
            if len(stopped) == 1:
                raise KeyboardInterrupt

        def stop(self) -> None:
            stopped.append(self.d)

    monkeypatch.setattr(matrix, "CellRun", Run)
    keep = tmp_path / "keep"
    kept = keep / "hda-dbus-out"
    kept.mkdir(parents=True)
    (kept / "old").touch()
    cell = Cell("hda", "dbus", "out")
    verdict = matrix.run_cell(cell, Path("/i"), 3, "qemu", keep)
    assert verdict.latency_ms == 5.0 and [one.name for one in kept.iterdir()] == ["pcm.wav"]
    with pytest.raises(KeyboardInterrupt):
        matrix.run_cell(cell, Path("/i"), 3, "qemu", None)
    assert len(stopped) == 2 and not any(folder.exists() for folder in stopped)
    missing = matrix.run_cell(Cell("usb", "dbus", "in"), Path("/i"), 3, "qemu", keep)
    assert missing.note == "QEMU's usb-audio has no capture" and len(stopped) == 2


def test_matrix_prints_table_or_one_json_line_per_cell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(matrix, "guest_images", lambda: Path("/i"))
    monkeypatch.setattr(matrix, "run_cell", lambda cell, *rest: Verdict(cell.card, cell.door, cell.direction, lost=7))
    matrix.matrix("hda", "dbus,vnc", "out", 5, False, "qemu", None, False)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["card", "door", "dir"] and [line.split()[1] for line in lines] == ["dbus", "vnc"]
    matrix.matrix("hda", "dbus,vnc", "out", 5, False, "qemu", None, True)
    assert [json.loads(line)["lost"] for line in capsys.readouterr().out.splitlines()] == [7, 7]


class Process:
    """A started process, which ends on request or has to be killed."""

    def __init__(self, command: list[str], did: list[str], said: bytes = b"", deaf: bool = False) -> None:
        self.command, self._did, self._deaf = command, did, deaf
        self.stdout = io.BytesIO(said)
        self.code: int | None = None
        self.name = "qemu" if "run-guest" in command[1] else Path(command[0]).name
        self.name = next((word for word in ("serve", "listen") if word in command), self.name)

    def poll(self) -> int | None:
        return self.code

    def terminate(self) -> None:
        self._did.append(f"end {self.name}")
        self.code = None if self._deaf else 0

    def kill(self) -> None:
        self._did.append(f"kill {self.name}")
        self.code = -9

    def wait(self, timeout: float | None = None) -> int:
        if self.code is None:
            raise subprocess.TimeoutExpired(self.command, timeout or 0)
        return self.code


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The processes in the order in which they were started, and what was done to them."""
    made = SimpleNamespace(processes=[], did=[], environment=None, version="QEMU emulator version 8.2.1", ready=True,
                           analysed=[], deaf=False)  # fmt: skip

    def popen(command: list[str], env: dict[str, str], stdout: Any, stderr: Any) -> Process:
        said = b"starting\nready; go on\n" if made.ready else b"no\n"
        assert command[0] in (sys.executable, "dbus-daemon"), "the system's own Python may lack what the scripts need"
        process = Process(command, made.did, said if "serve" in command else b"", made.deaf and "listen" in command)
        made.processes.append(process)
        made.environment = env
        if process.name == "qemu":
            stdout.write(b"RIG bye\n")
            process.code = 0
        return process

    def run(command: list[str], **options: Any) -> Any:
        if command[1:] == ["--version"]:
            return SimpleNamespace(stdout=made.version)
        assert command[0] == sys.executable
        made.analysed.append(command[2:])
        sine = {"seconds": 3.0, "channels": [{"freq": 997.0, "ppm": 0.0, "residual_dB": -80.0}], "first_gaps": [],
                "gaps": 3, "first_events": []}  # fmt: skip
        return SimpleNamespace(stdout=json.dumps({"sine": sine, "file": {"frames": 144_000, "rate": 48_000}}))

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("PULSE_SERVER", "unix:/elsewhere")
    monkeypatch.setenv("MILLRACE_TOKEN", "secret")
    yield made


def ran_cell(tmp_path: Path, cell: Cell) -> Verdict:
    verdict = Verdict(cell.card, cell.door, cell.direction)
    matrix.CellRun(cell, tmp_path, verdict).run(Path("/images"), 3, "qemu-system-x86_64")
    return verdict


def test_machine_plays_into_own_daemon_and_is_judged(started: SimpleNamespace, tmp_path: Path) -> None:
    verdict = ran_cell(tmp_path, Cell("hda", "dbus", "out"))
    assert [one.name for one in started.processes] == ["serve", "listen", "listen", "listen", "qemu"]
    serve, pcm, opus, null, _ = (one.command for one in started.processes)
    assert (tmp_path / "c.toml").read_text() == (
        f'[daemon]\nlisten = "127.0.0.1:0"\n[guest.default]\ndoors = ["qmp:{tmp_path}/qmp"]\n'
    )
    assert serve[-2:] == ["--config", f"{tmp_path}/c.toml"]
    assert serve[1:4] == ["-m", "millrace.cli.main", "serve"]
    assert pcm[1:] == ["-m", "millrace.cli.main", "listen", "default", "-q", "--overwrite", "--to",
                       f"wav:{tmp_path}/pcm.wav", "--set", "codec=s16"]  # fmt: skip
    assert opus[-2:] == ["--to", f"wav:{tmp_path}/opus.wav"] and null[-2:] == ["--to", "null:"]
    environment = started.environment
    assert "PULSE_SERVER" not in environment and "MILLRACE_TOKEN" not in environment
    homes = ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME")
    assert {environment[name] for name in homes} == {str(tmp_path)}
    assert started.did == ["end listen"] * 3 + ["end serve"], "in reverse order"
    assert [one[0] for one in started.analysed] == [f"{tmp_path}/pcm.wav", f"{tmp_path}/opus.wav"]
    assert (verdict.note, verdict.gaps, verdict.gaps_opus, verdict.hz) == ("", 0, 3, 997.0)


def test_recording_machine_gets_tones_and_its_recording_is_judged(started: SimpleNamespace, tmp_path: Path) -> None:
    started.deaf = True
    ran_cell(tmp_path, Cell("hda", "spice", "in"))
    assert [one.name for one in started.processes] == ["serve", "listen", "qemu"]
    tones = ",".join(map(str, TONES_HZ))
    assert started.processes[1].command[-4:] == ["--to", "null:", "--mic", f"tone:{tones}"]
    assert started.analysed == [[f"{tmp_path}/mic.raw", "--kind", "sine", "--json", "--raw", "48000,2,s16"]]
    assert started.did == ["end listen", "kill listen", "end serve"], "a process that ignores SIGTERM is killed"


def test_qemu_alone_needs_no_daemon_and_old_qemu_needs_bus(started: SimpleNamespace, tmp_path: Path) -> None:
    ran_cell(tmp_path, Cell("pcspk", "wav", "out"))
    assert [one.name for one in started.processes] == ["qemu"] and started.analysed[0][0] == f"{tmp_path}/floor.wav"
    started.processes.clear()
    started.version = "QEMU emulator version 7.2.5"
    ran_cell(tmp_path, Cell("hda", "dbus", "out"))
    assert started.processes[0].command == [
        "dbus-daemon", "--session", "--nofork", f"--address=unix:path={tmp_path}/bus",
    ]  # fmt: skip
    assert "dbus:unix:path=" in (tmp_path / "c.toml").read_text()
    started.version = "what?"
    started.processes.clear()
    ran_cell(tmp_path, Cell("hda", "dbus", "out"))
    assert started.processes[0].name == "serve"


def test_running_machine_is_sampled_periodically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict, now, pauses = Verdict("hda", "dbus", "out"), [0.0], list[float]()
    run = matrix.CellRun(Cell("hda", "dbus", "out"), tmp_path, verdict)

    class Machine(Process):
        def wait(self, timeout: float | None = None) -> int:
            assert timeout is not None
            pauses.append(timeout)
            now[0] += timeout
            self.code = 0 if len(pauses) == ends_at else None
            return super().wait(timeout)

    seen: list[Any] = []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(run, "_state", lambda: {"guests": ["a guest"]} if len(pauses) > 1 else {})
    monkeypatch.setattr(Verdict, "take_state", lambda self, guest: seen.append(guest))
    for ends_at, seconds, looks in ((4, 60, [12.0] * 4), (3, 3, [4.0] * 3), (-1, 3, [4.0] * 33)):
        pauses.clear()
        seen.clear()
        now[0] = 0.0
        machine: Any = Machine(["python", "run-guest"], [])
        run._watch(machine, seconds)
        assert pauses == looks, "at most 120 s and three times the sound: a hanging guest is given up"
        assert seen == ["a guest"] * (len(looks) - 1 - (ends_at > 0))


def test_daemon_that_does_not_start_is_reported(started: SimpleNamespace, tmp_path: Path) -> None:
    started.ready = False
    with pytest.raises(ConfigError, match="the daemon did not start"):
        ran_cell(tmp_path, Cell("hda", "dbus", "out"))


def test_daemon_state_is_sampled_from_outside(tmp_path: Path) -> None:
    run = matrix.CellRun(Cell("hda", "dbus", "out"), tmp_path, Verdict("hda", "dbus", "out"))
    assert run._state() == {}
    (tmp_path / "millrace").mkdir()
    ok = b"HTTP/1.1 200 OK\r\n"
    answers = [ok + b'\r\n{"guests": []}', ok + b"\r\n{", b"what?\r\n", ok + b"Content-Length: 9\r\n\r\n{}"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "millrace" / "api.sock"))
        listening.listen()

        def serve() -> None:
            for answer in answers:
                with listening.accept()[0] as line:
                    assert line.recv(65536).startswith(b"GET /api/v1/state ")
                    line.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert [run._state() for _ in answers] == [{"guests": []}, {}, {}, {}], "an invalid answer is ignored"
        thread.join(10)
    assert run._state() == {}, "the daemon no longer listens"


@pytest.mark.parametrize(("text", "gaps"), [
    ('{"sine": {"gaps": 4}}', 4), ('{"sine": {}}', None), ("{}", None), ("", None), ("[", None),
])  # fmt: skip
def test_gaps_are_none_where_nothing_was_analysed(text: str, gaps: int | None) -> None:
    assert matrix._gaps(text) == gaps


# -- the probe -----------------------------------------------------------------------------------


def test_click_is_detected_once_at_exact_frame() -> None:
    output = HearingOutput()
    quiet, click = np.full((240, 2), 1e-3, np.float32), np.zeros((240, 2), np.float32)
    click[96, 0] = -LEVEL
    for number, block in enumerate((quiet, click, click, quiet, click, quiet)):
        output.due_ns = NS_PER_S + number * 5 * NS_PER_MS
        assert output.take(block)
    first = HearingOutput()
    first.due_ns = NS_PER_S
    assert first.take(click) and len(first.heard_ns) == 1
    # Two loud periods in a row are one click. A period is heard one period after it was requested.
    assert output.heard_ns == [NS_PER_S + (5 + 5 + 2) * NS_PER_MS, NS_PER_S + (20 + 5 + 2) * NS_PER_MS]


class Played:
    """A stream and a listener's output that hears each click 30 ms later, on a simulated clock."""

    key, room = "stream/7", RATE

    def __init__(self, monkeypatch: pytest.MonkeyPatch, deaf: bool = False) -> None:
        self.now_s, self.output = 100.0, HearingOutput()
        self.clicks: list[float] = []
        self.frames = 0
        self._deaf = deaf
        clock = SimpleNamespace(monotonic=lambda: self.now_s, monotonic_ns=lambda: round(self.now_s * NS_PER_S))
        monkeypatch.setattr(probe, "time", clock)

    async def write(self, block: Any) -> None:
        assert block.shape == (RATE // 100, 2) and block.dtype == np.float32
        self.frames += len(block)
        if np.abs(block).max() > 0.01:
            assert (np.abs(block) > 0.01).sum() == 2 and block[0].tolist() == [LEVEL, LEVEL]
            self.clicks.append(self.now_s)
            if not self._deaf:
                self.output.heard_ns.append(round((self.now_s + 0.03) * NS_PER_S))
        self.now_s += 0.01

    async def call(self, method: str, target: str) -> Any:
        assert (method, target) == ("latency", "stream/7")
        return {"listeners": [{"name": "other", "sum_ms": 1.0}, {"name": "probe", "sum_ms": float(len(self.clicks))}]}


def test_clicks_are_paced_after_settling_with_a_breakdown_each(monkeypatch: pytest.MonkeyPatch) -> None:
    played, told = Played(monkeypatch), list[str]()
    sent, ways, before = asyncio.run(
        probe._clicks(played, played, played.output, told.append, lambda: len(played.clicks) + 3)
    )
    assert before == 3, "underruns while it settles are left out"
    assert len(played.clicks) == len(sent) == len(told) == CLICKS
    assert [way["sum_ms"] for way in ways] == [float(n) for n in range(CLICKS)], "of this listener, at that time"
    assert played.clicks[0] - 100.0 == pytest.approx(SETTLE_S, abs=0.02)
    assert np.diff(played.clicks) == pytest.approx(EVERY_S, abs=0.02)


def test_unheard_clicks_end_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(monkeypatch, deaf=True)
    sent, _, _ = asyncio.run(probe._clicks(played, played, played.output, lambda now: None, lambda: 0))
    assert len(sent) == CLICKS and played.now_s - 100.0 == pytest.approx(SETTLE_S + 2 * CLICKS * EVERY_S, abs=0.1)


def test_probe_listener_hears_clicks_and_closes_with_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    made, did = list[Any](), list[Any]()

    class Listener:
        def __init__(self, url: str, output: HearingOutput, options: Any) -> None:
            made.append((url, options.name, options.settings))
            self.output, self.ended = output, asyncio.Event()

        async def run(self) -> None:
            self.output.heard_ns.append(7)
            await self.ended.wait()
            did.append("listener ends")

        def stop(self) -> None:
            self.ended.set()

        def report(self) -> Report:
            return Report(underruns=5)

    class Bus:
        @asynccontextmanager
        async def play(self, **options: Any) -> AsyncIterator[str]:
            made.append(options)
            yield "the stream"
            did.append("stream ends")

    @asynccontextmanager
    async def connect(name: str) -> AsyncIterator[Bus]:
        yield Bus()
        did.append("bus ends")

    async def clicks(bus: Bus, stream: str, output: HearingOutput, now: Any, underruns: Callable[[], int]) -> Any:
        await asyncio.sleep(0)
        assert stream == "the stream"
        return [5], ["a breakdown"], underruns() - 1

    monkeypatch.setattr(probe, "Listener", Listener)
    monkeypatch.setattr(probe, "connect", connect)
    monkeypatch.setattr(probe, "_clicks", clicks)
    monkeypatch.setattr(probe, "_print", lambda *told: did.append(told))
    asyncio.run(probe.measure("a", "127.0.0.1:9", True))
    assert made == [
        ("ws://127.0.0.1:9/a", "probe", {"codec": "s16"}),
        {"guest": "a", "name": "probe", "rate": RATE, "channels": 2, "latency_ms": 60},
    ]
    assert did == ["stream ends", "bus ends", "listener ends", ("a", [5], [7], ["a breakdown"], 1, True)]


def test_measured_latency_is_printed_beside_breakdown(capsys: pytest.CaptureFixture[str]) -> None:
    way = {"listener": "listener/9", "name": "probe", "reported_ms": 20.0, "stages": []}
    ways = [way | {"sum_ms": ms} for ms in (31, 33)]
    sent, heard = [NS_PER_S, 2 * NS_PER_S], [NS_PER_S + 30 * NS_PER_MS, 2 * NS_PER_S + 34 * NS_PER_MS]
    probe._print("a", sent, heard, ways, 0, as_json=False)
    out = capsys.readouterr().out
    assert out.endswith("2 clicks: measured 32.00 ms, the breakdown says 32.00 ms (medians), +0.00 ms apart\n")
    assert "probe → listener/9 probe" in out
    probe._print("a", sent, heard, [ways[0] | {"sum_ms": 40}] * 2, 0, as_json=False)
    assert "+8.00 ms apart" in capsys.readouterr().out
    probe._print("a", sent, heard, ways, 0, as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "measured_ms": [30.0, 34.0],
        "ledger_ms": [31, 33],
        "ledger": ways[1],
    }
    with pytest.raises(typer.Exit) as ended:
        probe._print("a", sent, [], ways, 0, as_json=True)
    told = capsys.readouterr()
    assert ended.value.exit_code == 1 and told.out == "" and "guest a: no click was heard" in told.err


@pytest.mark.parametrize(
    ("heard", "silent", "underruns", "why"),
    [
        (1, 0, 3, "no result: 2 clicks played, 1 heard, 3 underruns"),
        (3, 0, 0, "no result: 2 clicks played, 3 heard, 0 underruns"),
        (2, 0, 1, "no result: 1 underrun while the clicks played"),
        (2, 1, 0, "no result: the listener's latency is known of 1 of 2 clicks only"),
    ],
)
def test_probe_has_no_result_if_any_part_of_it_is_missing(
    heard: int, silent: int, underruns: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    way = {"listener": "listener/9", "name": "probe", "reported_ms": 20.0, "sum_ms": 21.0, "stages": []}
    ways = [way | {"reported_ms": None}] * silent + [way] * (2 - silent)
    with pytest.raises(typer.Exit) as ended:
        probe._print("a", [1, 2], list(range(heard)), ways, underruns, as_json=False)
    told = capsys.readouterr()
    assert ended.value.exit_code == 1 and told.out == "" and why in told.err
