"""The screens of one guest, which share one keyboard, and the clipboards of the machines that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from millrace.budget import PROGRAMS, Budget
from millrace.errors import GraphError
from millrace.graph.clipboard import Clipboard, ClipboardSource
from millrace.graph.guarded import GuardedClipboard, GuardedScreen
from millrace.graph.model import Ids
from millrace.graph.pictures import ScreenSource
from millrace.graph.screen import SCREEN_BYTES, Screen
from millrace.graph.screenfacts import none_unanswered
from millrace.graph.seat import Seat
from millrace.pixels.convert import Convert, convert
from millrace.symptoms import Report, Symptom
from millrace.text import LABEL_MAX, printable
from millrace.units import NS_PER_S, HostNs

SCREENS_MAX = 32
"""Screens of one guest: a machine may have several cards, and a card several heads."""


@dataclass(eq=False, slots=True)
class Listed:
    """A screen with what it is listed as."""

    id: int
    screen: Screen
    label: str
    door: str
    """The door it comes from, as in the key of a machine: door/7."""
    fps: float = 0.0
    """Pictures painted a second, over the last second."""
    pixels: int = 0
    """Pixels painted a second, over the last second."""
    counted: int = 0
    """The serial when they were last counted."""
    counted_pixels: int = 0
    """The screen's `painted_pixels` then."""
    gone: str = ""
    """Why it was removed, for those who saw it."""

    @property
    def key(self) -> str:
        """Its name for users and the API."""
        return self.screen.key

    @property
    def state(self) -> str:
        """running: somebody watches; idle: nobody does; blank: it has shown nothing yet."""
        if self.screen.memory is None:
            return "blank"
        return "running" if self.screen.readers else "idle"


def _raise(door: str, error: Exception) -> None:
    raise error


class Screens:
    """All screens of one guest.

    `changed` is called with new, change or remove, for what a list of screens shows: not for every picture. `failed` is
    told the door of a machine, and the error that it has raised at what a viewer did.
    """

    def __init__(
        self,
        guest: str,
        ids: Ids,
        budget: Budget,
        changed: Callable[[str, Listed], None] = lambda change, listed: None,
        by: Convert = convert,
        report: Report = lambda symptom: None,
        failed: Callable[[str, Exception], None] = _raise,
    ) -> None:
        self._report, self._failed = report, failed
        self._guest, self._ids, self._budget, self._changed, self._by = guest, ids, budget, changed, by
        self.seat = Seat(guest, self._seat_changed)
        self._listed: dict[str, Listed] = {}
        self.painted = 0
        """Pictures painted until they were last counted, by screens that are gone too."""
        self._counted_ns: HostNs | None = None
        self._clipboards: dict[str, Clipboard] = {}

    def __iter__(self) -> Iterator[Listed]:
        """In order of appearance. The list may change meanwhile."""
        return iter(list(self._listed.values()))

    def __len__(self) -> int:
        return len(self._listed)

    def find(self, key: str) -> Listed | None:
        """A screen by its key, screen/N."""
        return self._listed.get(key)

    @property
    def first(self) -> Listed | None:
        """The one that is there for longest."""
        return next(iter(self._listed.values()), None)

    def add(
        self, source: ScreenSource, label: str, door: str, unanswered: Callable[[], int] = none_unanswered
    ) -> Screen:
        """A new screen that `source` paints; GraphError, and no screen, if there is no room."""
        if len(self._listed) >= SCREENS_MAX:
            raise GraphError(f"guest {self._guest} has {SCREENS_MAX} screens, the maximum; detach a machine")
        id_ = self._ids.take()
        key = f"screen/{id_}"
        guarded = GuardedScreen(source, partial(self._failed, door))
        screen = Screen(key, guarded, self.seat, self._budget, self._by, lambda: self._tell(key), unanswered)
        listed = self._listed[key] = Listed(id_, screen, printable(label, LABEL_MAX), door)
        self._changed("new", listed)
        return screen

    def has_room(self, more: int, new: bool = False) -> bool:
        """Whether so many bytes are free of what the guest's programs may hold, and for a `new` screen besides."""
        return self._budget.is_free(more + SCREEN_BYTES * new, PROGRAMS)

    def remove(self, screen: Screen) -> None:
        """End a screen. A second call does nothing."""
        listed = self._listed.pop(screen.key, None)
        screen.end()
        if not self._listed:
            # Nothing is counted until there is another screen.
            self._counted_ns = None
        if listed is not None:
            self._changed("remove", listed)

    # A machine's clipboard may come long after its screens, with a program in it, and go before them.
    def open_clipboard(self, source: ClipboardSource, door: str) -> Clipboard:
        """The clipboard of the machine at that door."""
        guarded = GuardedClipboard(source, partial(self._failed, door))
        clipboard = Clipboard(self._guest, guarded, self.seat, self._budget.open("clipboard"))
        self._clipboards[door] = clipboard
        self._tell_door(door)
        return clipboard

    def close_clipboard(self, clipboard: Clipboard) -> None:
        """It can't be reached any more. A second call does nothing."""
        clipboard.close()
        for door, one in list(self._clipboards.items()):
            if one is clipboard:
                del self._clipboards[door]
                self._tell_door(door)

    def clipboard_of(self, door: str) -> Clipboard | None:
        """The clipboard of the machine at that door, if it can be reached."""
        return self._clipboards.get(door)

    def _tell_door(self, door: str) -> None:
        for listed in self:
            if listed.door == door:
                self._changed("change", listed)

    def second(self, now_ns: HostNs) -> None:
        """Once a second: count what was painted, and report what is wrong with it."""
        if not self._listed:
            return
        for listed in self:
            for found in listed.screen.second(now_ns):
                self._report(Symptom("screen", found.cause, self._guest, listed.key, found.evidence, found.at_ns))
        before_ns, self._counted_ns = self._counted_ns, now_ns
        passed_ns = 0 if before_ns is None else now_ns - before_ns
        for listed in self._listed.values():
            screen = listed.screen
            self.painted += screen.serial - listed.counted
            if passed_ns > 0:
                listed.fps = (screen.serial - listed.counted) * NS_PER_S / passed_ns
                listed.pixels = (screen.painted_pixels - listed.counted_pixels) * NS_PER_S // passed_ns
            listed.counted, listed.counted_pixels = screen.serial, screen.painted_pixels

    def close(self) -> None:
        """The guest ends: end all screens."""
        for listed in self:
            self.remove(listed.screen)
        for clipboard in list(self._clipboards.values()):
            self.close_clipboard(clipboard)

    def _tell(self, key: str) -> None:
        listed = self._listed.get(key)
        if listed is not None:
            self._changed("change", listed)

    def _seat_changed(self) -> None:
        for listed in self:
            self._changed("change", listed)
