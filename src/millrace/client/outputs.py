"""Makes the output that `--to` names."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from millrace.backends.base import ClockedOutput, FileOutput, OutputWatch
from millrace.backends.clocked import PERIOD_LOW_NS, PERIOD_NS, NullOutput, RawOutput
from millrace.backends.wav import WavOutput
from millrace.dsp.convert import SampleFormat
from millrace.errors import ConfigError, OutputLost
from millrace.io.files import open_output
from millrace.text import parse_decimal, quoted
from millrace.units import HostNs

CHOICES = "device, device:NAME, wav:FILE, wav32:FILE, raw:-, raw:FILE, null:, null:+300ppm"
PPM_MAX = 5000


class InLoop:
    """Passes an output's notifications from its own thread to the event loop, unless the loop is closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, watch: OutputWatch) -> None:
        self._loop, self._watch = loop, watch

    def _hand(self, call: Callable[..., None], *args: HostNs | OutputLost | str | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *args)

    def output_ended(self, why: OutputLost | None) -> None:
        """See `OutputWatch`."""
        self._hand(self._watch.output_ended, why)

    def device_still(self, still: bool) -> None:
        """See `OutputWatch`."""
        self._hand(self._watch.device_still, still)

    def device_lost(self, at_ns: HostNs, what: str) -> None:
        """See `OutputWatch`."""
        self._hand(self._watch.device_lost, at_ns, what)

    def device_back(self) -> None:
        """See `OutputWatch`."""
        self._hand(self._watch.device_back)


def make_output(text: str, profile: str, replace: bool = True) -> ClockedOutput | FileOutput:
    """The output that `text` names; ConfigError lists the choices. `replace`: what is there may be overwritten."""
    kind, _, rest = text.partition(":")
    if kind == "device":
        from millrace.backends.device import DeviceOutput

        return DeviceOutput(rest, profile)
    if kind in ("wav", "wav32") and rest:
        sample = SampleFormat.S16LE if kind == "wav" else SampleFormat.F32LE
        return WavOutput(Path(rest), sample, partial(open_output, replace=replace))
    if kind == "null":
        return NullOutput(_period_ns(profile), _ppm(rest) if rest else 0.0)
    if kind == "raw" and rest:
        return _raw(rest, _period_ns(profile), replace)
    raise ConfigError(f"--to {quoted(text)}: use one of {CHOICES}")


def _ppm(text: str) -> float:
    return parse_decimal(text, "--to null: (alone, or with a clock error, null:+300ppm)", -PPM_MAX, PPM_MAX, "ppm")


def _period_ns(profile: str) -> int:
    return PERIOD_LOW_NS if profile == "low" else PERIOD_NS


def _raw(where: str, period_ns: int, replace: bool) -> RawOutput:
    if where == "-":
        # A private, unbuffered duplicate of stdout, which nothing else in this process writes to.
        return RawOutput(os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0), "-", period_ns)
    return RawOutput(open_output(Path(where), replace), where, period_ns)
