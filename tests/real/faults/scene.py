"""A running system: a daemon, a player, and a listener behind a proxy that can fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from millrace.sim.signals import sine
from tests.real.clients import BOOT_SECTOR, old_qemu
from tests.real.conftest import MILLRACE, Bus, listens, need, sound_server, wait_for, write_wav
from tests.real.test_clients import s16

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
TONE_S = 600
SETTLE_S = 1.5


def now_ns() -> int:
    """The time by the clock that dates incidents."""
    return time.monotonic_ns()


class LiveSource(threading.Thread):
    """A live source that writes to an unbuffered pipe: 10 ms of sound every 10 ms, and a little ahead."""

    AHEAD, BLOCK_S = 4, 0.01

    def __init__(self, out: Any) -> None:
        super().__init__(daemon=True)
        self._out, self._pause_s = out, 0.0
        self.paused: int = 0

    def pause(self, seconds: float) -> None:
        """Write nothing for so long."""
        self._pause_s = seconds

    def run(self) -> None:
        """Write until the pipe is closed."""
        block = bytes(1920)
        due = time.monotonic() - self.AHEAD * self.BLOCK_S
        try:
            while True:
                if self._pause_s:
                    self.paused = now_ns()
                    time.sleep(self._pause_s)
                    self._pause_s = 0.0
                self._out.write(block)
                due += self.BLOCK_S
                time.sleep(max(0.0, due - time.monotonic()))
        except (BrokenPipeError, ValueError):
            return


class Scene:
    """The system. `ready` restarts whatever a fault has ended.

    `what` is "plain"; "line" (the listener has little sound buffered); "silent" (only the fault's own client plays, and
    a tone that keeps the clocks locked); "device" (the listener plays to a real sound server); "microphone" (it speaks,
    and a program in the guest records); or "machine" (a virtual machine plays).
    """

    def __init__(self, folder: Path, what: str = "plain") -> None:
        need("paplay", "parec", "pacat")
        self.folder, self.what = folder, what
        (folder / "run").mkdir(mode=0o700)
        self.truth = folder / "truth"
        self.over_bus = what == "machine" and old_qemu()
        args = ("--qemu-qmp", str(folder / "qmp")) if what == "machine" and not self.over_bus else ()
        self.bus = Bus(folder / "run", *args)
        self.bus.env["FAULT_TRUTH"] = str(self.truth)
        self.bus.env["PYTHONPATH"] = str(ROOT)
        self.bus.command = [sys.executable, "-m", "tests.real.faults.daemon"]
        self.bus.start()
        assert self.bus.daemon is not None
        self.daemon = self.bus.daemon.pid
        # A second holds whole periods of the tone, so that it can be repeated instead of computed again.
        self.tone = write_wav(folder / "tone.wav", np.tile(s16(sine(1.0)), (TONE_S, 1)))
        port = self.bus.listen.rpartition(":")[2]
        self.proxy = self.bus.spawn(
            sys.executable, str(HERE / "proxy.py"), port, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.proxy.stdout is not None
        self.near = f"ws://127.0.0.1:{int(self.proxy.stdout.readline())}/default"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def _keep(self, name: str, *command: str, **env: str) -> None:
        """Make sure that such a process is running."""
        one = self.processes.get(name)
        if one is None or one.poll() is not None:
            quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            self.processes[name] = self.bus.spawn(*command, env=env, **quiet)

    @property
    def player(self) -> subprocess.Popen[bytes]:
        """The player."""
        return self.processes["player"]

    @property
    def listener(self) -> subprocess.Popen[bytes]:
        """The listener."""
        return self.processes["listener"]

    @property
    def server(self) -> subprocess.Popen[bytes]:
        """The listener's sound server."""
        return self.processes["server"]

    @property
    def machine(self) -> subprocess.Popen[bytes]:
        """The virtual machine."""
        return self.processes["machine"]

    def ready(self) -> None:
        """Start what is not running, and wait until everything plays undisturbed."""
        if self.what == "machine":
            self._machine()
        elif self.what == "silent":
            # A listener can't measure its clocks without sound: play a tone too quiet to be heard.
            self._keep("player", "paplay", "--latency-msec=200", "--volume=100", str(self.tone))
        else:
            self._keep("player", "paplay", "--latency-msec=60", str(self.tone))
        target, env, fresh = "null:", {}, False
        if self.what == "device":
            address, fresh = self._sound_server()
            target, env = "device", {"PULSE_SERVER": address}
        # A high target delay, so that disturbances by other programs don't cause gaps too. (With a sound server this
        # would also ask for longer periods, and its end would be noticed later.)
        margin = "normal" if self.what in ("device", "line") else "robust"
        mic = ("--mic", "tone:440") if self.what == "microphone" else ()
        self._keep("listener", *MILLRACE, "listen", self.near, "-q", "--latency", margin, "--to", target, *mic,
                   MILLRACE_TOKEN=self.bus.key, **env)  # fmt: skip
        if mic:
            self._keep("recorder", "parec", "--raw", "-d", "microphone", "--latency-msec=50")
        if fresh:
            # The listener's last report is from before its sound server was killed.
            time.sleep(3 * SETTLE_S)
        wait_for(self.calm, 60, "the listener hears, with its latency settled")
        time.sleep(SETTLE_S)

    def _machine(self) -> None:
        need("qemu-system-x86_64")
        image = self.folder / "boot.img"
        image.write_bytes(BOOT_SECTOR)
        where = f"addr={self._message_bus()}" if self.over_bus else "p2p=on"
        self._keep(
            "machine", "qemu-system-x86_64", "-M", "pc,pcspk-audiodev=a", "-nodefaults",
            "-audiodev", "dbus,id=a,timer-period=5000", "-drive", f"format=raw,file={image}",
            "-display", f"dbus,{where},audiodev=a", "-qmp", f"unix:{self.folder}/qmp,server=on,wait=off",
        )  # fmt: skip

    def _message_bus(self) -> str:
        """Start a message bus, for a QEMU without peer-to-peer audio, and attach it on first use."""
        need("dbus-daemon")
        address = f"unix:path={self.folder}/bus"
        if "bus" not in self.processes:
            self._keep("bus", "dbus-daemon", "--session", "--nofork", f"--address={address}")
            wait_for(lambda: listens(self.folder / "bus"), 10, "the bus is there")
            self.bus.cli("attach", "qemu", "--dbus", address)
        return address

    def _sound_server(self) -> tuple[str, bool]:
        """The address of the listener's sound server, and whether it has just been started."""
        home = self.folder / "server"
        fresh = "server" not in self.processes or self.server.poll() is not None
        if fresh:
            self.processes["server"], self.processes["waker"] = sound_server(self.bus, home)
        return f"unix:{home}/native", fresh

    def calm(self) -> bool:
        """Whether a listener plays near its target latency (which faults raise), with its microphone, if any, on."""
        guest = self.guest()
        heard = any(0 < (one["latency_ms"] or 0) < one["target_ms"] + 150 for one in guest["listeners"])
        return heard and (
            self.what != "microphone" or any(one["microphone"]["state"] == "on" for one in guest["listeners"])
        )

    # -- asking ----------------------------------------------------------------------------------

    def guest(self) -> dict[str, Any]:
        """The only guest."""
        return self.bus.guest()

    def incidents(self) -> list[dict[str, Any]]:
        """All incidents, in the order in which they were recorded."""
        return sorted(self.bus.incidents(), key=lambda one: int(one["id"].partition("/")[2]))

    # -- faults ----------------------------------------------------------------------------------

    def stop(self, pid: int, seconds: float) -> int:
        """Stop a process for a while; returns when it was stopped."""
        at = now_ns()
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)
        return at

    def switch(self, number: int) -> int:
        """Trigger a fault inside the daemon; returns when it began."""
        before = self._truths()
        os.kill(self.daemon, number)
        wait_for(lambda: len(self._truths()) > len(before), 5, "the daemon fails")
        return self._truths()[-1]

    def _truths(self) -> list[int]:
        return [int(text) for text in self.truth.read_text().split()] if self.truth.exists() else []

    def fail(self, command: str) -> int:
        """Trigger a fault of the line; returns when it began."""
        assert self.proxy.stdin is not None and self.proxy.stdout is not None
        self.proxy.stdin.write(f"{command}\n".encode())
        self.proxy.stdin.flush()
        return int(self.proxy.stdout.readline())

    def close(self) -> None:
        """Kill everything."""
        for one in self.bus.processes:
            if one.poll() is None:
                one.send_signal(signal.SIGCONT)
        self.bus.close()
