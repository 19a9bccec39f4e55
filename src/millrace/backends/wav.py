"""WAV files: 16-bit PCM or 32-bit float, sizes right even after a crash a second ago.

RIFF sizes are 32-bit; past 4 GiB the header says 0xFFFFFFFF and readers go by the file's length.
"""

from __future__ import annotations

import errno
import os
import struct
from io import RawIOBase
from pathlib import Path

import numpy as np

from millrace.dsp.convert import SampleFormat, Samples, encode
from millrace.errors import ConfigError
from millrace.units import Frames, Positions

_UPDATE_BYTES = 1 << 18
_U32_MAX = 0xFFFFFFFF


class WavOutput:
    """Writes what is heard to a file."""

    def __init__(self, path: Path, sample: SampleFormat = SampleFormat.S16LE) -> None:
        self.name = f"wav:{path}"
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
            if layout != self._layout:
                raise ConfigError(f"{self._path}: the stream's format changed to {layout}; a WAV file has one format")
            return
        try:
            self._file = self._path.open("wb", buffering=0)
            self._layout = layout
            self._write_header()
        except OSError as error:
            raise self._full(error) from None

    def _full(self, error: OSError) -> ConfigError:
        """The error of a disk that takes no more; what is on it stays readable."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
        return ConfigError(f"{self._path}: {error.strerror}; {self._bytes} bytes of sound are in it")

    def _write_header(self) -> None:
        assert self._file is not None and self._layout is not None
        rate, channels = self._layout
        width, tag = (2, 1) if self._sample is SampleFormat.S16LE else (4, 3)
        size = min(self._bytes, _U32_MAX - 36)
        self._file.seek(0)
        self._file.write(
            struct.pack(
                "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, tag, channels, rate,
                rate * channels * width, channels * width, width * 8, b"data", size,
            )
        )  # fmt: skip
        self._file.seek(0, 2)
        self._since_update = 0

    def write(self, block: Samples) -> None:
        """See `FileOutput`. A full disk is a ConfigError."""
        if self._file is None:
            return
        data = encode(self._sample, block)
        try:
            # Unbuffered, so that an error comes where it happens; short writes come only from full disks.
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._bytes += len(data)
            self._since_update += len(data)
            if self._since_update > _UPDATE_BYTES:
                self._write_header()
        except OSError as error:
            raise self._full(error) from None

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
        if self._file is not None:
            try:
                self._write_header()
            except OSError as error:
                raise self._full(error) from None
            self._file.close()
            self._file = None
