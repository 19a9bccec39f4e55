"""One guest's attacks on another guest's sound, judged by its samples.

In guest `neighbour`, paplay plays a file in which every frame can be identified, parec records the monitor, and a
listener listens. Meanwhile programs of guest `worst` do their worst, at nice 19. The same programs against a second
daemon show how much of the effect is due to the machine, because they only compete for the processor then.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.attack import FLOODS, kinds
from bench.common import MILLRACE, Daemon, daemon, memory_kib, processes

RATE = 48_000
WRAP = 30_000
EACH_S, ALL_S, QUIET_S = 4.0, 12.0, 8.0
LONG_S = {"streams": 12.0, "properties": 8.0, "bitrates": 8.0, "lists": 8.0}
"""Kinds that take longer to make their requests."""
HEAD_START_S = 6.0
SETTLE_S = 1.5
MEMORY_MIB = 384
CONFIG = f"""
[guest.neighbour]
[guest.worst]
memory = "{MEMORY_MIB}Mi"
"""
"""300 samples of 192 kHz that play at once take more than a guest's usual 256 MiB."""


class Neighbour:
    """A player, a recorder and a listener in one guest."""

    def __init__(self, bus: Daemon, folder: Path, seconds: float, start: Any) -> None:
        self._bus = bus
        path = folder / "known.raw"
        frame = np.arange(round(seconds * RATE))
        np.stack((frame % WRAP, frame // WRAP), axis=1).astype("<i2").tofile(path)
        env = bus.env | {"PULSE_SERVER": bus.pulse("neighbour")}
        raw = ("--raw", "--format=s16le", f"--rate={RATE}", "--channels=2")
        recorder = start("parec", *raw, "--latency-msec=20", "-d", "@DEFAULT_MONITOR@", env=env, stdout=subprocess.PIPE)
        self._listener = start(
            *MILLRACE, "listen", bus.url("neighbour"), "--to", "null:", "-q", env=bus.env, stdout=subprocess.DEVNULL
        )
        time.sleep(SETTLE_S)
        start("paplay", *raw, "--latency-msec=200", str(path), env=env)
        self._lock = threading.Lock()
        self._data = bytearray()
        self._came: list[float] = []
        self._ended = False
        assert recorder.stdout is not None
        self._pipe = recorder.stdout
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while data := self._pipe.read1(65_536):  # type: ignore[attr-defined]
            with self._lock:
                self._data += data
                self._came.append(time.monotonic())
        self._ended = True

    def listener(self) -> dict[str, int]:
        """The gaps that the listener reported."""
        guests = {guest["name"]: guest for guest in self._bus.state()["guests"]}
        (told,) = guests["neighbour"]["listeners"]
        return {name: told[name] for name in ("underruns", "bridged", "lost", "skipped")}

    def since(self) -> tuple[int, float]:
        """Places since the last call where a frame was not followed by the next one, and the longest wait, in ms."""
        with self._lock:
            whole = len(self._data) // 4 * 4
            data, self._data = bytes(self._data[:whole]), self._data[max(0, whole - 4) :]
            came, self._came = self._came, self._came[-1:]
        left, right = np.frombuffer(data, "<i2").reshape(-1, 2).astype(int).T
        wrong = np.diff(right * WRAP + left) != 1
        waits = np.diff(came)
        assert not self._ended, "the recorder ended"
        # A gap counts once, however long it is.
        return int(wrong[0]) + int((wrong[1:] & ~wrong[:-1]).sum()), float(waits.max() * 1000) if len(waits) else 0.0


def attack(target: Daemon, names: list[str], seconds: float, start: Any) -> list[str]:
    """Run these attacks at once in guest `worst` of `target`; returns what each did.

    Floods start later than the kinds that hold something, and all end together.
    """
    native = f"{target.runtime}/millrace/worst/native"
    # Nice from the first instruction on: a program that is starting takes as much of the processor as one that plays.
    nice = ("nice", "-n", "19")
    asked = [*nice, *MILLRACE, "token", "new", "--guest", "worst", "--may", "hear,speak,control,link"]
    token = subprocess.run(asked, env=target.env, capture_output=True, text=True, check=True).stdout.strip()
    env = target.env | {"ATTACK": target.listen, "ATTACK_TOKEN": token}
    running = []

    def begin(names: list[str], seconds: float) -> None:
        for name in names:
            command = (name, target.pulse("worst").removeprefix("unix:"), native, str(seconds))
            one = start(
                *nice, sys.executable, "-m", "bench.attack", *command, stdout=subprocess.PIPE, text=True, env=env
            )
            running.append(one)

    held = [name for name in names if name not in FLOODS]
    begin(held, seconds)
    if held and len(names) > 1:
        time.sleep(min(HEAD_START_S, seconds / 2))
        seconds -= min(HEAD_START_S, seconds / 2)
    begin([name for name in names if name not in held], seconds)
    time.sleep(seconds + SETTLE_S)
    done = []
    for process in running:
        try:
            out = process.communicate(timeout=10)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            out = "did not end in time"
        done.append(str(out).strip())
    return done


def incidents(bus: Daemon, guest: str) -> dict[str, int]:
    """How many incidents of each cause a guest has."""
    asked = [*MILLRACE, "incidents", "--json"]
    listed = subprocess.run(asked, env=bus.env, capture_output=True, text=True, check=True).stdout
    found: dict[str, int] = {}
    for one in map(json.loads, listed.splitlines()):
        if one["guest"] == guest:
            name = f"{one['stage']} {one['cause']}"
            found[name] = found.get(name, 0) + one["count"]
    return found


def seconds_of(kind: str) -> float:
    """How long an attack lasts."""
    return LONG_S.get(kind, EACH_S if kind in kinds() else ALL_S)


def verdict(elsewhere: int, ours: dict[str, int]) -> None:
    """Say which rows pass. Whatever the same programs do to the neighbour from another daemon, in the same time, is due
    to the machine; only what exceeds that is the daemon's fault."""
    ours = {kind: count - math.ceil(elsewhere * seconds_of(kind) / ALL_S) for kind, count in ours.items()}
    failed = [f"{kind} ({count})" for kind, count in ours.items() if count > 0]
    print(f"xruns that the machine did not cause: {', '.join(failed) or 'none'}")


def run(names: list[str]) -> None:
    """Run nothing, each kind, all at once, and all at once against another daemon."""
    total = QUIET_S + sum(seconds_of(name) + 4 * SETTLE_S for name in names) + 2 * (ALL_S + 4 * SETTLE_S) + 60
    with tempfile.TemporaryDirectory(prefix="mr") as folder:
        config = Path(folder) / "config.toml"
        config.write_text(CONFIG)
        with daemon("--config", str(config), log=subprocess.DEVNULL) as bus, processes() as start:
            neighbour = Neighbour(bus, Path(folder), total, start)
            time.sleep(SETTLE_S)
            neighbour.since()
            print(f"{'':12} {'xruns':>6} {'longest wait':>13} {'daemon':>8}   what was done")

            def tell(what: str, did: list[str]) -> int:
                gaps, wait = neighbour.since()
                told = f"{what:12} {gaps:6} {wait:10.0f} ms {memory_kib(bus.pid) / 1024:5.0f} MiB"
                print(f"{told}   {'; '.join(did)}", flush=True)
                return gaps

            time.sleep(QUIET_S)
            tell("nothing", ["the neighbour alone"])
            with daemon("--config", str(config), log=subprocess.DEVNULL) as other:
                attack(other, names, ALL_S, start)
            elsewhere = tell("elsewhere", ["all at once, against another daemon"])
            ours = {kind: tell(kind, attack(bus, [kind], seconds_of(kind), start)) for kind in names}
            ours["all at once"] = tell("all at once", attack(bus, names, ALL_S, start))
            time.sleep(SETTLE_S)
            tell("afterwards", ["the neighbour alone"])
            verdict(elsewhere, ours)
            print(f"the neighbour's listener: {neighbour.listener()}")
            for guest in ("neighbour", "worst", ""):
                print(f"incidents of {guest or 'the daemon'}: {incidents(bus, guest)}")


def main() -> None:
    """Entry point."""
    wanted = [name for name in kinds() if name in sys.argv[1:]]
    print("neighbours: frames of a guest that were not heard in their place, while another guest does its worst")
    run(wanted or list(kinds()))


if __name__ == "__main__":
    main()
