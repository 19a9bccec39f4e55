"""The real client library through ctypes: for what a program sees of a stream but no command-line client shows."""

from __future__ import annotations

import ctypes
import ctypes.util
import time
from collections.abc import Callable
from typing import Any

U32, U64, I64 = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int64
PTR = ctypes.c_void_p
NOTIFY = ctypes.CFUNCTYPE(None, PTR, PTR)
SUCCESS = ctypes.CFUNCTYPE(None, PTR, ctypes.c_int, PTR)
REQUEST = ctypes.CFUNCTYPE(None, PTR, ctypes.c_size_t, PTR)
READY, FAILED = 2, 3
"""A stream's state; a context's is 4 when it is ready."""
DEFAULT = 0xFFFFFFFF

START_CORKED, INTERPOLATE_TIMING, NOT_MONOTONIC, AUTO_TIMING_UPDATE = 1, 2, 4, 8
NO_REMAP_CHANNELS, NO_REMIX_CHANNELS, FIX_FORMAT, FIX_RATE, FIX_CHANNELS = 0x10, 0x20, 0x40, 0x80, 0x100
DONT_MOVE, VARIABLE_RATE, PEAK_DETECT, START_MUTED, ADJUST_LATENCY = 0x200, 0x400, 0x800, 0x1000, 0x2000
EARLY_REQUESTS, DONT_INHIBIT_AUTO_SUSPEND, START_UNMUTED, FAIL_ON_SUSPEND = 0x4000, 0x8000, 0x10000, 0x20000
RELATIVE_VOLUME, PASSTHROUGH = 0x40000, 0x80000


class Spec(ctypes.Structure):
    """pa_sample_spec; format 3 is s16le, 5 float32le."""

    _fields_ = (("format", ctypes.c_int), ("rate", U32), ("channels", ctypes.c_uint8))


class Map(ctypes.Structure):
    """pa_channel_map."""

    _fields_ = (("channels", ctypes.c_uint8), ("map", ctypes.c_int * 32))


class BufferAttr(ctypes.Structure):
    """pa_buffer_attr."""

    _fields_ = tuple((name, U32) for name in ("maxlength", "tlength", "prebuf", "minreq", "fragsize"))


class Timeval(ctypes.Structure):
    """struct timeval."""

    _fields_ = (("sec", ctypes.c_long), ("usec", ctypes.c_long))


class Timing(ctypes.Structure):
    """pa_timing_info."""

    _fields_ = (
        ("timestamp", Timeval), ("synchronized_clocks", ctypes.c_int), ("sink_usec", U64), ("source_usec", U64),
        ("transport_usec", U64), ("playing", ctypes.c_int), ("write_index_corrupt", ctypes.c_int),
        ("write_index", I64), ("read_index_corrupt", ctypes.c_int), ("read_index", I64),
        ("configured_sink_usec", U64), ("configured_source_usec", U64), ("since_underrun", I64),
    )  # fmt: skip


def _library() -> ctypes.CDLL:
    lib = ctypes.CDLL("libpulse.so.0")
    pointers = (
        "pa_threaded_mainloop_new pa_threaded_mainloop_get_api pa_context_new pa_stream_new pa_stream_drain"
        " pa_stream_cork pa_stream_flush pa_stream_trigger pa_stream_prebuf pa_stream_update_timing_info"
        " pa_stream_set_buffer_attr pa_stream_update_sample_rate pa_stream_get_timing_info pa_stream_get_buffer_attr"
        " pa_stream_get_sample_spec"
    )
    for name in pointers.split():
        getattr(lib, name).restype = PTR
    lib.pa_stream_writable_size.restype = ctypes.c_size_t
    lib.pa_strerror.restype = ctypes.c_char_p
    lib.pa_stream_get_device_name.restype = ctypes.c_char_p
    return lib


