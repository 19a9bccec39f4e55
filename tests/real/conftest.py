"""A real daemon, real listeners, real clients: processes, sockets, and the samples that come out."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.io.paths import API_SOCKET
from tests.places import lack

from .browser import Chromium

STALLS = ("not run", "starved", "busy", "stopped", "wrote late")
LOOK_S = 0.2
"""How often tests in parallel may request the state: each request takes a millisecond of the daemon's time."""
SO_ACCEPTCON = 1 << 16
"""Flag of a socket that listens: linux/net.h, __SO_ACCEPTCON."""
MILLRACE = [sys.executable, "-m", "millrace.cli.main"]


def need(*programs: str) -> None:
    """Skip if a program is missing, or fail if everything is required."""
    missing = [p for p in programs if shutil.which(p) is None]
    if missing:
        lack(f"programs: {', '.join(missing)}")


def need_root() -> None:
    """Skip if priorities can't be changed, or fail if everything is required."""
    if os.geteuid() != 0:
        lack("a root user, who alone may change priorities")


def wait_for(condition: Callable[[], Any], seconds: float = 10.0, what: str = "condition", every: float = 0.05) -> Any:
    """Poll until `condition` returns something true; returns that. Most conditions ask the daemon, which takes time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(every)
    raise AssertionError(f"{what}: not within {seconds} s")


def listens(path: Path) -> bool:
    """Whether a server accepts connections at `path`; its socket is there a moment before that. See proc(5)."""
    sockets = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return any(one[-1] == str(path) and int(one[3], 16) & SO_ACCEPTCON for one in sockets)


class ApiConnection(http.client.HTTPConnection):
    """HTTP over the daemon's unix socket: like `millrace ls`, but without starting a process for each request."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class Bus:
    """A separate daemon in its own runtime directory."""

    def __init__(self, runtime: Path, *args: str) -> None:
        self.runtime = runtime
        self.args = args
        self.command = MILLRACE
        self.env = os.environ | {
            "XDG_RUNTIME_DIR": str(runtime),
            "HOME": str(runtime),
            "XDG_CONFIG_HOME": str(runtime),
            "SDL_AUDIODRIVER": "pulseaudio",
        }
        for name in ("PULSE_SERVER", "PULSE_COOKIE", "PULSE_SINK", "MILLRACE_TOKEN"):
            self.env.pop(name, None)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.daemon: subprocess.Popen[bytes] | None = None
        self.log = runtime / "daemon.log"
        self.listen = "127.0.0.1:0"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                [*self.command, "serve", "--listen", self.listen, *self.args],
                env=self.env,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self.daemon.stdout is not None
        seen = b""
        while b"ready;" not in seen:
            line = self.daemon.stdout.readline()
            assert line, f"the daemon ended: {self.log.read_text()}"
            seen += line
        self.listen = self.state()["listen"]
        self.env["PULSE_SERVER"] = f"unix:{self.pulse()}"

    def stop(self, with_signal: int = signal.SIGTERM) -> int:
        assert self.daemon is not None
        self.daemon.send_signal(with_signal)
        code = self.daemon.wait(10)
        self.daemon = None
        return code

    def pulse(self, guest: str = "default") -> Path:
        return self.runtime / "millrace" / guest / "pulse"

    def url(self, guest: str = "default", scheme: str = "ws") -> str:
        return f"{scheme}://{self.listen}/{guest}"

    @property
    def key(self) -> str:
        """The key with which this user connects over TCP."""
        return (self.runtime / "millrace" / "key").read_text().strip()

    def link(self) -> str:
        """A link to the page, valid for one browser."""
        return self.cli("page").stdout.strip()

    def cli(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*MILLRACE, *args], env=self.env, capture_output=True, text=True, timeout=30, check=check)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Make one request to the daemon; returns the JSON of the answer, or None if it was refused."""
        connection = ApiConnection(self.runtime / "millrace" / API_SOCKET)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            text = answer.read()
            return json.loads(text) if answer.status == 200 and text else None
        finally:
            connection.close()

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.call("GET", "/api/v1/state")
        return state

    def guest(self, name: str = "default") -> dict[str, Any]:
        return next(g for g in self.state()["guests"] if g["name"] == name)

    def incidents(self) -> list[dict[str, Any]]:
        """The daemon's incidents."""
        found: list[dict[str, Any]] = self.call("GET", "/api/v1/incidents")
        return found

    def stalls(self, guest: str = "default") -> list[str]:
        """Causes of the incidents in which the machine or the guest's clients stalled; each may explain one gap."""
        found = [one for one in self.incidents() if one["cause"] in STALLS and one["guest"] in ("", guest)]
        return [one["cause"] for one in found for _ in range(one["count"])]

    def spawn(self, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        env = self.env | options.pop("env", {})
        process = subprocess.Popen(command, env=env, **options)
        self.processes.append(process)
        return process

    def run(
        self, *command: str, timeout: float = 40.0, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            env=self.env | (env or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def listener(self, target: Path, *args: str, guest: str = "default") -> subprocess.Popen[bytes]:
        before = len(self.guest(guest)["listeners"])
        process = self.spawn(*MILLRACE, "listen", self.url(guest), "--to", f"wav:{target}", "-q", *args)
        wait_for(lambda: len(self.guest(guest)["listeners"]) > before, 40, "listener joins", LOOK_S)
        return process

    def hear(self, process: subprocess.Popen[bytes], target: Path, guest: str = "default") -> tuple[np.ndarray, int]:
        """Wait until the guest is idle, stop the listener, and read its file: (frames, channels), rate."""
        wait_for(lambda: self.guest(guest)["state"] == "idle", 15, "the guest falls idle", LOOK_S)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        return read_wav(target)

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(10)
        if self.daemon is not None:
            self.stop()


def sound_server(bus: Bus, home: Path) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]:
    """Start PulseAudio at HOME/native, and a client whose low latency keeps its null sink from using long blocks."""
    need("pulseaudio", "pacat")
    home.mkdir(mode=0o700, exist_ok=True)
    (home / "native").unlink(missing_ok=True)
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = bus.spawn(
        "pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--realtime=no", "--high-priority=no",
        "--use-pid-file=no", "-L", f"module-native-protocol-unix socket={home}/native auth-anonymous=1",
        "-L", "module-null-sink", env={"HOME": str(home), "XDG_RUNTIME_DIR": str(home)}, **quiet,
    )  # fmt: skip
    wait_for(lambda: listens(home / "native"), 10, "the sound server is there")
    env = {"PULSE_SERVER": f"unix:{home}/native"}
    waker = bus.spawn("pacat", "--raw", "--latency-msec=5", "/dev/zero", env=env, **quiet)
    return server, waker


def read_wav(path: Path) -> tuple[np.ndarray, int]:
    with wave.open(str(path)) as file:
        data = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return data.reshape(-1, file.getnchannels()), file.getframerate()


def write_wav(path: Path, signal_: np.ndarray, rate: int = 48_000) -> Path:
    """Write (frames, channels) as s16."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(signal_.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(signal_.astype("<i2").tobytes())
    return path


def trimmed(sound: np.ndarray, threshold: int = 0) -> np.ndarray:
    """The sound without leading and trailing silence."""
    loud = np.flatnonzero(np.abs(sound.astype(int)).max(axis=1) > threshold)
    assert len(loud), "nothing was heard"
    return sound[loud[0] : loud[-1] + 1]


@contextlib.contextmanager
def running(runtime: Path, *args: str) -> Iterator[Bus]:
    """Start a daemon, and stop it when the block ends."""
    runtime.mkdir(mode=0o700)
    one = Bus(runtime, *args)
    try:
        one.start()
        yield one
    finally:
        one.close()


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    with running(tmp_path / "run") as one:
        yield one


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """One browser for all pages: starting it takes longer than most tests."""
    need("chromium")
    with Chromium(tmp_path_factory.mktemp("chromium"), "--autoplay-policy=user-gesture-required") as one:
        yield one
