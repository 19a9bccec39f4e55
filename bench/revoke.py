"""From revoking a listener's token to silence at its output, on loopback, while a tone plays."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from bench.common import MILLRACE, Daemon, daemon, processes

TRIES = 10


def call(bus: Daemon, method: str, path: str, body: dict[str, object] | None = None) -> dict[str, object]:
    """One request on the private socket: starting a process would take longer than the time being measured."""
    connection = http.client.HTTPConnection("localhost", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.connect(str(bus.runtime / "millrace" / "api.sock"))
    connection.request(method, path, json.dumps(body) if body is not None else None)
    answer: dict[str, object] = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def _last_loud(fd: int, loud: list[float]) -> None:
    while data := os.read(fd, 65536):
        samples = np.frombuffer(data[: len(data) // 2 * 2], "<i2")
        if len(samples) and np.abs(samples).max() > 300:
            loud.append(time.monotonic())


def once(bus: Daemon, folder: Path) -> float:
    """Milliseconds from the request to the last loud period."""
    made = call(bus, "POST", "/api/v1/tokens", {"may": "hear", "guests": ["default"], "expires": "1h"})
    file = folder / "token"
    file.touch(0o600)
    file.write_text(str(made["token"]))
    with processes() as start:
        command = (*MILLRACE, "listen", bus.url(), "--to", "raw:-", "-q", "--token-file", str(file))
        listen = start(*command, env=bus.env, stdout=subprocess.PIPE, bufsize=0)
        assert listen.stdout is not None
        loud: list[float] = []
        reader = threading.Thread(target=_last_loud, args=(listen.stdout.fileno(), loud), daemon=True)
        reader.start()
        end = time.monotonic() + 15
        while len(loud) < 200 and time.monotonic() < end:
            time.sleep(0.05)
        assert loud, "nothing was heard"
        asked = time.monotonic()
        call(bus, "DELETE", f"/api/v1/{str(made['id']).replace('token/', 'tokens/')}")
        listen.wait(10)
        reader.join(2)
        return (max(loud) - asked) * 1000


def main() -> None:
    """Print the median and the longest."""
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000)).astype("<i2").repeat(2).tobytes()
    with daemon() as bus, tempfile.TemporaryDirectory() as name, processes() as start:
        pacat = start("pacat", "--raw", "--rate=48000", "--format=s16le", "--channels=2",
                      env=bus.env | {"PULSE_SERVER": bus.pulse()}, stdin=subprocess.PIPE)  # fmt: skip

        def play() -> None:
            assert pacat.stdin is not None
            try:
                while True:
                    pacat.stdin.write(tone)
            except OSError:
                return

        threading.Thread(target=play, daemon=True).start()
        took = [once(bus, Path(name)) for _ in range(TRIES)]
    print("revoke: from revoking a token to silence at its listener's output")
    print(f"  median {np.median(took):5.1f} ms, longest {max(took):5.1f} ms of {TRIES}   (goal: ≤ 100)")
