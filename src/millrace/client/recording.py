"""`--to x.mkv`: a viewer's picture and a listener's sound in one Matroska file.

The picture is encoded here, whenever it changes; the sound is stored as it came, in Opus. Both bear their times on the
daemon's clock, so they are in sync whatever the connection did. Clusters are short and written at once: of a recording
that is killed, the last moments are missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np

from millrace.client.canvas import Canvas
from millrace.client.faces import Unseen
from millrace.client.stills import over_it
from millrace.codec.parameters import CodecParameters, packet_fits
from millrace.errors import ConfigError, OutputLost
from millrace.io.files import open_output
from millrace.media.audio import AudioPacket
from millrace.pixels.convert import Plane
from millrace.pixels.rects import Rect
from millrace.units import NS_PER_MS, NS_PER_S, HostNs, MediaNs
from millrace.wire.peer.pictures import CursorChanged

log = logging.getLogger("millrace.client")
MILLISECONDS, FRAMES = Fraction(1, 1000), Fraction(1, 48_000)
LOOKAHEAD = 312
"""Frames by which libopus is behind."""
CLUSTER_MS = 200
STILL_S = 0.5
"""How often a picture is stored again that does not change."""
KEY_EVERY_NS: HostNs = 5 * NS_PER_S
"""Where players can seek to."""
CONTAINER: dict[str, str] = {
    "cluster_time_limit": str(CLUSTER_MS), "flush_packets": "1", "max_interleave_delta": str(CLUSTER_MS * 1000),
    "default_mode": "infer_no_subs",
}  # fmt: skip
ENCODER: dict[str, object] = {"preset": "veryfast", "tune": "zerolatency", "crf": "20"}
SILENT = bytes((0xFC, 0xFF, 0xFE))
"""Opus: 20 ms of silence in stereo (RFC 6716, section 3.1: CELT only, full band; an empty frame)."""
SILENT_MS = 20
FILL_MAX_MS = 60_000
"""A longer pause is left out of the sound, which players bridge."""


class _File:
    """One file. Everything is called in one thread."""

    def __init__(self, path: Path, width: int, height: int, sound: bool, begin_ms: int) -> None:
        """`begin_ms` of the recording is the file's 0."""
        self.path, self._begin_ms = path, begin_ms
        self._out: Any = av.open(str(path), "w", format="matroska", container_options=CONTAINER)
        # 4:2:0 needs even sides: what they lack is a copy of the last row or column.
        self._lacks = ((0, height & 1), (0, width & 1), (0, 0))
        self._video: Any = self._out.add_stream("libx264", rate=30)
        self._video.width, self._video.height = width + (width & 1), height + (height & 1)
        self._video.pix_fmt = "yuv420p"
        self._video.options = dict(ENCODER)
        self._video.codec_context.time_base = MILLISECONDS
        self._video.codec_context.thread_count = 1
        self._audio: Any = self._out.add_stream("libopus", rate=48_000, layout="stereo") if sound else None
        self._shown_ms = self._heard_ms = -1
        self._key_ms = -KEY_EVERY_NS // NS_PER_MS

    def picture(self, picture: Plane, at_ms: int) -> None:
        """Append a picture (rows, columns, 4), BGRX; one that is not later than the last is put behind it."""
        at_ms = self._shown_ms = max(at_ms - self._begin_ms, self._shown_ms + 1)
        whole = np.ascontiguousarray(np.pad(picture, self._lacks, "edge") if np.any(self._lacks) else picture)
        frame = av.VideoFrame.from_ndarray(whole, "bgra").reformat(format="yuv420p")
        frame.pts, frame.time_base = at_ms, MILLISECONDS
        if at_ms - self._key_ms >= KEY_EVERY_NS // NS_PER_MS:
            frame.pict_type, self._key_ms = av.video.frame.PictureType.I, at_ms
        self._out.mux(self._video.encode(frame))

    def sound(self, payload: bytes, at_ms: int, length_ms: int) -> None:
        """Append a packet of Opus; a pause before it is filled with silence."""
        at_ms -= self._begin_ms
        if self._audio is None or at_ms < 0:
            return
        if self._heard_ms < 0:
            # So that silence before the first packet leaves no gap, which players may ignore.
            self._heard_ms = at_ms % SILENT_MS
        if at_ms - self._heard_ms > FILL_MAX_MS:
            self._heard_ms = at_ms
        while at_ms - self._heard_ms >= SILENT_MS:
            self._packet(SILENT, self._heard_ms, SILENT_MS)
        if at_ms > self._heard_ms - length_ms:
            self._packet(payload, max(at_ms, self._heard_ms), length_ms)

    def _packet(self, payload: bytes, at_ms: int, length_ms: int) -> None:
        packet = av.Packet(payload)
        # A decoder gives each frame this much later than it was captured; Matroska's CodecDelay says so.
        packet.stream, packet.time_base = self._audio, FRAMES
        packet.pts = packet.dts = at_ms * 48 - LOOKAHEAD
        packet.duration = length_ms * 48
        self._heard_ms = at_ms + length_ms
        self._out.mux(packet)

    def close(self) -> None:
        """Finish the file."""
        try:
            self._out.mux(self._video.encode(None))
        finally:
            self._out.close()


