"""Latency, fill and ratio over time, as PNG."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from millrace.errors import ConfigError, OutputLost
from millrace.io.files import write_whole
from millrace.lab.dryrun import DryRun

POINTS_MAX = 4000


def plot(day: DryRun, folder: Path) -> Path:
    """Draw one run into `folder`; ConfigError if matplotlib is missing, OutputLost if there is no room."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("plots need matplotlib: install Millrace with the extra `lab` (README.md, Install)") from None
    trace = day.trace
    step = max(1, len(trace.at_ns) // POINTS_MAX)
    hours = np.array(trace.at_ns)[::step] / 3.6e12
    figure = Figure(figsize=(10, 8), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    top.plot(hours, trace.latency_ns[::step] / 1e6, lw=0.8, label="latency")
    target = np.array(trace.target_ns)[::step] + day.scenario.path.delay_ns
    top.plot(hours, target / 1e6, lw=0.8, label="target and path")
    top.set_ylabel("ms")
    top.legend(loc="upper right")
    top.set_title(f"{day.policy.name}, {day.scenario.name}, {day.hours:g} h")
    middle.plot(hours, np.array(trace.fill_ns)[::step] / 1e6, lw=0.3)
    middle.set_ylabel("fill, ms")
    bottom.plot(hours, trace.ratio_ppm[::step], lw=0.8)
    bottom.set_ylabel("ratio error, ppm")
    bottom.set_xlabel("hours")
    for axis in (top, middle, bottom):
        axis.grid(alpha=0.3)
    path = folder / f"{day.scenario.name.replace('/', '_')}_{day.policy.name}.png"
    FigureCanvasAgg(figure)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputLost(f"{folder}: {error.strerror}") from None
    write_whole(path, drawn.getvalue())
    return path
