"""Files that a command is to write: one that is there is not replaced unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from millrace.errors import ConfigError

OVERWRITE = Annotated[bool, typer.Option("--overwrite", help="Replace a file that is already there.")]


def demand_new(where: str, overwrite: bool) -> None:
    """ConfigError if the file is there and may not be overwritten. Devices and pipes may always be written to."""
    if not overwrite and Path(where).is_file():
        raise ConfigError(f"{where} is there already; --overwrite replaces it")
