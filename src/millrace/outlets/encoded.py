"""What lies between an encoder of pictures and the viewers that share it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeVar

from millrace.codec.picturesettings import PictureSettings
from millrace.graph.pictures import Overlay
from millrace.graph.screen import Screen
from millrace.graph.seat import Watcher
from millrace.outlets.picturechoice import Formats
from millrace.outlets.picturecounts import PictureCounts, Tally
from millrace.pixels.rects import Size
from millrace.units import HostNs
from millrace.wire.peer.pictures import PART_HEAD_BYTES, PARTS_MAX, Part

T = TypeVar("T")
PIECE_BYTES = 256 * 1024
"""A larger picture is sent in several pieces, so that decoding begins before all of it has arrived."""


class EncodedPicture(NamedTuple):
    """One picture as all viewers of an encoder get it. `serial` is the encoder's own, and rises.

    `encode_ns` is how long it took to encode, `wait_ns` how long what was painted last had waited before, of which it
    was `door_ns` in the door. `number` is that of the screen's picture; `kinds` are its parts as they are counted.
    """

    serial: int
    painted_ns: HostNs
    parts: tuple[Part, ...]
    key: bool
    size: int
    """Bytes of the parts."""
    encode_ns: HostNs = 0
    wait_ns: HostNs = 0
    door_ns: HostNs = 0
    number: int = 0
    kinds: Mapping[str, Tally] = MappingProxyType({})
    overlays: tuple[Overlay, ...] = ()
    """Those that lie over it, and that all its viewers draw themselves."""


class Offload(Protocol):
    """Runs work in another thread, and calls `done` with its result or exception where the encoder lives."""

    @property
    def crowded(self) -> bool:
        """Whether all threads are busy, so that work would have to wait."""
        ...

    def __call__(self, work: Callable[[], T], done: Callable[[T | Exception], None], small: bool = False) -> None:
        """Begin; an exception if there is no room for it. Small work may be done, and told, before this returns."""
        ...

    def withdraw(self) -> bool:
        """Take back what has not begun. Returns whether nothing is under way now; otherwise `done` will be called."""
        ...


class PictureSink(Protocol):
    """A viewer, as its encoder sees it."""

    @property
    def sparing(self) -> bool:
        """Whether to send it little at once: its line is not known yet, or its last picture had no room."""
        ...

    def ready(self, now_ns: HostNs) -> bool:
        """Whether there is room for a picture now."""
        ...

    def push(self, picture: EncodedPicture) -> bool:
        """Send a picture; never blocks. False if there is no room for it: it is not sent."""
        ...

    def resized(self, size: Size) -> None:
        """The pictures have this size from now on, and what was sent before is void. Called after joining too."""
        ...


class Pictures(Protocol):
    """An encoder of one screen with one set of settings, shared by viewers.

    A viewer that was not ready when a picture went out is sent what it lacks from a newer one.
    """

    counts: PictureCounts

    @property
    def video(self) -> str:
        """What encodes its video, in words; empty while there is none."""
        ...

    def join(self, sink: PictureSink) -> None:
        """Send to `sink` from now on, first a key picture."""
        ...

    def leave(self, sink: PictureSink) -> None:
        """Send nothing more to `sink`."""
        ...

    def refresh(self, sink: PictureSink) -> None:
        """`sink` needs a key picture."""
        ...

    def set_rate(self, rate: int | None) -> None:
        """How many bit/s the pictures may have; None: no bound."""
        ...

    def set_fps(self, fps: int) -> None:
        """How many pictures a second there may be."""
        ...

    def compose(self, tracks: frozenset[str]) -> None:
        """All viewers draw these overlays by themselves now: leave out what lies below them."""
        ...

    def next_timeout(self) -> HostNs | None:
        """When `handle_timeout` is due."""
        ...

    def handle_timeout(self, now_ns: HostNs) -> None:
        """Encode what is due. Also to be called when a sink has become ready."""
        ...

    def deliver(self) -> Iterator[None]:
        """Push what was encoded to the sinks that it is for, in steps."""
        ...

    def close(self) -> None:
        """End."""
        ...


class MakePictures(Protocol):
    """Makes encoders."""

    def __call__(
        self, screen: Screen, settings: PictureSettings, formats: Formats, who: Watcher, wake: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> Pictures:  # fmt: skip
        """One of a screen, which it reads as `who`, for viewers that can show these formats.

        `wake` is called whenever its deadline may have changed, `failed` when it makes no more pictures, and why.
        """
        ...


def cut_pieces(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Parts in order, as many in each piece as it may have."""
    piece: list[Part] = []
    size = 0
    for part in parts:
        more = PART_HEAD_BYTES + len(part.data)
        if piece and (size + more > PIECE_BYTES or len(piece) == PARTS_MAX):
            yield piece
            piece, size = [], 0
        piece.append(part)
        size += more
    yield piece
