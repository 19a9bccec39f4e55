"""How other programs keep time, from the constants in their sources, for the same simulated network and card.

Each is reduced to its rule: when to start, how fast to play, when to jump. Those with a fixed target latency all get
the same one, so that rules are compared and not defaults. The constants are those of the files named in `source`, as
published; none of their code is used.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

import numpy as np

from millrace.units import NS_PER_MS, NS_PER_S, Frames, HostNs

TARGET_NS = 45.0 * NS_PER_MS


class Policy(Protocol):
    """What the laboratory runs. Times are in ns, on the listener's clock unless they are media times."""

    @property
    def name(self) -> str:
        """The name in the table."""
        ...

    @property
    def underruns(self) -> int:
        """Audible gaps."""
        ...

    @property
    def concealed(self) -> int:
        """Gaps that were concealed."""
        ...

    @property
    def resyncs(self) -> int:
        """Jumps while playing."""
        ...

    @property
    def splices(self) -> int:
        """Small corrections of the sound itself."""
        ...

    @property
    def speed(self) -> float:
        """Media seconds per second of the card."""
        ...

    @property
    def target_ns(self) -> float:
        """Its target latency, beyond the path's best."""
        ...

    @property
    def locked(self) -> bool:
        """It considers itself locked."""
        ...

    def arrived(self, media_ns: HostNs, frames: Frames, now_ns: HostNs) -> None:
        """A packet arrived."""
        ...

    def pull(self, frames: Frames, now_ns: HostNs) -> float | None:
        """Capture time of the first frame heard, or None."""
        ...


class FillPolicy:
    """A queue that starts at a given fill, plays at `speed`, and starts again after an underrun."""

    name = "none"
    source = "QEMU, qapi/audio.json: timer-period 10 ms and a fixed buffer-length, no rate matching"
    full_factor = 2.0

    def __init__(self, rate: int, period: Frames, packet_ns: HostNs) -> None:
        self.rate, self.period, self.packet_ns = rate, period, packet_ns
        self.underruns = self.concealed = self.resyncs = self.splices = 0
        self.speed = 1.0
        self.target_ns = TARGET_NS
        self.locked = False
        self._tail_ns = 0.0
        self._fill_ns = 0.0
        self._playing = False
        self._began = False

    def arrived(self, media_ns: HostNs, frames: Frames, now_ns: HostNs) -> None:
        """See `Policy`."""
        del now_ns
        length = frames * NS_PER_S / self.rate
        if self._began and 0 < media_ns - self._tail_ns < NS_PER_S:
            self._fill_ns += media_ns - self._tail_ns
        self._began = True
        self._fill_ns += length
        self._tail_ns = media_ns + length
        if self._fill_ns > self.full_factor * self.target_ns + self.packet_ns:
            self._overflow()

    def _overflow(self) -> None:
        """The buffer is full: discard the excess."""
        self._fill_ns = self.target_ns
        self.resyncs += 1

    def pull(self, frames: Frames, now_ns: HostNs) -> float | None:
        """See `Policy`."""
        length = frames * NS_PER_S / self.rate
        if not self._playing:
            if self._fill_ns < self.target_ns:
                return None
            self._playing = True
        self._steer(now_ns, length)
        if self._fill_ns < length * self.speed:
            self._playing = False
            self.underruns += 1
            self._restart()
            return None
        head = self._tail_ns - self._fill_ns
        self._fill_ns -= length * self.speed
        return head

    def _steer(self, now_ns: HostNs, length_ns: float) -> None:
        """Choose `speed`."""
        del now_ns, length_ns

    def _restart(self) -> None:
        """Start over after an underrun."""


class PipeWireDll(FillPolicy):
    """A DLL of fixed bandwidth over the fill."""

    name = "pipewire"
    source = "PipeWire, spa/utils/dll.h (BW_MIN 0.016 Hz) and module-rtp/audio.c (error held within 2 ms)"
    full_factor = 8.0
    _BANDWIDTH_HZ, _ERROR_MAX_MS = 0.016, 2.0

    def __init__(self, rate: int, period: Frames, packet_ns: HostNs) -> None:
        super().__init__(rate, period, packet_ns)
        w = 2 * math.pi * self._BANDWIDTH_HZ * period / rate
        self._w = 1.0 - math.exp(-20.0 * w), w * 1.5 / period, w / 1.5
        self._z = [0.0, 0.0, 0.0]

    def _steer(self, now_ns: HostNs, length_ns: float) -> None:
        error_max = self._ERROR_MAX_MS * self.rate / 1000
        error = (self.target_ns - self._fill_ns) * self.rate / NS_PER_S
        error = max(-error_max, min(error_max, error))
        (w0, w1, w2), z = self._w, self._z
        z[0] += w0 * (w1 * error - z[0])
        z[1] += w0 * (z[0] - z[1])
        z[2] += w2 * z[1]
        self.speed = 1.0 - (z[1] + z[2])
        self.locked = abs(error) < error_max


