"""Atomic file writes: a reader sees either the old contents or the new. Also careful reading of users' files."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter, FileIO
from pathlib import Path

from millrace.errors import ConfigError, OutputLost


def read_secret(path: Path, what: str) -> str:
    """One line of text from a file that only its owner can read; ConfigError says what is wrong with it."""
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path}: others can read this {what} file; run chmod 600 {path}")
        text = path.read_text("utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"{what} file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{what} file {path} is not a text file") from None
    return text


def write_whole(path: Path, data: bytes, mode: int | None = None) -> None:
    """Replace the contents of `path` by `data`. On failure, raises OutputLost and leaves an existing file as it was.

    With `mode` the file has that from its beginning on, otherwise that of the file before.
    """
    with whole_file(path, mode) as file:
        file.write(data)


# Written beside the file and renamed, so a crash leaves the old contents. Nothing is flushed to the disk: that would
# take as long as the disk does, and only a power cut makes a difference. The name beside is random, so two writers
# don't share it, and is cut because a name of 255 bytes may be in use already. The room is taken by writing, which
# every file system refuses at once if it has none.
@contextmanager
def whole_file(path: Path, mode: int | None = None, room: int = 0) -> Iterator[BufferedWriter]:
    """A file to write to, which takes the place of `path` when the block ends well. See `write_whole`.

    Whatever can be known to fail fails before the block is entered: with `room`, a disk that can't take so many bytes.
    """
    try:
        if path.exists() and not path.is_file():
            # A device or a pipe: it has no contents to preserve, and must not be replaced by a file.
            with path.open("wb") as file:
                yield file
            return
        # The file that a symbolic link points to is replaced, not the link. It may be on another file system.
        target = Path(os.path.realpath(path))
        beside = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}")
        try:
            with _created(beside, _mode_of(target) if mode is None else mode) as file:
                file.write(bytes(room))
                file.flush()
                file.seek(0)
                yield file
                file.truncate()
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise OutputLost(f"{path} can't be written: {error.strerror}") from None


# In a folder that others write to, they may have put a link there, to a file that is not there yet: what makes a file
# would make that. O_EXCL follows no link (open(2)).
def open_output(path: Path, replace: bool) -> FileIO:
    """Open a file to be written from its beginning on, unbuffered; ConfigError if it can't be.

    Unless it may `replace` what is there, it makes a new file, where the path says. Devices and pipes are opened in any
    case.
    """
    flags = os.O_WRONLY | os.O_CLOEXEC
    try:
        if replace:
            return _file(os.open(path, flags | os.O_CREAT | os.O_TRUNC, 0o666))
        with suppress(FileExistsError):
            return _file(os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666))
        file = _file(os.open(path, flags))
    except FileNotFoundError as error:
        if path.is_symlink():
            raise ConfigError(f"{path} is a link to a file that does not exist; --overwrite creates it") from None
        raise ConfigError(f"{path}: {error.strerror}") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise there_already(path)
    return file


def there_already(path: Path | str) -> ConfigError:
    """What is there is not replaced unasked."""
    return ConfigError(f"{path} already exists; --overwrite replaces it")


def _file(descriptor: int) -> FileIO:
    return FileIO(descriptor, "wb")


def _mode_of(path: Path) -> int | None:
    try:
        return path.stat().st_mode & 0o777
    except FileNotFoundError:
        return None


def _created(path: Path, mode: int | None) -> BufferedWriter:
    """A new file; with `mode`, nobody else can read it at any time."""
    made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 if mode is None else 0o600)
    file = open(made, "wb")  # noqa: SIM115
    if mode is not None:
        os.fchmod(made, mode)
    return file
