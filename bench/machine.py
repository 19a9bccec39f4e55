"""A machine's sound over D-Bus: from QEMU's write to the listener's output, and how soon QEMU's read is answered.

This process plays QEMU: it authenticates, takes over the listeners' sockets, writes 480 frames whenever a timer of 5 ms
finds that many due, and reads every 10 ms while a listener speaks. Clicks are read from `millrace listen --to raw:-`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time

import numpy as np

from bench.common import MILLRACE, Daemon, daemon, processes
from bench.latency import _matched, _read
from millrace.backends.clocked import PERIOD_NS
from millrace.sim.qemu import FakeQemu, ServerWire
from millrace.wire.qemu.dbus import Message

RATE, CHUNK, TICK_S = 48_000, 480, 0.005
SECONDS = 30.0
_FDS = 9


class FakeMachine:
    """QEMU's ends of the control connection and of both listeners."""

    def __init__(self, control: socket.socket) -> None:
        self._control, self._wire = control, ServerWire()
        self.ends: dict[str, tuple[socket.socket, FakeQemu]] = {}

    def register(self) -> None:
        """Answer until both listeners are connected."""
        fds: list[int] = []
        while len(self.ends) < 2:
            data, got, _, _ = socket.recv_fds(self._control, 65536, 4)
            assert data, "the daemon went"
            fds += got
            self._wire.receive(data, 0)
            for message in self._wire.events():
                self._serve(message, fds)
            self._flush()

    def _serve(self, message: Message, fds: list[int]) -> None:
        if message.member == "GetAll":
            self._wire.send_reply(message, "a{sv}", bytes(8))
        elif _FDS in message.fields:
            kind = message.member.removeprefix("Register").removesuffix("Listener")
            end = socket.socket(fileno=fds.pop(0))
            qemu = FakeQemu(kind)
            while not qemu.properties:
                qemu.receive(end.recv(65536))
                end.sendall(qemu.data_to_send())
            self.ends[kind] = (end, qemu)
            self._wire.send_reply(message)

    def _flush(self) -> None:
        for chunk in self._wire.data_to_send():
            self._control.sendall(chunk.data)

    def say(self, kind: str) -> None:
        """Send what a listener's session has queued."""
        end, qemu = self.ends[kind]
        end.sendall(qemu.data_to_send())


def _attached(bus: Daemon) -> FakeMachine:
    mine, theirs = socket.socketpair()
    os.set_inheritable(theirs.fileno(), True)
    machine = FakeMachine(mine)
    served = threading.Thread(target=machine.register)
    served.start()
    command = [*MILLRACE, "attach", "qemu", "--p2p", str(theirs.fileno())]
    subprocess.run(command, env=bus.env, pass_fds=(theirs.fileno(),), check=True, capture_output=True)
    theirs.close()
    served.join(10)
    assert len(machine.ends) == 2, "the listeners were not registered"
    return machine


def _write(machine: FakeMachine, written: list[float], stop: threading.Event) -> None:
    """The guest's playback: a click of 1 ms in every fiftieth chunk."""
    end, qemu = machine.ends["Out"]
    del end
    qemu.init()
    qemu.enable(True)
    quiet = np.full((CHUNK, 2), 1, "<i2").tobytes()
    click = np.full((CHUNK, 2), 1, "<i2")
    click[:48] = 20_000
    began, sent = time.monotonic(), 0
    while not stop.is_set():
        time.sleep(TICK_S)
        while (time.monotonic() - began) * RATE >= (sent + 1) * CHUNK:
            sent += 1
            if sent % 50 == 0:
                written.append(time.monotonic())
            qemu.write(click.tobytes() if sent % 50 == 0 else quiet)
            machine.say("Out")


def _record(machine: FakeMachine, took_ms: list[float], frames: list[int], stop: threading.Event) -> None:
    """The guest's recording: a read every 10 ms, for whose duration QEMU blocks."""
    end, qemu = machine.ends["In"]
    qemu.init()
    qemu.enable(True)
    machine.say("In")
    while not stop.is_set():
        time.sleep(0.01)
        qemu.read(4 * 1024)
        began = time.monotonic()
        machine.say("In")
        count = len(qemu.answers)
        while len(qemu.answers) == count:
            qemu.receive(end.recv(65536))
        took_ms.append((time.monotonic() - began) * 1000)
        frames.append(len(qemu.answers.pop()) // 4)


def run() -> tuple[np.ndarray, np.ndarray, float]:
    """Latencies in ms, times to answer in ms, recorded frames per second."""
    # No policy: a listener that speaks is a call, and the policy would duck everything else for it.
    with daemon("--no-policy") as bus, processes() as start:
        listen = start(*MILLRACE, "listen", bus.url(), "--to", "raw:-", "-q", "--mic", "tone:440",
                       env=bus.env, stdout=subprocess.PIPE, bufsize=0)  # fmt: skip
        machine = _attached(bus)
        written: list[float] = []
        took: list[float] = []
        frames: list[int] = []
        stop = threading.Event()
        threads = [
            threading.Thread(target=_write, args=(machine, written, stop), daemon=True),
            threading.Thread(target=_record, args=(machine, took, frames, stop), daemon=True),
        ]
        for thread in threads:
            thread.start()
        assert listen.stdout is not None
        heard = _read(listen.stdout.fileno(), PERIOD_NS / 1e9, SECONDS)
        stop.set()
        for thread in threads:
            thread.join(2)
        return _matched(written, heard), np.array(took), sum(frames) / SECONDS


def main() -> None:
    """Print the figures of both directions."""
    latency, took, rate = run()
    print("machine: a stand-in for QEMU on D-Bus, with its timing; Opus on loopback, both directions at once")
    print(
        f"  write to the listener's output  median {np.median(latency):5.1f} ms,"
        f" p99 {np.percentile(latency, 99):5.1f} ms, {len(latency)} clicks   (goal: median ≤ 45)"
    )
    print(
        f"  read to its answer              median {np.median(took):5.2f} ms, p99 {np.percentile(took, 99):5.2f} ms,"
        f" max {took.max():.2f} ms, {len(took)} reads   (goal: p99 ≤ 1)"
    )
    print(f"  recorded                        {rate:.0f} frames a second (48000)")
