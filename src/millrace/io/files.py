"""Files that are written whole: who reads one finds all of it, or what was there before."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from millrace.errors import OutputLost


def write_whole(path: Path, data: bytes) -> None:
    """Put `data` into `path`; OutputLost where that can't be, and then a file that was there is as it was."""
    try:
        if path.exists() and not path.is_file():
            # A device or a pipe: there is nothing to keep, and its name is not ours to take.
            path.write_bytes(data)
            return
        beside = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}")
        try:
            beside.write_bytes(data)
            with contextlib.suppress(FileNotFoundError):
                beside.chmod(path.stat().st_mode & 0o777)
            os.replace(beside, path.resolve())
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise OutputLost(f"{path} can't be written: {error.strerror}") from None
