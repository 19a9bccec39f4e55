"""Sound cards by miniaudio: ALSA, PulseAudio, JACK, sndio, OSS, Core Audio, WASAPI and others."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from millrace.backends.base import Pull
from millrace.errors import ConfigError
from millrace.units import NS_PER_MS, HostNs, Positions, default_map

CAPTURE_RATE, CAPTURE_MS = 48_000, 10
BUFFER_MS = {"low": 10, "normal": 20, "robust": 60}


@contextmanager
def _without_alsa_messages() -> Iterator[None]:
    """ALSA's library writes to stderr by itself when there is no card: the caller says it better."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def device_names() -> list[str]:
    """Names of the playback devices there are."""
    with _without_alsa_messages():
        return _playbacks()


def _playbacks() -> list[str]:
    import miniaudio

    try:
        return [str(device["name"]) for device in miniaudio.Devices().get_playbacks()]
    except miniaudio.MiniaudioError:
        return []


class DeviceOutput:
    """Plays on the default device, or the first whose name contains `wanted`."""

    def __init__(self, wanted: str, profile: str) -> None:
        self.name = f"device:{wanted}" if wanted else "device"
        self._wanted = wanted
        self._buffer_ms = BUFFER_MS[profile]
        self._device: Any = None
        self.on_end: Callable[[], None] = lambda: None

    def _find(self, miniaudio: Any) -> Any:
        if not self._wanted:
            return None
        for device in miniaudio.Devices().get_playbacks():
            if self._wanted.lower() in device["name"].lower():
                return device["id"]
        raise ConfigError(f"no sound device named {self._wanted!r}; there are: {', '.join(device_names()) or 'none'}")

    def start(self, rate: int, positions: Positions, pull: Pull) -> HostNs:
        """See `ClockedOutput`."""
        import miniaudio

        try:
            self._device = miniaudio.PlaybackDevice(
                miniaudio.SampleFormat.FLOAT32, len(positions), rate, self._buffer_ms, self._find(miniaudio),
                app_name="Millrace",
            )  # fmt: skip
            feeder = _feeder(len(positions), pull)
            next(feeder)
            self._device.start(feeder)
        except miniaudio.MiniaudioError as error:
            raise ConfigError(f"no sound device to play on ({error}); use --to wav:FILE, raw:- or null:") from None
        return self._buffer_ms * NS_PER_MS

    def stop(self) -> None:
        """See `ClockedOutput`."""
        if self._device is not None:
            device, self._device = self._device, None
            device.close()


class DeviceInput:
    """Captures mono at 48 kHz from the default device, or the first whose name contains `wanted`."""

    def __init__(self, wanted: str) -> None:
        self.name = f"device:{wanted}" if wanted else "device"
        self.positions: Positions = default_map(1)
        self._wanted = wanted
        self._device: Any = None

    def _find(self, miniaudio: Any) -> Any:
        if not self._wanted:
            return None
        names = []
        for device in miniaudio.Devices().get_captures():
            names.append(str(device["name"]))
            if self._wanted.lower() in names[-1].lower():
                return device["id"]
        raise ConfigError(f"no microphone named {self._wanted!r}; there are: {', '.join(names) or 'none'}")

    def start(self, push: Pull) -> None:
        """Hand over blocks from the device's own thread; ConfigError where there is no device."""
        import miniaudio

        try:
            with _without_alsa_messages():
                self._device = miniaudio.CaptureDevice(
                    miniaudio.SampleFormat.FLOAT32, 1, CAPTURE_RATE, CAPTURE_MS, self._find(miniaudio),
                    app_name="Millrace",
                )  # fmt: skip
                taker = _taker(push)
                next(taker)
                self._device.start(taker)
        except miniaudio.MiniaudioError as error:
            raise ConfigError(f"no microphone to record ({error}); use --mic wav:FILE or tone:440") from None

    def stop(self) -> None:
        """End."""
        if self._device is not None:
            device, self._device = self._device, None
            device.close()


def _taker(push: Pull) -> Generator[None, bytes, None]:
    """miniaudio's capture callback: a generator that is sent bytes."""
    while True:
        data = yield
        push(np.frombuffer(data, np.float32).reshape(-1, 1).copy())


def _feeder(channels: int, pull: Pull) -> Generator[bytes, int, None]:
    """miniaudio's callback: a generator that is sent a frame count and yields bytes."""
    frames = yield b""
    while True:
        block = np.zeros((frames, channels), np.float32)
        pull(block)
        frames = yield block.tobytes()