class Connection:
    """A context on a threaded main loop; every call is made under its lock."""

    def __init__(self, server: str, name: str = "libpulse test") -> None:
        self.lib = _library()
        self._kept: list[Any] = []
        self.loop = PTR(self.lib.pa_threaded_mainloop_new())
        self.context = PTR(
            self.lib.pa_context_new(PTR(self.lib.pa_threaded_mainloop_get_api(self.loop)), name.encode())
        )
        assert self.lib.pa_context_connect(self.context, server.encode(), 1, None) == 0
        assert self.lib.pa_threaded_mainloop_start(self.loop) == 0
        self.wait(lambda: self.lib.pa_context_get_state(self.context) == 4, "the connection is ready")

    def call(self, name: str, *args: Any) -> Any:
        """Call a function of the library while holding the lock."""
        self.lib.pa_threaded_mainloop_lock(self.loop)
        try:
            return getattr(self.lib, name)(*args)
        finally:
            self.lib.pa_threaded_mainloop_unlock(self.loop)

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = 10.0) -> None:
        """Poll a condition while holding the lock."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.lib.pa_threaded_mainloop_lock(self.loop)
            try:
                if condition():
                    return
            finally:
                self.lib.pa_threaded_mainloop_unlock(self.loop)
            time.sleep(0.002)
        raise AssertionError(f"{what}: not within {seconds} s")

    def keep(self, thing: Any) -> Any:
        """Keep a reference to a callback for as long as the connection lives: ctypes does not."""
        self._kept.append(thing)
        return thing

    def close(self) -> None:
        """Disconnect."""
        self.call("pa_context_disconnect", self.context)
        self.lib.pa_threaded_mainloop_stop(self.loop)


class Playback:
    """A playback stream; `events` are (seconds, name) in order."""

    def __init__(
        self, connection: Connection, spec: Spec, flags: int = 0, tlength: int = DEFAULT, prebuf: int = DEFAULT,
        minreq: int = DEFAULT, device: str | None = None, sync: Playback | None = None,
    ) -> None:  # fmt: skip
        self.connection, self.lib, self.spec = connection, connection.lib, spec
        self.events: list[tuple[float, str]] = []
        self.requested = 0
        self.stream = PTR(connection.call("pa_stream_new", connection.context, b"stream", ctypes.byref(spec), None))
        for what in ("underflow", "overflow", "started", "moved", "suspended"):
            connection.call(f"pa_stream_set_{what}_callback", self.stream, self._noted(what), None)
        attr = BufferAttr(DEFAULT, tlength, prebuf, minreq, DEFAULT)
        other = None if sync is None else sync.stream
        name = None if device is None else device.encode()
        code = connection.call("pa_stream_connect_playback", self.stream, name, ctypes.byref(attr), flags, None, other)
        assert code == 0, self.error()
        connection.wait(lambda: self.lib.pa_stream_get_state(self.stream) in (READY, FAILED), "the stream is there")
        assert self.lib.pa_stream_get_state(self.stream) == READY, self.error()

    def error(self) -> str:
        """The library's last error."""
        return str(self.lib.pa_strerror(self.lib.pa_context_errno(self.connection.context)).decode())

    def _noted(self, what: str) -> Any:
        return self.connection.keep(NOTIFY(lambda stream, data: self.events.append((time.monotonic(), what))))

    @property
    def index(self) -> int:
        """The stream's index at the server."""
        return int(self.connection.call("pa_stream_get_index", self.stream))

    @property
    def attr(self) -> BufferAttr:
        """The attributes in force."""
        pointer = self.connection.call("pa_stream_get_buffer_attr", self.stream)
        return BufferAttr.from_buffer_copy(ctypes.string_at(pointer, ctypes.sizeof(BufferAttr)))

    def write(self, data: bytes, offset: int = 0, seek: int = 0) -> None:
        """Write at once, whether requested or not."""
        code = self.connection.call(
            "pa_stream_write", self.stream, data, ctypes.c_size_t(len(data)), None, I64(offset), seek
        )
        assert code == 0, self.error()

    def writable(self) -> int:
        """How many bytes are requested."""
        return int(self.connection.call("pa_stream_writable_size", self.stream))

    def do(self, name: str, *args: Any, wait: bool = True) -> float:
        """cork, flush, drain, trigger, prebuf, update_timing_info...; returns the seconds until its answer."""
        done: list[int] = []
        callback = self.connection.keep(SUCCESS(lambda stream, success, data: done.append(success)))
        began = time.monotonic()
        self.connection.call(f"pa_stream_{name}", self.stream, *args, callback, None)
        if wait:
            self.connection.wait(lambda: done, name, 30.0)
            assert done == [1], f"{name}: {self.error()}"
        return time.monotonic() - began

    def time_us(self) -> int | None:
        """pa_stream_get_time; None while it has no timing information."""
        usec = U64(0)
        code = self.connection.call("pa_stream_get_time", self.stream, ctypes.byref(usec))
        return None if code else int(usec.value)

    def latency_us(self) -> int | None:
        """pa_stream_get_latency."""
        usec, negative = U64(0), ctypes.c_int(0)
        code = self.connection.call("pa_stream_get_latency", self.stream, ctypes.byref(usec), ctypes.byref(negative))
        return None if code else int(usec.value) * (-1 if negative.value else 1)

    def timing(self) -> Timing | None:
        """The last timing information received."""
        pointer = self.connection.call("pa_stream_get_timing_info", self.stream)
        return Timing.from_buffer_copy(ctypes.string_at(pointer, ctypes.sizeof(Timing))) if pointer else None

    def close(self) -> None:
        """Disconnect the stream."""
        self.connection.call("pa_stream_disconnect", self.stream)
