"""Real time: a daemon and a listener process, a card 300 ppm fast, 3 ms of jitter on the line, ten minutes.

The card is `null:+300ppm`. The times at which its pulls are due are known exactly, and so is the latency. A watcher
records stalls of the machine itself; measurements within 300 ms after a stall are counted separately. The environment
variable MINUTES changes the duration.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.common import MILLRACE, daemon, processes
from millrace.backends.clocked import NullOutput
from millrace.client.listener import Listener, ListenerOptions
from millrace.dsp.convert import SampleFormat, Samples, encode
from millrace.playout.adaptive import State
from millrace.sim.signals import sine

PPM, STALL_NS, AFTER_STALL_NS, SETTLE_S = 300.0, 20_000_000, 300_000_000, 60.0


@dataclass
class Watch:
    """What was observed, by this process's clock."""

    stalls: list[tuple[int, int]] = field(default_factory=list)
    pulls: list[tuple[int, float, float, int]] = field(default_factory=list)
    running: bool = True

    def watch(self) -> None:
        """Note every time that a sleep of 2 ms took more than 20."""
        last = time.monotonic_ns()
        while self.running:
            time.sleep(0.002)
            now = time.monotonic_ns()
            if now - last > STALL_NS:
                self.stalls.append((last, now))
            last = now


class MeasuredOutput(NullOutput):
    """A card that compares every period with the time at which it was due."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(ppm=PPM)
        self.watch = watch
        self.listener: Listener | None = None

    def take(self, block: Samples) -> bool:
        """Note how old the next frame will be when it is played, and how old it should be."""
        playout = self.listener.playout if self.listener else None
        if playout is not None and playout.state is State.PLAYING:
            after = self.due_ns + len(block) * 1_000_000_000 / playout.rate
            latency = after - playout.head_ns
            self.watch.pulls.append((self.due_ns, latency, playout.pace.target_delay_ns, playout.tally.underruns))
        return super().take(block)


async def _listen(url: str, output: MeasuredOutput, seconds: float) -> Listener:
    listener = output.listener = Listener(url, output, ListenerOptions(token=os.environ["MILLRACE_TOKEN"]))
    asyncio.get_running_loop().call_later(seconds, listener.stop)
    await listener.run()
    return listener


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def main() -> None:
    """Print the figures."""
    minutes = float(os.environ.get("MINUTES", "10"))
    watch = Watch()
    with tempfile.TemporaryDirectory() as name, daemon() as bus, processes() as start:
        raw = Path(name) / "tone.raw"
        raw.write_bytes(encode(SampleFormat.S16LE, np.tile(sine(10), (round(minutes * 6) + 2, 1))))
        port = free_port()
        start(*MILLRACE, "lab", "impair", f"ws://{bus.listen}", "--listen", f"127.0.0.1:{port}", "--jitter", "3ms",
              stdout=subprocess.DEVNULL)  # fmt: skip
        start("pacat", "--raw", "--rate=48000", "--format=s16le", "--channels=2", str(raw),
              env=bus.env | {"PULSE_SERVER": bus.pulse()})  # fmt: skip
        time.sleep(2)
        watcher = threading.Thread(target=watch.watch, daemon=True)
        watcher.start()
        listener = asyncio.run(_listen(f"ws://127.0.0.1:{port}/default", MeasuredOutput(watch), minutes * 60))
        watch.running = False
        watcher.join()
    report(watch, listener, minutes)


def report(watch: Watch, listener: Listener, minutes: float) -> None:
    """Evaluate the measurements and print them."""
    at, latency, target, underruns = (np.array(column, np.float64) for column in zip(*watch.pulls, strict=True))
    after_stall = np.zeros(len(at), bool)
    for began, ended in watch.stalls:
        after_stall |= (at >= began - 50_000_000) & (at <= ended + AFTER_STALL_NS)
    settled = at >= at[0] + SETTLE_S * 1e9
    error = latency - target
    calm = settled & ~after_stall
    error -= np.median(error[calm])
    new_xruns = np.diff(underruns, prepend=underruns[0]) > 0
    stalled_s = sum(e - b for b, e in watch.stalls) / 1e9
    print(f"realtime: {minutes:g} minutes, card at {PPM:+g} ppm, 3 ms exponential jitter on the line")
    print(f"  this machine stood still {len(watch.stalls)} times, {stalled_s:.2f} s in all")
    print(f"  xruns apart from stalls    {int((new_xruns & ~after_stall).sum()):6d}     (goal 0)")
    print(f"  xruns within stalls        {int((new_xruns & after_stall).sum()):6d}")
    rms = float(np.sqrt(np.mean(error[calm] ** 2))) / 1e6
    print(f"  latency error, calm        {rms:9.3f} ms RMS, p99 {np.quantile(np.abs(error[calm]), 0.99) / 1e6:.3f}"
          "  (goal 0.5)")  # fmt: skip
    if (settled & after_stall).any():
        worst = float(np.abs(error[settled & after_stall]).max()) / 1e6
        print(f"  latency error, after stalls{worst:9.3f} ms at most")
    over = (error > 20e6) & settled
    print(f"  longest above target+20 ms {_longest_s(at, over):9.3f} s        (goal 3)")
    playout = listener.playout
    assert playout is not None
    print(f"  latency                    {np.median(latency[calm]) / 1e6:9.1f} ms median")
    print(f"  card {playout.pace.card.ppm:+.1f} ppm seen, {playout.tally}")


def _longest_s(at: np.ndarray, over: np.ndarray) -> float:
    longest, since = 0.0, None
    for when, is_over in zip(at, over, strict=True):
        since = (when if since is None else since) if is_over else None
        longest = max(longest, (when - since) / 1e9 if since is not None else 0.0)
    return longest
