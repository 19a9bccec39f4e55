"""Native streams: the client's side of the ring buffer in shared memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from millrace.dsp.convert import BY_NAME, SampleFormat, Samples, decode, encode
from millrace.errors import ConfigError, PeerLost, RemoteProtocolError
from millrace.io.descriptors import Descriptors
from millrace.io.shared import Bell, mapped
from millrace.text import quoted
from millrace.units import Frames, frames_to_ns
from millrace.wire.native.messages import Begun
from millrace.wire.native.ring import Ring, ring_bytes

DESCRIPTORS = 3
"""A stream's descriptors: its memory, the pipe that wakes us, and the pipe that wakes the daemon."""

Open = Callable[[str, "NativeStream", dict[str, Any]], Awaitable[None]]


class NativeStream:
    """What playback and recording have in common. `async with` opens and closes the stream."""

    method = ""

    def __init__(self, open_: Open, options: dict[str, Any]) -> None:
        self._open, self._options = open_, options
        self.id = 0
        self.rate = 0
        self.channels = 0
        self.capacity: Frames = 0
        self.target: Frames = 0
        self.format = SampleFormat.F32LE
        self.why = ""
        """Why the stream ended; empty while it is open."""
        self.underruns = 0
        self._ring: Ring | None = None
        self._memory: Any = None
        self._bell: Bell | None = None
        self._woken = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Open the stream. Options: guest, at (a sink or source), name, format (float32le, s16le, …), rate, channels,
        positions, latency_ms, props."""
        await self._open(self.method, self, self._options)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.why:
            try:
                await self._open("close", self, {"stream": self.id})
            finally:
                self.ended("it was closed locally")

    def began(self, made: Begun, fds: Descriptors) -> None:
        """The daemon has created the stream; raises RemoteProtocolError if its description is invalid."""
        if len(fds) != DESCRIPTORS:
            raise RemoteProtocolError(f"a stream needs {DESCRIPTORS} descriptors, not {len(fds)}")
        sample = BY_NAME.get(made.format)
        if sample is None or made.bytes < ring_bytes(made.capacity, made.frame_bytes):
            raise RemoteProtocolError(f"invalid stream: {made.bytes} bytes in format {quoted(made.format)}")
        self.id, self.rate, self.channels = made.stream, made.rate, len(made.positions)
        self.capacity, self.target, self.format = made.capacity, made.target, sample
        try:
            self._memory = mapped(fds.give(), made.bytes)
        except (ValueError, OSError) as error:
            raise RemoteProtocolError(f"the stream's memory can't be used: {error}") from None
        self._ring = Ring(self._memory, self.capacity, made.frame_bytes)
        self._bell = Bell(fds.give(), fds.give(), self._woken.set)

    @property
    def key(self) -> str:
        """The name that commands take, such as stream/7."""
        return f"{'stream' if self.method == 'play' else 'recorder'}/{self.id}"

    def noticed(self, what: str, detail: str) -> None:
        """The daemon has sent a notice about the stream."""
        if what == "underrun":
            self.underruns += 1
        elif what == "ended":
            self.ended(detail)

    # The order: no wake-up may arrive for a closed ring, so the bell goes first; then the memory, whose views must be
    # released before it can be unmapped; and those that wait are woken last, to find `_ring` gone and raise.
    def ended(self, why: str) -> None:
        """The stream has ended."""
        if self.why:
            return
        self.why = why
        if self._bell is not None:
            self._bell.close()
        if self._ring is not None:
            self._ring.close()
            self._ring = None
            self._memory.close()
        self._woken.set()

    def _live(self) -> Ring:
        if self._ring is None:
            raise PeerLost(
                f"the stream has ended: {self.why}" if self.why else "the stream is not open: use `async with`"
            )
        return self._ring

    async def _wait(self) -> None:
        await self._woken.wait()
        self._woken.clear()

    async def cork(self, corked: bool = True) -> None:
        """Pause, or with False resume."""
        await self._open("cork", self, {"stream": self.id, "corked": corked})


class Playing(NativeStream):
    """A stream into a sink."""

    method = "play"

    def __init__(self, open_: Open, options: dict[str, Any]) -> None:
        super().__init__(open_, options)
        self.written: Frames = 0
        self._drained = asyncio.Event()

    def noticed(self, what: str, detail: str) -> None:
        """See `NativeStream`."""
        super().noticed(what, detail)
        if what in ("drained", "ended"):
            self._drained.set()

    @property
    def room(self) -> Frames:
        """Frames that can be written without waiting."""
        return max(0, self.target - (self.written - self._live().read))

    @property
    def latency_ns(self) -> int:
        """The delay from a frame written now to the slowest listener's ear, where known."""
        ring = self._live()
        return frames_to_ns(max(0, self.written - ring.read), self.rate) + ring.latency_ns

    async def write(self, samples: NDArray[Any] | bytes) -> None:
        """Write frames: float32 (frames, channels) in [-1, 1), or bytes in the stream's own format.

        Waits until all of it is in the ring buffer. Raises PeerLost if the stream has ended.
        """
        data = memoryview(self._bytes(samples))
        frame = self._live().frame_bytes
        if len(data) % frame:
            raise ConfigError(f"{len(data)} bytes are not a whole number of frames of {frame}")
        while len(data):
            room = self.room
            if not room:
                await self._room()
                continue
            size = min(room * frame, len(data))
            self._put(data[:size])
            data = data[size:]

    def _bytes(self, samples: NDArray[Any] | bytes) -> bytes:
        if isinstance(samples, bytes | bytearray | memoryview):
            return bytes(samples)
        if not isinstance(samples, np.ndarray):
            raise ConfigError(f"an array of floats, or bytes, is expected, not {type(samples).__name__}")
        if samples.ndim == 1 and self.channels == 1:
            samples = samples[:, None]
        if samples.ndim != 2 or samples.shape[1] != self.channels:
            raise ConfigError(f"an array of (frames, {self.channels}) is expected, not {samples.shape}")
        if samples.dtype.kind != "f":
            raise ConfigError(f"an array of floats is expected, not {samples.dtype}; write others as bytes")
        floats: Samples = np.ascontiguousarray(samples, np.float32)
        return encode(self.format, floats)

    def _put(self, data: memoryview) -> None:
        ring = self._live()
        ring.put(self.written, data)
        self.written += len(data) // ring.frame_bytes
        # The order matters: the data, then the position, then the look at the flag. The reader sets its flag and then
        # checks the position, so one of the two always notices the other.
        ring.written = self.written
        if ring.reader_waits and self._bell is not None:
            self._bell.ring()

    async def _room(self) -> None:
        ring = self._live()
        ring.writer_waits = True
        # Check again: the daemon may have made room before it could see the flag, and would then never wake us.
        if not self.room:
            await self._wait()

    async def drain(self) -> None:
        """Wait until everything written has been heard."""
        self._live()
        self._drained.clear()
        await self._open("drain", self, {"stream": self.id})
        await self._drained.wait()
        if self.why:
            raise PeerLost(f"the stream has ended: {self.why}")

    async def flush(self) -> None:
        """Discard what has not been heard yet."""
        await self._open("flush", self, {"stream": self.id})

    async def level(self, volume: str | None = None, mute: bool | None = None) -> None:
        """Set this stream's own volume, such as "50%" or "-6dB"."""
        await self._open("level", self, {"stream": self.id, "volume": volume, "mute": mute})


