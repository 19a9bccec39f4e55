"""Viewers of the same sort, which share an encoder: what is due for them is sent in their guest's turns."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Protocol

from millrace.graph.pictures import Overlay
from millrace.graph.screens import Listed
from millrace.graph.seat import Watcher
from millrace.guest.home import Home
from millrace.guest.viewer import ViewerSession
from millrace.guest.viewersort import Sort
from millrace.guest.viewervideos import passable
from millrace.io.timer import TimerRunner
from millrace.outlets.encoded import MakePictures
from millrace.rights.model import NOBODY
from millrace.units import HostNs

log = logging.getLogger("millrace.guest")


def for_viewers(listed: Listed) -> str:
    """The name by which the encoders of its viewers read a screen."""
    return f"{listed.key} for viewers"


class Timer(Protocol):
    """Runs a group at its deadlines."""

    def rearm(self) -> None:
        """The deadline may have changed."""
        ...

    def stop(self) -> None:
        """Run it no more."""
        ...


def in_this_loop(group: Group) -> Timer:
    """A timer of the event loop."""
    return TimerRunner(group, asyncio.get_running_loop())


# A machine may move its pointer and paint thousands of times in what is read from it at once, and each time something
# may be due for each viewer. So what happens only asks for a round (`wake`), and a round looks at each viewer once, in
# steps: a worker of the guest's turns (io/turns.py).
class Group:
    """An encoder, and the viewers that share it."""

    first = False

    def __init__(
        self, home: Home, sort: Sort, listed: Listed, make: MakePictures, timer: Callable[[Group], Timer],
        failed: Callable[[Group, Exception], None], clock: Callable[[], HostNs],
    ) -> None:  # fmt: skip
        self.sort, self.listed = sort, listed
        self.sessions: list[ViewerSession] = []
        self._turns, self._failed, self._clock = home.turns, failed, clock
        self._timer: Timer | None = None
        self._waits = False
        """A round is under way, or waits for its turn."""
        self._missed = False
        """Something happened after the last look at the videos that viewers show began."""
        self._steps: Iterator[None] | None = None
        self._lying: tuple[Overlay, ...] = ()
        self._passable: tuple[Overlay, ...] = ()
        """Those of them that viewers can draw."""
        who = Watcher(for_viewers(listed), NOBODY)
        self.pictures = make(
            listed.screen, sort.settings, sort.formats, who, self.wake, lambda error: failed(self, error)
        )
        self.pictures.set_rate(sort.rate)
        self._timer = timer(self)

    @property
    def owner(self) -> str:
        """The principal of the viewer that has shared it for longest, as whose it counts."""
        return self.sessions[0].principal.key if self.sessions else ""

    def wake(self) -> None:
        """Something may be due: have a round."""
        self._missed = True
        if self._timer is not None and not self._waits:
            self._waits = True
            self._turns.wait(self)

    def next_timeout(self) -> HostNs | None:
        """See `Timed`: of the encoder, and of what its viewers are to be sent; None while a round waits."""
        if self._waits:
            return None
        due = [
            ns for one in self.sessions
            for ns in (one.due_ns(), one.limits.refreshes.due_ns, one.blame.next_timeout())
        ]  # fmt: skip
        return min((ns for ns in (*due, self.pictures.next_timeout()) if ns is not None), default=None)

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Timed`."""
        self.wake()

    def work(self) -> bool:
        """See `Worker`."""
        if self._timer is None:
            return True
        steps = self._steps = self._steps or self._round()
        try:
            for _ in steps:
                if self._timer is None:
                    return True
                if self._turns.over():
                    return False
        except Exception as error:
            # Once, and not in every round: its viewers are given another encoder later.
            log.exception("guest's viewers of %s: internal error", self.listed.key)
            self._failed(self, error)
            self._missed = False
        self._steps, self._waits = None, False
        if self._timer is not None:
            self._timer.rearm()
        if self._missed:
            self.wake()
        return True

    # What was made since the last round comes first: a viewer takes no other picture before it was sent that. Frames of
    # videos come last, with it or with the room that it leaves: they alone would fill a line.
    def _round(self) -> Iterator[None]:
        yield from self.pictures.deliver()
        for session in list(self.sessions):
            yield from self._serve(session)
            yield
        now_ns = self._clock()
        for session in self.sessions:
            refreshes = session.limits.refreshes
            if refreshes.due_ns is not None and refreshes.allowed(now_ns):
                self.pictures.refresh(session)
        yield from self._compose()
        self.pictures.handle_timeout(self._clock())
        yield
        # What is small was encoded at once.
        yield from self.pictures.deliver()
        for session in list(self.sessions):
            yield from self._serve(session, due=True)
            yield
        self._missed = False
        yield from self._compose()

    # A viewer that was just sent a key frame of a video can show that from now on; one that fell behind, no longer. One
    # that nobody looks at needs none decoded: when it is looked at again, it waits for a key frame like one that joins.
    def _compose(self) -> Iterator[None]:
        """Have the encoder leave out the videos that all viewers can show, and follow which there are."""
        overlays = self.listed.screen.overlays if self.sort.as_sent else ()
        if overlays is not self._lying:
            self._lying, self._passable = overlays, passable(overlays)
        tracks, looking = frozenset(one.track for one in self._passable), set[ViewerSession]()
        for session in list(self.sessions):
            if not session.hidden and session in self.sessions:
                yield from session.videos.follow(self._passable, self._clock())
                tracks &= session.videos.shown
                looking.add(session)
                yield
        # Who came or began to look meanwhile shows none yet.
        if not self.sessions or any(one not in looking for one in self.sessions if not one.hidden):
            tracks = frozenset()
        self.pictures.compose(tracks)

    def _serve(self, session: ViewerSession, due: bool = False) -> Iterator[None]:
        """Send a viewer its picture, and what else is `due`. An error ends that viewer, and not what others see."""
        try:
            yield from session.send_pictures(due)
            if due:
                session.send_due(self._clock())
        except Exception as error:
            session.sending.fail(error)

    def close(self) -> None:
        """The last viewer has left."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
        self.pictures.close()
        # Both have this group: cycles, which only a full collection would free (daemon/collector.py).
        self._steps = None
        del self.pictures, self._failed
