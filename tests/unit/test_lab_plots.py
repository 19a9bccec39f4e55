"""A day of the laboratory as a picture."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.backends import backend_agg

from millrace.errors import ConfigError, OutputLost
from millrace.lab.dryrun import Trace
from millrace.lab.plots import POINTS_MAX, plot
from millrace.lab.scenario import Scenario
from millrace.sim.net import Path as NetPath
from millrace.units import NS_PER_MS, NS_PER_S

HOUR = 3600 * NS_PER_S


def day(samples: int) -> Any:
    """A run whose figures can be told apart: latency 30 ms and up, target 20 ms, path 5 ms, fill 7 ms, 12 ppm."""
    at = np.linspace(0, 2 * HOUR, samples)
    trace = Trace(at.tolist(), [0.0] * samples, [20.0 * NS_PER_MS] * samples, [7.0 * NS_PER_MS] * samples)
    trace.latency_ns = (30 + np.arange(samples)) * NS_PER_MS
    trace.ratio_ppm = np.full(samples, 12.0)
    scenario = Scenario("ppm200/exp3/loss2", NetPath(delay_ns=5 * NS_PER_MS))
    return SimpleNamespace(trace=trace, scenario=scenario, hours=2.0, policy=SimpleNamespace(name="millrace"))


def test_day_is_plotted_with_its_figures_and_limited_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []

    class Canvas(backend_agg.FigureCanvasAgg):
        def __init__(self, figure: Any) -> None:
            super().__init__(figure)
            drawn.append(figure)

    monkeypatch.setattr(backend_agg, "FigureCanvasAgg", Canvas)
    samples = 3 * POINTS_MAX + 7
    path = plot(day(samples), tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "ppm200_exp3_loss2_millrace.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    top, middle, bottom = drawn[0].axes
    latency, target = top.get_lines()
    assert len(latency.get_xdata()) <= POINTS_MAX + 3
    assert latency.get_xdata()[0] == 0 and latency.get_xdata()[-1] == pytest.approx(2.0, abs=0.001)
    assert latency.get_ydata()[:3].tolist() == [30, 33, 36] and set(target.get_ydata()) == {25.0}
    assert set(middle.get_lines()[0].get_ydata()) == {7.0} and set(bottom.get_lines()[0].get_ydata()) == {12.0}
    assert [text.get_text() for text in top.get_legend().get_texts()] == ["latency", "target and path"]
    assert top.get_title() == "millrace, ppm200/exp3/loss2, 2 h"
    assert [axis.get_ylabel() for axis in (top, middle, bottom)] == ["ms", "fill, ms", "ratio error, ppm"]


def test_failed_plot_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, format: file.write(b"drawn"))
    assert plot(day(2), tmp_path).read_bytes() == b"drawn"
    (tmp_path / "file").touch()
    with pytest.raises(OutputLost, match="file/x: Not a directory"):
        plot(day(2), tmp_path / "file" / "x")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"install Millrace with the extra `lab`"):
        plot(day(2), tmp_path)
    assert sorted(one.suffix for one in tmp_path.iterdir()) == ["", ".png"]
