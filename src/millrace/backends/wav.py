"""WAV files, 16-bit PCM or 32-bit float. The header is kept up to date, in case of a crash or a full disk.

RIFF sizes are 32-bit. Beyond 4 GiB the header says 0xFFFFFFFF, and readers go by the file's length.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from io import RawIOBase
from pathlib import Path

import numpy as np

from millrace.dsp.convert import SampleFormat, Samples, encode
from millrace.errors import ConfigError, OutputLost
from millrace.units import Frames, Positions

HEADER_BYTES = 44
# The header is rewritten after this much, about every 1.4 s of 48 kHz stereo: after a crash, readers that trust its
# sizes miss only what came since.
_UPDATE_BYTES = 1 << 18
_U32_MAX = 0xFFFFFFFF


def _opened(path: Path) -> RawIOBase:
    try:
        return path.open("wb", buffering=0)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


class WavOutput:
    """Writes the sound played to a file."""

    def __init__(
        self, path: Path, sample: SampleFormat = SampleFormat.S16LE, opened: Callable[[Path], RawIOBase] = _opened
    ) -> None:
        """`opened` opens the file; ConfigError if it can't be."""
        self.name, self._opened = f"wav:{path}", opened
        self._path = path
        self._sample = sample
        self._file: RawIOBase | None = None
        self._layout: tuple[int, int] | None = None
        self._bytes = 0
        self._since_update = 0

    def open(self, rate: int, positions: Positions) -> None:
        """See `FileOutput`."""
        layout = (rate, len(positions))
        if self._layout is not None:
            # After a reconnection the same file is continued; a change of format can't be.
            if layout != self._layout:
                raise ConfigError(f"{self._path}: the stream's format changed to {layout}; a WAV file has one format")
            return
        self._file = self._opened(self._path)
        self._layout = layout
        try:
            self._write_header()
        except OSError as error:
            raise self._ended(error) from None

    @property
    def _frame_bytes(self) -> int:
        assert self._layout is not None
        return self._layout[1] * (2 if self._sample is SampleFormat.S16LE else 4)

    def _ended(self, error: OSError) -> OutputLost:
        """The file can't be written any further: finish it with what is in it, and return the error."""
        file, self._file = self._file, None
        assert file is not None and self._layout is not None
        said = (
            f"{self._path}: {error.strerror}; {self._bytes // self._frame_bytes / self._layout[0]:.1f} s were written"
        )
        try:
            # Cut off a partial frame at the end. Rewriting the header needs no new disk space.
            file.truncate(HEADER_BYTES + self._bytes)
            self._put_header(file)
            file.close()
        except OSError as worse:
            return OutputLost(f"{said}, and its header could not be completed ({worse.strerror})")
        return OutputLost(said)

    def _write_header(self) -> None:
        assert self._file is not None
        self._put_header(self._file)
        self._file.seek(0, os.SEEK_END)
        self._since_update = 0

    # At the start of the file, so it overwrites what is there and leaves the position behind it: callers that go on
    # writing seek to the end. For a stream of more than 4 GiB both sizes stay at their maximum.
    def _put_header(self, file: RawIOBase) -> None:
        assert self._layout is not None
        rate, channels = self._layout
        width, tag = (2, 1) if self._sample is SampleFormat.S16LE else (4, 3)
        size = min(self._bytes, _U32_MAX - 36)
        file.seek(0)
        header = struct.pack(
            "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, tag, channels, rate,
            rate * channels * width, channels * width, width * 8, b"data", size,
        )  # fmt: skip
        if file.write(header) != len(header):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, block: Samples) -> None:
        """See `FileOutput`."""
        if self._file is None:
            return
        data = encode(self._sample, block)
        try:
            # Unbuffered, so that errors surface here. Only a full disk causes a short write.
            written = self._file.write(data) or 0
            self._bytes += written - written % self._frame_bytes
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._since_update += written
            if self._since_update > _UPDATE_BYTES:
                self._write_header()
        except OSError as error:
            raise self._ended(error) from None

    def skip(self, frames: Frames) -> None:
        """See `FileOutput`."""
        assert self._layout is not None
        silence = np.zeros((48_000, self._layout[1]), np.float32)
        while frames > 0:
            n = min(frames, len(silence))
            self.write(silence[:n])
            frames -= n

    def close(self) -> None:
        """See `FileOutput`."""
        if self._file is None:
            return
        try:
            self._write_header()
            file, self._file = self._file, None
            file.close()
        except OSError as error:
            if self._file is not None:
                raise self._ended(error) from None
            raise OutputLost(f"{self._path}: {error.strerror}; its end may be missing") from None
