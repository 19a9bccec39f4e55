"""Small pictures of a guest's screen, for walls of many guests: made once for all walls, and only if something changed.

A wall is not a viewer: a viewer's connection is kept alive and measured, and its encoder makes whatever it sends exact
in the end, which for a hundred guests is most of the cost. A thumbnail needs none of that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from millrace.budget import VIEWERS, Account, Budget
from millrace.errors import MillraceError
from millrace.graph.screen import Picture, Reader
from millrace.graph.screens import Listed, Screens
from millrace.graph.seat import Watcher
from millrace.io.offload import Lane
from millrace.outlets.thumbnail import Made, Still, ThumbnailWork
from millrace.pixels.rects import Size
from millrace.rights.model import NOBODY
from millrace.units import NS_PER_S, HostNs

log = logging.getLogger("millrace.guest")
INTERVAL_NS: HostNs = NS_PER_S
THUMBNAIL_BYTES = 1024 * 1024
"""Memory of a guest's thumbnail: it, a copy to compare, what was encoded, and what the encoder takes meanwhile."""


class Thumbnail(NamedTuple):
    """A thumbnail, or a part of it to be drawn over the one before. Serials rise by one for each change."""

    serial: int
    size: Size
    still: Still


# The screen is read only while a wall shows it, and its source is told that one picture a second will do. A picture is
# leased while another thread reads it; `_done` runs on the event loop, and gives it back whatever became of the rest.
#
# `_serial` never goes back, so what a wall has of a screen that is gone is never taken for the one before a patch.
class Thumbnails:
    """The thumbnails of one guest: those of the screen that is there for longest."""

    def __init__(self, screens: Screens, lane: Callable[[], Lane], budget: Budget, clock: Callable[[], HostNs]) -> None:
        self._screens, self._lane, self._budget, self._clock = screens, lane, budget, clock
        self._walls: set[object] = set()
        self._serial = 0
        self._patch: Thumbnail | None = None
        """What has changed since the one before."""
        self._whole: Thumbnail | None = None
        self._wanted = False
        """Some wall lacks the one before the newest, and needs the whole."""
        self._of: Listed | None = None
        self._reader: Reader | None = None
        self._account: Account | None = None
        self._work: ThumbnailWork | None = None
        self._under_way: tuple[Lane, Picture | None] | None = None
        """What is being made: where, and of which picture."""
        self._quiet = False
        """Nothing has happened to the screen since a wall asked, and nothing is due."""
        self._failed = ""

    def show(self, wall: object) -> None:
        """A wall shows this guest from now on."""
        self._walls.add(wall)

    def hide(self, wall: object) -> None:
        """A wall no longer shows it. A second call does nothing."""
        self._walls.discard(wall)
        if not self._walls:
            self._leave()

    # Most screens stand still most of the time, and a wall may show hundreds: this must cost next to nothing.
    def still(self, serial: int) -> bool:
        """Whether `after` has nothing for a wall that has the thumbnail `serial`, and nothing to begin."""
        if self._of is None:
            return self._quiet and self._screens.first is None
        return self._quiet and serial == self._serial

    def after(self, serial: int) -> Thumbnail | None:
        """What a wall needs that has the thumbnail `serial` (0: none), if there is that; and begin what is due.

        To be called a few times a second by each wall that shows the guest. GraphError or BudgetError without room.
        """
        self._quiet = False
        self._follow()
        self._quiet = self._under_way is None and (self._reader is None or self._reader.next_timeout() is None)
        if self._reader is None or serial == self._serial:
            return None
        if self._patch is not None and serial == self._serial - 1:
            return self._patch
        # What is being made may be what it needs.
        self._wanted = self._whole is None and self._under_way is None
        return self._whole

    def _follow(self) -> None:
        """Read the screen that is shown now, and begin a thumbnail if one is due."""
        first = self._screens.first
        if first is not self._of or (self._reader is not None and self._reader.ended):
            self._leave()
        if first is not None and self._reader is None:
            self._read(first)
        if self._reader is not None and self._under_way is None:
            self._begin(self._reader)

    def _read(self, listed: Listed) -> None:
        account = self._budget.open("thumbnail", {"itself": THUMBNAIL_BYTES}, VIEWERS)
        try:
            who = Watcher(f"{listed.key} for walls", NOBODY)
            self._reader = listed.screen.read(who, INTERVAL_NS, wake=self._stir)
        except MillraceError:
            account.close()
            raise
        self._of, self._account = listed, account

    def _stir(self) -> None:
        """The screen was painted, or has ended."""
        self._quiet = False

    def _leave(self) -> None:
        """Nothing is left of the screen that was read, so it is never shown as another one."""
        reader, self._reader = self._reader, None
        account, self._account = self._account, None
        self._of = self._work = self._patch = self._whole = None
        self._quiet = False
        if self._under_way is not None and self._under_way[0].withdraw():
            self._end(self._under_way[1])
        if reader is not None:
            reader.end()
        if account is not None:
            account.close()

    def _begin(self, reader: Reader) -> None:
        picture, wanted = reader.take(self._clock()), self._wanted
        if picture is not None and not picture.damage and not picture.moves:
            # The pointer is not part of it.
            picture.release()
            picture = None
        if picture is None and not wanted:
            return
        before, work = self._work, self._fitting(picture)
        if work is None:
            return
        first = work is not before
        plane = None if picture is None else picture.plane
        damage = () if picture is None else (*picture.damage, *(move.to for move in picture.moves))
        lane = self._lane()
        self._under_way, self._wanted = (lane, picture), False
        try:
            lane(lambda: work.make(plane, damage, first or wanted), lambda made: self._done(made, work, picture, first))
        except MillraceError:
            self._end(picture)
            # The next reader begins with the whole picture: what this one took is not made.
            self._leave()
            raise

    def _end(self, picture: Picture | None) -> None:
        """Nothing is made of that picture any more."""
        self._under_way = None
        if picture is not None:
            picture.release()

    def _fitting(self, picture: Picture | None) -> ThumbnailWork | None:
        """The work for that picture: another one if the screen has another size."""
        if picture is not None:
            size = Size(picture.mode.width, picture.mode.height)
            if self._work is None or self._work.screen != size:
                self._work = ThumbnailWork(size)
        return self._work

    def _done(self, made: Made | Exception, work: ThumbnailWork, picture: Picture | None, first: bool) -> None:
        self._quiet = False
        self._end(picture)
        if work is not self._work:
            return
        if isinstance(made, Exception):
            if str(made) != self._failed:
                self._failed = str(made)
                log.warning("no thumbnail of %s: %s", self._of.key if self._of else "a screen", made)
            self._leave()
            return
        if first or made.patch is not None:
            self._serial += 1
            # The first one is not a change of the one before, which was of another screen or size.
            patch = None if first else made.patch
            self._patch = None if patch is None else Thumbnail(self._serial, work.size, patch)
            self._whole = None
        if made.whole is not None:
            self._whole = Thumbnail(self._serial, work.size, made.whole)