class LookingGlassPi(FillPolicy):
    """A PI loop over a filtered fill, with a deadband: wide bandwidth at first, narrow later."""

    name = "looking-glass"
    source = "Looking Glass, client/src/audio.c: 0.05 to 0.005 Hz, 0.5 ms deadband, ±0.5 %"
    _WIDE_HZ, _NARROW_HZ, _DEADBAND_NS, _LIMIT = 0.05, 0.005, 0.5 * NS_PER_MS, 0.005

    def __init__(self, rate: int, period: Frames, packet_ns: HostNs) -> None:
        super().__init__(rate, period, packet_ns)
        self._restart()

    def _restart(self) -> None:
        self._smooth: float | None = None
        self._integral = 0.0
        self._quiet_s = 0.0

    def _steer(self, now_ns: HostNs, length_ns: float) -> None:
        dt = length_ns / NS_PER_S
        error = self._fill_ns - self.target_ns
        # Filter out the sawtooth that packets and periods cause in the fill.
        self._smooth = error if self._smooth is None else self._smooth + (error - self._smooth) * min(1.0, dt)
        small = abs(self._smooth) < self._DEADBAND_NS
        self._quiet_s = self._quiet_s + dt if small else 0.0
        w = 2 * math.pi * (self._NARROW_HZ if self._quiet_s > 5.0 else self._WIDE_HZ)
        used = 0.0 if small else self._smooth / NS_PER_S
        self._integral = max(-self._LIMIT, min(self._LIMIT, self._integral + w * w * used * dt))
        self.speed = 1.0 + max(-self._LIMIT, min(self._LIMIT, math.sqrt(2) * w * used + self._integral))
        self.locked = small


class RocGradual(FillPolicy):
    """A gentle PI loop over the queue's length, every 5 ms."""

    name = "roc"
    source = "Roc, roc_audio/freq_estimator.cpp (gradual: P 1e-6, I 1e-10 a frame) and ±0.5 % scaling"
    _P, _I, _LIMIT, _EVERY_NS = 1e-6, 1e-10, 0.005, 5.0 * NS_PER_MS
    _DECIMATION = 60

    def __init__(self, rate: int, period: Frames, packet_ns: HostNs) -> None:
        super().__init__(rate, period, packet_ns)
        self._integral, self._since_ns = 0.0, 0.0
        self._window: deque[float] = deque(maxlen=self._DECIMATION)

    def _steer(self, now_ns: HostNs, length_ns: float) -> None:
        self._since_ns += length_ns
        if self._since_ns < self._EVERY_NS:
            return
        self._since_ns = 0.0
        self._window.append((self._fill_ns - self.target_ns) * self.rate / NS_PER_S)
        error = sum(self._window) / len(self._window)
        self._integral = max(-self._LIMIT, min(self._LIMIT, self._integral + self._I * error))
        self.speed = 1.0 + max(-self._LIMIT, min(self._LIMIT, self._P * error + self._integral))
        self.locked = abs(error) < self.rate / 1000


class AgePolicy(FillPolicy):
    """Knows each frame's capture time and a synchronised clock: steers by age, not by fill."""

    _SYNC_PINGS = 200

    def __init__(self, rate: int, period: Frames, packet_ns: HostNs) -> None:
        super().__init__(rate, period, packet_ns)
        self._offsets: deque[float] = deque(maxlen=self._SYNC_PINGS)
        self._offset_ns = 0.0
        self._pinged_ns = -NS_PER_S

    def arrived(self, media_ns: HostNs, frames: Frames, now_ns: HostNs) -> None:
        """See `Policy`; also measures the offset once a second."""
        super().arrived(media_ns, frames, now_ns)
        if now_ns - self._pinged_ns >= NS_PER_S:
            self._pinged_ns = now_ns
            self._offsets.append(now_ns - media_ns)
            self._offset_ns = float(np.median(self._offsets))

    def age_ns(self, now_ns: HostNs) -> float:
        """How much older than wanted the next frame is."""
        return now_ns - (self._tail_ns - self._fill_ns) - self._offset_ns - self.target_ns


