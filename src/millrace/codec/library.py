"""Finds the shared libraries that come with PyAV's wheel, or the system's."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
from collections.abc import Iterator
from pathlib import Path


def found(name: str) -> Iterator[ctypes.CDLL]:
    """The libraries of that name that can be loaded, PyAV's first: it is the same version on every host."""
    for path in _paths(name):
        try:
            yield ctypes.CDLL(path)
        except OSError:
            continue


def _paths(name: str) -> Iterator[str]:
    spec = importlib.util.find_spec("av")
    if spec and spec.origin:
        home = Path(spec.origin).parent
        for folder in (home.parent / "av.libs", home / ".dylibs", home):
            yield from sorted(str(path) for path in folder.glob(f"lib{name}[-.]*"))
    if system := ctypes.util.find_library(name):
        yield system
