"""Faults are made in running processes, and the first incident names the right stage and cause."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from millrace.sim.signals import sine

from .conftest import MILLRACE, Bus, need, wait_for, write_wav
from .test_clients import s16

pytestmark = pytest.mark.real


class Scene:
    """A daemon with something that plays and something that listens."""

    def __init__(self, bus: Bus, folder: Path) -> None:
        need("paplay", "parec")
        self.bus, self.folder = bus, folder
        tone = write_wav(folder / "tone.wav", s16(sine(40.0)))
        self.player = bus.spawn("paplay", "--latency-msec=60", str(tone), stderr=subprocess.DEVNULL)
        self.listener = bus.spawn(*MILLRACE, "listen", bus.url(), "--to", "null:", "-q")
        wait_for(lambda: any(one["latency_ms"] > 0 for one in bus.guest()["listeners"]), 30, "the listener hears")
        time.sleep(1.0)

    def incidents(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.bus.cli("incidents", "--json").stdout.splitlines()]

    def stopped(self, pid: int, seconds: float) -> None:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)


def client_stops(scene: Scene) -> None:
    scene.stopped(scene.player.pid, 0.6)


def client_is_slow(scene: Scene) -> None:
    """Half of what is needed, and then the other half."""
    raw = subprocess.Popen(
        ["sh", "-c", "head -c 96000 /dev/zero; sleep 1.2; head -c 96000 /dev/zero; sleep 1"], stdout=subprocess.PIPE
    )
    command = ["pacat", "--raw", "--rate=48000", "--format=s16le", "--channels=2", "--latency-msec=40"]
    scene.bus.spawn(*command, stdin=raw.stdout, stderr=subprocess.DEVNULL)
    raw.wait()


def daemon_stops(scene: Scene) -> None:
    assert scene.bus.daemon is not None
    scene.stopped(scene.bus.daemon.pid, 0.6)


def listener_stops(scene: Scene) -> None:
    scene.stopped(scene.listener.pid, 0.8)


def listener_never_reads(scene: Scene) -> None:
    host, _, port = scene.bus.listen.rpartition(":")
    lazy = socket.create_connection((host, int(port)))
    key = "x3JJHMbDL1EzLkh9GBhXDw=="
    head = f"GET /default HTTP/1.1\r\nHost: {scene.bus.listen}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    lazy.sendall(f"{head}Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
    hello = json.dumps({"type": "hello", "name": "lazy", "settings": {"codec": "f32"}}).encode()
    masked = bytes(b ^ m for b, m in zip(hello, b"abcd" * 99, strict=False))
    lazy.sendall(bytes((0x81, 0x80 | len(hello))) + b"abcd" + masked)
    time.sleep(6)
    lazy.close()


def recorder_never_reads(scene: Scene) -> None:
    with (scene.folder / "raw").open("wb") as out:
        wide = ("--format=float32le", "--rate=96000", "--channels=8")
        recorder = scene.bus.spawn("parec", "--raw", "--latency-msec=50", *wide, stdout=out)
    wait_for(lambda: scene.bus.guest()["recorders"], what="it records")
    scene.stopped(recorder.pid, 4.0)


def client_breaks_the_protocol(scene: Scene) -> None:
    with socket.socket(socket.AF_UNIX) as evil:
        evil.connect(str(scene.bus.pulse()))
        evil.sendall(b"\xff" * 4096)
        time.sleep(0.3)


def program_without_a_grant(scene: Scene) -> None:
    scene.bus.cli("revoke", "microphone")
    subprocess.run(["parec", "--raw", "-d", "microphone"], env=scene.bus.env, capture_output=True, timeout=10)


def wrong_token(scene: Scene) -> None:
    token = scene.folder / "token"
    token.write_text("wrong-wrong-wrong-wrong")
    token.chmod(0o600)
    scene.bus.cli("listen", scene.bus.url(), "--to", "null:", "--token-file", str(token), check=False)


def codec_costs_too_much(scene: Scene) -> None:
    """The daemon is given a twentieth of a processor."""
    hog = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(2 * (os.cpu_count() or 1))]
    assert scene.bus.daemon is not None
    os.setpriority(os.PRIO_PROCESS, scene.bus.daemon.pid, 19)
    for task in Path(f"/proc/{scene.bus.daemon.pid}/task").iterdir():
        os.setpriority(os.PRIO_PROCESS, int(task.name), 19)
    time.sleep(4)
    for one in hog:
        one.kill()
        one.wait()


FAULTS: list[tuple[Callable[[Scene], None], set[tuple[str, str]]]] = [
    (client_stops, {("client", "stopped")}),
    (client_is_slow, {("client", "wrote late")}),
    (daemon_stops, {("loop", "not run")}),
    (listener_stops, {("listener", "not run")}),
    (listener_never_reads, {("send", "line full")}),
    (recorder_never_reads, {("recorder", "does not read")}),
    (client_breaks_the_protocol, {("client", "broke the protocol")}),
    (program_without_a_grant, {("rights", "refused")}),
    (wrong_token, {("rights", "refused")}),
    (codec_costs_too_much, {("loop", "starved")}),
]


@pytest.mark.parametrize(("fault", "expected"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_the_first_incident_names_stage_and_cause(
    fault: Callable[[Scene], None], expected: set[tuple[str, str]], bus: Bus, tmp_path: Path
) -> None:
    scene = Scene(bus, tmp_path)
    before = {i["id"] for i in scene.incidents()}
    fault(scene)

    def named() -> bool:
        return bool(expected & {(i["stage"], i["cause"]) for i in scene.incidents() if i["id"] not in before})

    wait_for(named, 8, f"an incident of {expected}")


def test_latency_explain_top_dot_and_report_tell_of_a_running_stream(bus: Bus, tmp_path: Path) -> None:
    scene = Scene(bus, tmp_path)
    stream = bus.guest()["streams"][0]["id"]
    way = json.loads(bus.cli("latency", stream, "--json").stdout)["listeners"][0]
    assert abs(way["sum_ms"] - way["reported_ms"]) < 5 and len(way["stages"]) >= 9
    told = bus.cli("explain", stream).stdout
    for word in ("paplay", "s16le, 48000 Hz", "asked for", "none: the guest runs at 48000 Hz", "Opus at 128 kb/s"):
        assert word in told
    assert stream in bus.cli("top", "--once").stdout and "digraph" in bus.cli("dot").stdout
    archive = tmp_path / "r.tar.gz"
    bus.cli("report", "--to", str(archive))
    packed = subprocess.run(["tar", "tzf", archive], capture_output=True, text=True, check=True).stdout
    assert "flight/default.json" in packed and "incidents.json" in packed
    for path in ("/metrics", "/ready", "/api/v1/openapi.json"):
        with urllib.request.urlopen(f"http://{bus.listen}{path}", timeout=5) as answer:
            assert answer.status == 200 and answer.read()
    assert scene.player.poll() is None
