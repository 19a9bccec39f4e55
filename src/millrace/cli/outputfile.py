"""Files that a command is to write: one that is there is not replaced unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from millrace.io.files import there_already

OVERWRITE = Annotated[bool, typer.Option("--overwrite", help="Replace a file that is already there.")]


def demand_new(where: str, overwrite: bool) -> None:
    """ConfigError if the file, or a link to a missing one, is there and may not be overwritten.

    Devices and pipes may always be written to.
    """
    path = Path(where)
    if not overwrite and (path.is_file() or (path.is_symlink() and not path.exists())):
        raise there_already(where)
