"""Sound devices through miniaudio: ALSA, PulseAudio, JACK, sndio, OSS, Core Audio, WASAPI and others."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from millrace.backends.base import OutputWatch, Pull, Unwatched
from millrace.dsp.convert import Samples
from millrace.errors import ConfigError, NoDevice
from millrace.units import NS_PER_MS, NS_PER_S, HostNs, Positions, default_map

log = logging.getLogger("millrace.backends")
CAPTURE_RATE, CAPTURE_MS = 48_000, 10
BUFFER_MS = {"low": 10, "normal": 20, "robust": 60}
STILL_NS: HostNs = NS_PER_S
"""A device with no callback for this long is said to ask for nothing."""
NO_CALLBACK_NS: HostNs = 3 * NS_PER_S
"""A device with no callback for this long is treated as lost, whatever state it reports. PulseAudio's null sink, its
"Dummy Output", takes up to 2 s at once, and then nothing for as long."""
FIRST_NS: HostNs = 4 * NS_PER_S
"""The first callback may take longer: the card may have been asleep."""
RETRY_S, LOOK_S = 0.5, 0.25
GONE = "is gone; waiting for it to return"
SILENT = f"has asked for nothing for {NO_CALLBACK_NS // NS_PER_S} s; opening it again"
"""What is known of a lost device: that it has stopped, or only that its callback is not called."""


@contextmanager
def _without_alsa_messages() -> Iterator[None]:
    """Silence stderr: without a card, ALSA's library writes to it. The caller's own message is better."""
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "wb") as kept, open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept.fileno(), 2)


def device_names() -> list[str]:
    """Names of the available playback devices."""
    with _without_alsa_messages():
        return _playbacks()


def _playbacks() -> list[str]:
    import miniaudio

    try:
        return [str(device["name"]) for device in miniaudio.Devices().get_playbacks()]
    except miniaudio.MiniaudioError:
        return []


# Three threads meet here. The driver's thread calls `_called`, which moves sound, and `_gone`, which only notes the
# time and sets an event: a device must not be closed from its own callback. The keeper's thread closes and reopens. The
# owner's thread only starts and stops it, and closes in yet another thread, because some drivers hang in `close` once
# the card is unplugged.
#
# Reports of the driver alone are not enough: some stop calling without a word, and still report a started device after
# its sound server was killed. So a device also counts as lost when its callback has been silent for NO_CALLBACK_NS at
# two checks in a row. Before that it is only said to be still: to close a device that is there loses sound.
class _Device(ABC):
    """A device that its own thread reopens after it is lost, because it was unplugged or its sound server ended."""

    def __init__(self, kind: str, wanted: str) -> None:
        self.name = f"{kind}:{wanted}" if wanted else kind
        self._wanted = wanted
        self._device: Any = None
        self._device_lock = threading.Lock()
        self._called_ns: HostNs = 0
        self._lost_ns: HostNs = 0
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._keeper: threading.Thread | None = None
        self._watch: OutputWatch = Unwatched()

    @abstractmethod
    def _open(self) -> Any:
        """Open and start the device; MiniaudioError or NoDevice if there is none."""

    @abstractmethod
    def _names(self) -> list[tuple[str, Any]]:
        """The available devices, as (name, ID)."""

    def _find(self) -> Any:
        if not self._wanted:
            return None
        names = self._names()
        for name, id_ in names:
            if self._wanted.lower() in name.lower():
                return id_
        raise NoDevice(
            f"no sound device named {self._wanted!r}; there are: {', '.join(name for name, _ in names) or 'none'}"
        )

    def _begin(self, without: str) -> None:
        """Open the device and start the thread that keeps it open. NoDevice on failure; its text ends in `without`."""
        import miniaudio

        try:
            self._device = self._opened()
        except miniaudio.MiniaudioError as error:
            raise NoDevice(f"no sound device was found ({error.args[0]}); {without}") from None
        self._keeper = threading.Thread(target=self._keep, name=self.name, daemon=True)
        self._keeper.start()

    def _opened(self) -> Any:
        # In the future, so that the first callback may take FIRST_NS before the device counts as lost.
        self._lost_ns, self._called_ns = 0, time.monotonic_ns() + FIRST_NS - NO_CALLBACK_NS
        with _without_alsa_messages():
            device = self._open()
        device.stop_callback = self._gone
        return device

    def _gone(self) -> None:
        """The device reports that it has stopped."""
        self._lost_ns = time.monotonic_ns()
        self._wake.set()

    def _keep(self) -> None:
        still, silent_ns = False, 0
        while not self._stopping.is_set():
            self._wake.wait(LOOK_S)
            self._wake.clear()
            # Act only on the second check: if this whole process was suspended, the device is about to call again.
            before_ns, silent_ns = silent_ns, time.monotonic_ns() - self._called_ns
            both_ns = min(before_ns, silent_ns)
            if self._stopping.is_set():
                return
            if self._lost_ns or both_ns > NO_CALLBACK_NS:
                still, silent_ns = False, 0
                self._revive(
                    self._lost_ns or min(self._called_ns, time.monotonic_ns()), GONE if self._lost_ns else SILENT
                )
            elif still != (both_ns > STILL_NS):
                still = not still
                self._watch.device_still(still)

    def _revive(self, lost_ns: HostNs, what: str) -> None:
        """Close the lost device, and retry until it, or another that fits, can be opened."""
        import miniaudio

        self._watch.device_lost(lost_ns, what)
        self._close()
        reason = ""
        while not self._stopping.wait(RETRY_S):
            try:
                device = self._opened()
            except (miniaudio.MiniaudioError, ConfigError) as error:
                # It is tried again every second: each reason is logged once.
                if str(error.args[0]) != reason:
                    reason = str(error.args[0])
                    log.warning("%s can't be opened, trying again until it can: %s", self.name, reason)
                continue
            if self._keep_open(device):
                self._watch.device_back()
            return

    # `stop` sets `_stopping` before it takes the device: under the lock, either this sees it or `stop` gets the device.
    def _keep_open(self, device: Any) -> bool:
        """Keep a device that was just reopened, or close it if `stop` was called meanwhile."""
        with self._device_lock:
            if not self._stopping.is_set():
                self._device = device
                return True
        device.close()
        return False

    def _close(self) -> None:
        with self._device_lock:
            device, self._device = self._device, None
        if device is not None:
            device.close()

    def stop(self) -> None:
        """Close the device. A driver that hangs is left behind in its thread."""
        self._stopping.set()
        self._wake.set()
        closing = threading.Thread(target=self._close, daemon=True)
        closing.start()
        closing.join(RETRY_S)


class DeviceOutput(_Device):
    """Plays on the default device, or on the first whose name contains `wanted`."""

    def __init__(self, wanted: str, profile: str) -> None:
        super().__init__("device", wanted)
        self._buffer_ms = BUFFER_MS[profile]
        self._rate, self._channels = 0, 0
        self._pull: Pull = lambda block: None

    def _names(self) -> list[tuple[str, Any]]:
        import miniaudio

        return [(str(device["name"]), device["id"]) for device in miniaudio.Devices().get_playbacks()]

    def start(self, rate: int, positions: Positions, pull: Pull, watch: OutputWatch) -> HostNs:
        """See `ClockedOutput`."""
        self._rate, self._channels, self._pull, self._watch = rate, len(positions), pull, watch
        self._begin("use --to null:, raw:- or wav:FILE")
        return self._buffer_ms * NS_PER_MS

    def _open(self) -> Any:
        import miniaudio

        device = miniaudio.PlaybackDevice(
            miniaudio.SampleFormat.FLOAT32, self._channels, self._rate, self._buffer_ms, self._find(),
            app_name="Millrace",
        )  # fmt: skip
        feeder = _feeder(self._channels, self._called)
        next(feeder)
        device.start(feeder)
        return device

    def _called(self, block: Samples) -> None:
        self._called_ns = time.monotonic_ns()
        self._pull(block)


class DeviceInput(_Device):
    """Captures mono at 48 kHz from the default device, or the first whose name contains `wanted`."""

    def __init__(self, wanted: str) -> None:
        super().__init__("device", wanted)
        self.positions: Positions = default_map(1)
        self._push: Pull = lambda block: None

    def _names(self) -> list[tuple[str, Any]]:
        import miniaudio

        return [(str(device["name"]), device["id"]) for device in miniaudio.Devices().get_captures()]

    def start(self, push: Pull) -> None:
        """Start passing blocks to `push`, from the device's own thread; NoDevice if there is none."""
        self._push = push
        self._begin("use --mic wav:FILE or tone:440")

    def _open(self) -> Any:
        import miniaudio

        device = miniaudio.CaptureDevice(
            miniaudio.SampleFormat.FLOAT32, 1, CAPTURE_RATE, CAPTURE_MS, self._find(), app_name="Millrace"
        )
        taker = _taker(self._called)
        next(taker)
        device.start(taker)
        return device

    def _called(self, block: Samples) -> None:
        self._called_ns = time.monotonic_ns()
        self._push(block)


def _taker(push: Pull) -> Generator[None, bytes, None]:
    """miniaudio's capture callback: a generator that receives bytes."""
    while True:
        data = yield
        push(np.frombuffer(data, np.float32).reshape(-1, 1).copy())


def _feeder(channels: int, pull: Pull) -> Generator[bytes, int, None]:
    """miniaudio's playback callback: a generator that receives a frame count and yields bytes."""
    frames = yield b""
    while True:
        block = np.zeros((frames, channels), np.float32)
        pull(block)
        frames = yield block.tobytes()