class Recording(NativeStream):
    """A stream from a monitor or a source. Iteration yields float32 arrays of (frames, channels)."""

    method = "record"

    def __init__(self, open_: Open, options: dict[str, Any]) -> None:
        super().__init__(open_, options)
        self.taken: Frames = 0
        self.missed: Frames = 0
        """Frames lost because they were not read in time."""

    async def read(self) -> Samples:
        """Everything recorded since the last read, at least one frame; raises PeerLost if the stream has ended."""
        while True:
            ring = self._live()
            ready = ring.written - self.taken
            if ready > 0:
                return self._copied(ring, ready)
            ring.reader_waits = True
            # Check again, as in `_room`: the daemon may have written before it could see the flag.
            if ring.written == self.taken:
                await self._wait()

    def _copied(self, ring: Ring, ready: Frames) -> Samples:
        behind = ready - self.capacity * 3 // 4
        if behind > 0:
            # The daemon may overwrite this part while it is copied: skip it.
            self.taken += behind
            self.missed += behind
            ready -= behind
        data = b"".join(ring.views(self.taken, ready))
        self.taken += ready
        ring.read = self.taken
        out = np.empty((ready, self.channels), np.float32)
        decode(self.format, data, out.reshape(-1))
        return out

    async def __aiter__(self) -> AsyncIterator[Samples]:
        while True:
            yield await self.read()
