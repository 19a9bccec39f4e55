"""The screen of `millrace demo`: a desktop that paints itself, seen by a viewer, and how far it is from its sound."""

from __future__ import annotations

from typing import TYPE_CHECKING

from millrace.cli.console import tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from millrace.client.listener import Listener
    from millrace.daemon.app import Daemon
    from millrace.lab.sync import HeardOutput


class DemoScreen:
    """A machine that paints and clicks in the guest `default`, and a viewer that hears `listener` beside it."""

    def __init__(self, daemon: Daemon, listener: Listener) -> None:
        import asyncio

        from millrace.client.viewer import Viewer, ViewerOptions
        from millrace.io.clock import now_ns
        from millrace.io.paths import API_SOCKET
        from millrace.io.timer import TimerRunner
        from millrace.lab.sync import FlashFace
        from millrace.sim.desktop import Desktop
        from millrace.sim.painted import PaintedMachine

        self._guest, timer = daemon.worker.guests["default"], TimerRunner()
        self._machine = PaintedMachine(Desktop(scene="typing"), poke=timer.rearm)
        self._timer, self._face = timer, FlashFace(now_ns)
        self._screen = self._guest.screens.add(self._machine, "demo desktop", "demo")
        self._machine.show(self._screen, now_ns())
        timer.drive(self._machine, asyncio.get_running_loop())
        self._clicks = self._machine.clicks(self._guest.graph)
        options = ViewerOptions(name="demo", socket=daemon.config.runtime / API_SOCKET)
        self.viewer = Viewer("ws://localhost/default", self._face, options, listener)
        self._rates: list[int] = []

    def note_rate(self) -> None:
        """Note what its pictures take of the line."""
        self._rates += [session.times.bitrate for session in self._guest.viewers.sessions]

    async def settle(self) -> bool:
        """Stop painting and clicking; whether the viewer's picture then equals the painted one."""
        import asyncio

        import numpy as np

        self._guest.graph.remove_stream(self._clicks)
        self._timer.stop()
        painted = self._machine.desktop.picture
        for _ in range(20):
            await asyncio.sleep(0.05)
            seen = self.viewer.canvas.pixels
            if seen.shape == painted.shape and np.array_equal(seen[:, :, :3], painted[:, :, :3]):
                return True
        return False

    def go_on(self) -> None:
        """Paint and click again, for whoever comes."""
        import asyncio

        self._timer.drive(self._machine, asyncio.get_running_loop())
        self._clicks = self._machine.clicks(self._guest.graph)

    def tell(self, exact: bool, output: HeardOutput | None) -> None:
        """Print what was seen, and how far it was from what was heard."""
        from millrace.lab.sync import skews

        face, figures = self._face, self.viewer.figures.as_dict()
        whole = "the last one exactly as painted" if exact else "the last one not as painted"
        size = self._machine.desktop.size
        tell(f"seen        {len(face.seen)} pictures of a desktop of {size.width} × {size.height}, {whole}")
        if figures["latency_ms"] is not None:
            took, rate = figures["latency_ms"]["p50"], max(self._rates, default=0) / 1000
            waits = ", which waits for the sound" if output else ""
            tell(f"picture     {took:.0f} ms from painting to drawing{waits}; {rate:,.0f} kb/s")
        tell(f"skew        {_spread(skews(face.flashes, output.clicks() if output else []))}")

    def close(self) -> None:
        """The machine is gone."""
        self._timer.stop()
        self._guest.screens.remove(self._screen)


def _spread(found: Sequence[int]) -> str:
    import statistics

    if not found:
        return "not measured: no flash was seen together with its click"
    low, middle, high = (one / 1e6 for one in (min(found), statistics.median(found), max(found)))
    what = f"{len(found)} flashes against their clicks"
    return f"the picture comes {middle:+.0f} ms after its sound ({what}: {low:+.0f} to {high:+.0f} ms)"