# The picture is copied in the loop and encoded in a thread, one at a time: while one is being encoded, newer ones
# replace each other. Sound packets queue behind, and are small.
class Recording(Unseen):
    """A `Face` that records. `clock` tells the daemon's time; `ended` is called, in a thread, when the file is full."""

    def __init__(
        self, path: Path, sound: bool, clock: Callable[[], HostNs], ended: Callable[[OutputLost], None],
        replace: bool = True, on_file: Callable[[Path], None] = lambda path: None,
    ) -> None:  # fmt: skip
        """`replace`: a file that is there at first may be overwritten.

        `on_file` is called with each file as it begins, in a thread.
        """
        self.name, self._path, self._sound, self._replace = str(path), path, sound, replace
        self._clock, self._ended, self._on_file = clock, ended, on_file
        self._pool = ThreadPoolExecutor(1, "recording")
        self._file: _File | None = None
        self._files = 0
        self._base_ns: MediaNs | None = None
        self._canvas: Canvas | None = None
        self._cursor: CursorChanged | None = None
        self._encoding: Future[None] | None = None
        self._due_ns: MediaNs | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failed = False
        self.files: list[Path] = []
        """The files so far: a new one for each size of the screen, and after each restart of the daemon."""

    # -- see `Face` ------------------------------------------------------------------------------

    def resized(self, canvas: Canvas) -> None:
        """See `Face`: a file has pictures of one size, so the next picture begins a new one."""
        self._canvas, self._due_ns = canvas, None
        self._work(self._finish)

    def draw(self, canvas: Canvas, changed: Sequence[Rect], painted_ns: MediaNs) -> None:
        """See `Face`."""
        self._canvas = canvas
        self._picture(painted_ns)

    def cursor(self, canvas: Canvas, cursor: CursorChanged) -> None:
        """See `Face`."""
        self._cursor = cursor
        if self._canvas is not None and self._base_ns is not None:
            self._picture(self._clock())

    def _picture(self, painted_ns: MediaNs) -> None:
        if self._base_ns is None:
            # The first picture may have been painted long ago.
            self._base_ns = self._clock() or painted_ns
        if self._encoding is not None and not self._encoding.done():
            self._due_ns = painted_ns
            return
        self._due_ns = None
        self._again()
        assert self._canvas is not None
        picture = over_it(self._canvas.pixels.copy(), self._canvas, self._cursor)
        self._encoding = self._work(self._encode, picture, self._at_ms(painted_ns))
        if self._encoding is not None:
            soon = asyncio.get_running_loop().call_soon_threadsafe
            self._encoding.add_done_callback(lambda _: soon(self._next))

    # A cluster is written when the next one begins: without this, the last change before a pause would be in memory for
    # as long as the screen stands still.
    def _again(self) -> None:
        """Store the picture again if it stands still."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(STILL_S, lambda: self._picture(self._clock()))

    def _next(self) -> None:
        """Encode the picture that had to wait."""
        if self._due_ns is not None:
            self._picture(self._due_ns)

    def _at_ms(self, at_ns: MediaNs) -> int:
        return max(0, (at_ns - (self._base_ns or 0)) // NS_PER_MS)

    # -- sound -----------------------------------------------------------------------------------

    def sound(self, packet: AudioPacket, fmt: CodecParameters) -> None:
        """A packet of the listener; sound before the first picture is left out."""
        if self._base_ns is None or packet.host_ns < self._base_ns:
            return
        at_ms = (packet.host_ns - self._base_ns) // NS_PER_MS
        self._work(self._hear, bytes(packet.payload), at_ms, round(packet.frames * 1000 / fmt.rate))

    # -- in the thread ---------------------------------------------------------------------------

    def _work(self, call: Callable[..., None], *args: Any) -> Future[None] | None:
        if self._failed:
            return None
        return self._pool.submit(self._tried, call, *args)

    def _tried(self, call: Callable[..., None], *args: Any) -> None:
        if self._failed:
            return
        try:
            call(*args)
        except ConfigError as error:
            self._failed = True
            self._ended(OutputLost(f"{error}; the recording ends here"))
        except (OSError, av.error.FFmpegError) as error:
            self._failed = True
            self._ended(OutputLost(f"{self.name}: {error.strerror or error}; the recording ends here"))
        except Exception:
            self._failed = True
            log.exception("%s ended because of an internal error", self.name)
            self._ended(OutputLost(f"{self.name}: an internal error; see the log"))

    def _encode(self, picture: Plane, at_ms: int) -> None:
        if self._file is None:
            height, width = picture.shape[:2]
            path = self._next_path()
            if not path.exists() or path.is_file():
                # FFmpeg opens what it is named, through any link: so the file is made before.
                open_output(path, self._replace and self._files == 1).close()
            self._file = _File(path, width, height, self._sound, at_ms)
            self.files.append(self._file.path)
            self._on_file(self._file.path)
        self._file.picture(picture, at_ms)
        self._last = picture

    def _next_path(self) -> Path:
        """The file given; then those beside it with a number, of which none is there yet."""
        self._files += 1
        path = self._path
        while self._files > 1 and (path := path.with_name(f"{self._path.stem}-{self._files}{path.suffix}")).exists():
            self._files += 1
        return path

    def _hear(self, payload: bytes, at_ms: int, length_ms: int) -> None:
        if self._file is not None:
            self._file.sound(payload, at_ms, length_ms)

    def _finish(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _end(self, at_ms: int) -> None:
        """The last picture once more: a file lasts until its last picture begins."""
        if self._file is not None:
            self._file.picture(self._last, at_ms)
        self._finish()

    # -- ending ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Finish the file."""
        if self._timer is not None:
            self._timer.cancel()
        if self._base_ns is not None:
            self._work(self._end, self._at_ms(self._clock()))
        self._pool.shutdown(wait=True)
        if self._file is not None:
            with contextlib.suppress(OSError, av.error.FFmpegError):
                self._file.close()


class RecordedSound:
    """Takes a listener's packets undecoded, in the place of an output: see `client/listener.py`."""

    def __init__(self, recording: Recording) -> None:
        self.name = recording.name
        self.lost_packets = self.played_frames = 0
        self._recording = recording
        self._format: CodecParameters | None = None
        self._next: int | None = None

    def set_format(self, fmt: CodecParameters) -> None:
        """The following packets have this format."""
        if fmt.codec != "opus" or len(fmt.positions) > 2:
            raise ConfigError("a recording stores sound in Opus, in stereo: leave codec and channels as they are")
        self._format, self._next = fmt, None

    def push(self, packet: AudioPacket, now_ns: HostNs) -> None:
        """A packet has arrived."""
        if self._format is None or not packet_fits(packet, self._format):
            return
        if self._next is not None and packet.sequence > self._next:
            self.lost_packets += packet.sequence - self._next
        self._next = packet.sequence + 1
        self.played_frames += packet.frames
        self._recording.sound(packet, self._format)

    def silence(self) -> None:
        """A pause follows, which the file fills."""
        self._next = None

    def close(self) -> None:
        """The listener has ended. The recording ends with its picture."""