class SnapcastSync(AgePolicy):
    """Drops or doubles single frames by the medians of the age; jumps if those are far off."""

    name = "snapcast"
    source = (
        "Snapcast, client/stream.cpp: medians of 20, 100 and 500; hard at 50, 5 and 2 ms; soft from 0.1 ms, ±0.05 %"
    )
    _SOFT_NS, _RATE_MAX = 0.1 * NS_PER_MS, 0.0005

    def __init__(self, rate: int, period: Frames, packet_ns: HostNs) -> None:
        super().__init__(rate, period, packet_ns)
        self._mini: deque[float] = deque(maxlen=20)
        self._short: deque[float] = deque(maxlen=100)
        self._long: deque[float] = deque(maxlen=500)
        self._pulls = 0

    def _restart(self) -> None:
        for buffer in (self._mini, self._short, self._long):
            buffer.clear()

    def _steer(self, now_ns: HostNs, length_ns: float) -> None:
        age = self.age_ns(now_ns)
        for buffer in (self._mini, self._short, self._long):
            buffer.append(age)
        self._pulls += 1
        if self._pulls % 20:
            return
        mini, short, long = (float(np.median(b)) for b in (self._mini, self._short, self._long))
        for buffer, value, limit_ms in ((self._long, long, 2), (self._short, short, 5), (self._mini, mini, 50)):
            if len(buffer) == buffer.maxlen and abs(value) > limit_ms * NS_PER_MS:
                self._fill_ns = max(0.0, self._fill_ns - age)
                self.resyncs += 1
                self._restart()
                return
        self.speed = 1.0
        if abs(short) > self._SOFT_NS and abs(mini) > self._SOFT_NS / 2 and len(self._short) == self._short.maxlen:
            change = min(abs(short) / (100 * 1000) * 0.00005, self._RATE_MAX)
            self.speed = 1.0 + math.copysign(change, short)
            self.splices += 1
        self.locked = abs(short) < 2 * NS_PER_MS


class NetEq(FillPolicy):
    """The target is a quantile of the arrival delays; 10 ms are cut or inserted if the level is off."""

    name = "neteq"
    source = "WebRTC, modules/audio_coding/neteq: delay_manager.cc (quantile 0.95, forgetting 0.983, 20 ms bins)"
    _QUANTILE, _FORGET, _BIN_NS, _BINS = 0.95, 0.983, 20.0 * NS_PER_MS, 100
    _STEP_NS, _WINDOW_NS = 10.0 * NS_PER_MS, 2.0 * NS_PER_S

    def __init__(self, rate: int, period: Frames, packet_ns: HostNs) -> None:
        super().__init__(rate, period, packet_ns)
        self._counts = np.zeros(self._BINS)
        self._recent: deque[tuple[float, float]] = deque()
        self._level_ns: float | None = None
        self._since_ns = 0.0
        self.target_ns = 80.0 * NS_PER_MS

    def arrived(self, media_ns: HostNs, frames: Frames, now_ns: HostNs) -> None:
        """See `Policy`."""
        super().arrived(media_ns, frames, now_ns)
        delay = now_ns - media_ns
        while self._recent and self._recent[0][0] < now_ns - self._WINDOW_NS:
            self._recent.popleft()
        while self._recent and self._recent[-1][1] >= delay:
            self._recent.pop()
        self._recent.append((now_ns, delay))
        late = delay - self._recent[0][1]
        self._counts *= self._FORGET
        self._counts[min(self._BINS - 1, int(late / self._BIN_NS))] += 1 - self._FORGET
        reached = int(np.searchsorted(np.cumsum(self._counts), self._QUANTILE * self._counts.sum()))
        self.target_ns = (1 + reached) * self._BIN_NS

    def _overflow(self) -> None:
        """Nothing is discarded below the limit of 200 packets."""

    def _steer(self, now_ns: HostNs, length_ns: float) -> None:
        level = self._fill_ns
        self._level_ns = level if self._level_ns is None else self._level_ns + (level - self._level_ns) / 64
        self._since_ns += length_ns
        low = 0.75 * self.target_ns
        high = max(self.target_ns, low + 20 * NS_PER_MS)
        self.locked = low <= self._level_ns <= high
        if self._since_ns < 10 * NS_PER_MS:
            return
        change = -self._STEP_NS if self._level_ns > high else self._STEP_NS if self._level_ns < low else 0.0
        if change and self._fill_ns > 30 * NS_PER_MS - change:
            self._since_ns = 0.0
            self._fill_ns += change
            self._level_ns += change
            self.splices += 1

    def _restart(self) -> None:
        self._level_ns = None


OTHERS: tuple[type[FillPolicy], ...] = (FillPolicy, SnapcastSync, PipeWireDll, LookingGlassPi, RocGradual, NetEq)
