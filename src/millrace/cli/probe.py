"""The probe plays clicks as a client, hears them as a listener, and compares their delay with the latency breakdown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import typer

from millrace.backends.clocked import NullOutput
from millrace.cli.console import say, show_json, warn
from millrace.cli.progress import progress
from millrace.cli.stages import show
from millrace.client.bus import connect
from millrace.client.listener import Listener, ListenerOptions
from millrace.dsp.convert import Samples
from millrace.text import counted
from millrace.units import NS_PER_S, HostNs

RATE = 48_000
CLICKS, EVERY_S, LEVEL = 10, 0.5, 0.25
SETTLE_S = 6.0


class HearingOutput(NullOutput):
    """A null output that notes when a click is heard: frame i of a period is heard i frames after it begins."""

    name = "probe"

    def __init__(self) -> None:
        super().__init__()
        self.heard_ns: list[HostNs] = []
        self._quiet = True

    def take(self, block: Samples) -> bool:
        """See `NullOutput`. A period is heard one period after it was requested, the latency that `start` reported."""
        loud = np.flatnonzero(np.abs(block[:, 0]) > LEVEL / 2)
        if len(loud) and self._quiet:
            self.heard_ns.append(self.due_ns + self._period_ns + int(loud[0]) * NS_PER_S // RATE)
        self._quiet = not len(loud)
        return True


async def measure(guest: str, listen: str, as_json: bool) -> None:
    """Measure the delay and print it."""
    output = HearingOutput()
    listener = Listener(f"ws://{listen}/{guest}", output, ListenerOptions(name="probe", settings={"codec": "s16"}))
    listening = asyncio.create_task(listener.run())
    async with connect(name="millrace probe") as bus:
        async with bus.play(guest=guest, name="probe", rate=RATE, channels=2, latency_ms=60) as stream:
            with progress("clicks", CLICKS) as now:
                now("settling")
                sent_ns, ways, before = await _clicks(bus, stream, output, now, lambda: listener.report().underruns)
    underruns = listener.report().underruns - before
    listener.stop()
    await listening
    _print(guest, sent_ns, output.heard_ns, ways, underruns, as_json)


# The noise keeps the path running at a level that no click can be mistaken for: silence would let the encoder and the
# graph rest, and each click would measure how they wake up.
async def _clicks(
    bus: Any, stream: Any, output: HearingOutput, now: Callable[[str], None], underruns: Callable[[], int]
) -> tuple[list[HostNs], list[dict[str, Any]], int]:
    """Play quiet noise with regular clicks.

    Returns when each click was written, the latency breakdown then, and the underruns before the first.
    """
    random = np.random.default_rng(1)
    step = RATE // 100
    sent_ns: list[HostNs] = []
    ways: list[dict[str, Any]] = []
    before = 0
    began = time.monotonic()
    due = began + SETTLE_S
    while len(output.heard_ns) < CLICKS and time.monotonic() - began < SETTLE_S + 2 * CLICKS * EVERY_S:
        block = random.uniform(-1e-3, 1e-3, (step, 2)).astype(np.float32)
        click = time.monotonic() >= due and len(sent_ns) < CLICKS
        while stream.room < step:
            await asyncio.sleep(0.001)
        if click:
            due += EVERY_S
            before = before if sent_ns else underruns()
            block[0] = LEVEL
            found = await bus.call("latency", target=stream.key)
            ways += [way for way in found["listeners"] if way["name"] == "probe"]
            sent_ns.append(time.monotonic_ns())
            now("listening")
        await stream.write(block)
    return sent_ns, ways, before


# Clicks are matched by their order, and a breakdown without the listener's part is a partial sum: with a click missing,
# a dropout or a listener that has not played, any figure would be a wrong one.
def hindered(guest: str, sent: int, heard: int, ways: list[dict[str, Any]], underruns: int) -> str:
    """Why there is no result; empty if there is one."""
    if not heard:
        return f"guest {guest}: no click was heard; its default sink must be neither muted nor turned down below 80%"
    if heard != sent:
        return f"no result: {sent} clicks played, {heard} heard, {counted(underruns, 'underrun')}; try again"
    if underruns:
        return f"no result: {counted(underruns, 'underrun')} while the clicks played; try again"
    told = sum(way["reported_ms"] is not None for way in ways)
    if told < sent:
        return f"no result: the listener's latency is known of {told} of {sent} clicks only; try again"
    return ""


def _print(
    guest: str, sent: list[HostNs], heard: list[HostNs], ways: list[dict[str, Any]], underruns: int, as_json: bool
) -> None:
    why = hindered(guest, len(sent), len(heard), ways, underruns)
    if why:
        warn(why)
        raise typer.Exit(1)
    pairs = list(zip(sent, heard, ways, strict=True))
    measured = [(after - before) / 1e6 for before, after, _ in pairs]
    said = [way["sum_ms"] for _, _, way in pairs]
    median, summed = float(np.median(measured)), float(np.median(said))
    if as_json:
        show_json({"measured_ms": measured, "ledger_ms": said, "ledger": pairs[-1][2]}, None)
        return
    show("probe", pairs[-1][2])
    say(
        f"{len(pairs)} clicks: measured {median:.2f} ms, the breakdown says {summed:.2f} ms (medians),"
        f" {summed - median:+.2f} ms apart"
    )
