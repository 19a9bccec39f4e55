"""What a viewer asks of a machine: errors in it cost the machine's connection, and not the viewer's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from millrace.graph.clipboard import ClipboardSource
from millrace.graph.pictures import KeyPress, ScreenSource
from millrace.pixels.rects import Point, Size
from millrace.units import HostNs

Source = TypeVar("Source")


class _Guarded(Generic[Source]):
    """`failed` is told the first error of `source`, which is asked for nothing from then on."""

    def __init__(self, source: Source, failed: Callable[[Exception], None]) -> None:
        self._source: Source | None = source
        self._failed = failed

    def _do(self, work: Callable[[Source], None]) -> None:
        if self._source is None:
            return
        try:
            work(self._source)
        except Exception as error:
            self._source = None
            self._failed(error)


class GuardedScreen(_Guarded[ScreenSource]):
    """A `ScreenSource`."""

    def key(self, press: KeyPress) -> None:
        """See `ScreenSource`."""
        self._do(lambda source: source.key(press))

    def takes(self, key: bool, again: Callable[[], None]) -> bool:
        """See `ScreenSource`. One that has failed takes everything, so that nothing waits for it."""
        room = True

        def ask(source: ScreenSource) -> None:
            nonlocal room
            room = source.takes(key, again)

        self._do(ask)
        return room

    def pointer(self, at: Point, buttons: int, relative: bool) -> None:
        """See `ScreenSource`."""
        self._do(lambda source: source.pointer(at, buttons, relative))

    def size_wish(self, size: Size) -> None:
        """See `ScreenSource`."""
        self._do(lambda source: source.size_wish(size))

    def paint(self, tracks: frozenset[str]) -> None:
        """See `ScreenSource`."""
        self._do(lambda source: source.paint(tracks))

    def watched(self, interval_ns: HostNs | None) -> None:
        """See `ScreenSource`."""
        self._do(lambda source: source.watched(interval_ns))


class GuardedClipboard(_Guarded[ClipboardSource]):
    """A `ClipboardSource`."""

    def clip_offered(self) -> None:
        """See `ClipboardSource`."""
        self._do(lambda source: source.clip_offered())

    def clip_withdrawn(self) -> None:
        """See `ClipboardSource`."""
        self._do(lambda source: source.clip_withdrawn())

    def clip_wanted(self) -> None:
        """See `ClipboardSource`."""
        self._do(lambda source: source.clip_wanted())
