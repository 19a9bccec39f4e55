"""What every encoder of a screen's video can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import NamedTuple

from millrace.pixels.convert import Plane
from millrace.pixels.rects import Rect

GREY = 128
"""What the stream shows where nothing was ever part of it."""


class Encoded(NamedTuple):
    """One access unit, and whether it needs nothing before it."""

    data: bytes
    key: bool


class VideoEncoder(ABC):
    """One stream of an area of a screen that codes what changed. It belongs to one thread at a time."""

    codec: str
    """The name by which viewers ask for it."""
    rate: int | None

    @property
    @abstractmethod
    def name(self) -> str:
        """The codec and what encodes it, in words."""

    @abstractmethod
    def encode(self, picture: Plane, changed: Iterable[Rect], key: bool = False, qp: int | None = None) -> Encoded:
        """Code the rectangles of a BGRX picture that changed since the last call; CodecError if that fails.

        A key picture is grey outside of them. `qp`, 0 (best) to 51, counts only without a rate.
        """

    @abstractmethod
    def set_rate(self, rate: int) -> bool:
        """Keep to another rate in bit/s from the next picture on. False: it takes another encoder to do that."""

    @abstractmethod
    def close(self) -> None:
        """Free it; a second call does nothing."""
