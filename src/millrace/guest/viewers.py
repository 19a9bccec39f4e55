"""All viewers of a guest: who shares an encoder, who has the keyboard, and what becomes of them when a screen goes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple, Protocol

from millrace.codec.picturesettings import PictureSettings
from millrace.errors import BudgetError, CodecError, GraphError, MillraceError, RightsError
from millrace.graph.screens import Listed
from millrace.graph.seat import Watcher
from millrace.guest.home import Home
from millrace.guest.notfound import missing
from millrace.guest.viewer import ViewerSession
from millrace.io.clock import now_ns
from millrace.io.timer import TimerRunner
from millrace.outlets.encoded import MakePictures
from millrace.outlets.picturechoice import VIDEO_CODECS, Formats
from millrace.outlets.picturecounts import PictureCounts
from millrace.outlets.pictureflow import rate_step
from millrace.outlets.picturetimes import StageTotals
from millrace.rights.model import NOBODY
from millrace.symptoms import TEXT_MAX, Symptom
from millrace.units import NS_PER_S, HostNs
from millrace.wire.peer.pictures import ScreenNamed

log = logging.getLogger("millrace.guest")

VIEWERS_MAX = 256
NAMED_MAX = 64
"""Screens of a list."""
RETRY_NS = 5 * NS_PER_S
"""How long a viewer whose encoder has failed waits for another."""


class Sort(NamedTuple):
    """Viewers of the same sort share an encoder."""

    screen: str
    settings: PictureSettings
    rate: int | None
    """Bit/s; None: no bound."""
    formats: Formats


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


def _in_this_loop(group: Group) -> Timer:
    return TimerRunner(group, asyncio.get_running_loop())


class Group:
    """An encoder, and the viewers that share it."""

    def __init__(
        self, home: Home, sort: Sort, listed: Listed, make: MakePictures, timer: Callable[[Group], Timer],
        failed: Callable[[Group, Exception], None],
    ) -> None:  # fmt: skip
        self.sort, self.listed = sort, listed
        self.sessions: list[ViewerSession] = []
        self._turns = home.turns
        self._timer: Timer | None = None
        who = Watcher(for_viewers(listed), NOBODY)
        self.pictures = make(
            listed.screen, sort.settings, sort.formats, who, self.wake, lambda error: failed(self, error)
        )
        self.pictures.set_rate(sort.rate)
        self._timer = timer(self)

    def wake(self) -> None:
        """Something may be due."""
        if self._timer is not None:
            self._timer.rearm()

    def next_timeout(self) -> HostNs | None:
        """See `Timed`: of the encoder, of the pointers and key pictures that have to be sent, and of what is late."""
        due = [ns for one in self.sessions for ns in (one.cursor_due(), one.refreshes.due_ns, one.blame.next_timeout())]
        return min((ns for ns in (*due, self.pictures.next_timeout()) if ns is not None), default=None)

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Timed`."""
        with self._turns:
            for session in self.sessions:
                if session.refreshes.due_ns is not None and session.refreshes.allowed(now_ns):
                    self.pictures.refresh(session)
            self.pictures.handle_timeout(now_ns)
            for session in self.sessions:
                session.send_cursor(now_ns)
                if session.blame.look(now_ns):
                    session.flush()

    def close(self) -> None:
        """The last viewer has left."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
        self.pictures.close()
        # It has this group's `wake`: a cycle, which only a full collection would free (daemon/collector.py).
        del self.pictures


# The keyboard changes hands here and nowhere else: what the one who had it holds down is released while it still has
# it, and all viewers of the guest are told. So whatever takes it away from a viewer (leaving, its rights, its screen)
# goes through `leave_keyboard`.
class Viewers:
    """The viewers of one guest."""

    def __init__(
        self, guest: Home, make: MakePictures, timer: Callable[[Group], Timer] = _in_this_loop,
        changed: Callable[[str, ViewerSession], None] = lambda change, session: None,
        clock: Callable[[], HostNs] = now_ns,
    ) -> None:  # fmt: skip
        """`changed` is called with new, change or remove."""
        self.guest, self.clock = guest, clock
        self.sessions: list[ViewerSession] = []
        self.totals = StageTotals()
        self._skipped = 0
        """By viewers that have left."""
        self._ended = PictureCounts()
        """What encoders that have ended had counted."""
        self._make, self._timer, self._changed = make, timer, changed
        self._groups: dict[Sort, Group] = {}
        self._group_of: dict[ViewerSession, Group] = {}

    def of_listener(self, key: str) -> list[ViewerSession]:
        """The viewers that belong to a sound listener."""
        return [session for session in self.sessions if session.listener == key]

    def find(self, screen: str | None) -> Listed | None:
        """The screen that a viewer asks for: None if it asks for any and there is none; NotFound without that one."""
        if screen is None:
            return self.guest.screens.first
        found = self.guest.screens.find(screen)
        if found is None:
            raise missing(screen, self.guest.name)
        return found

    # -- what was counted ------------------------------------------------------------------------

    @property
    def skipped(self) -> int:
        """Pictures painted that a viewer was not sent, since the daemon started."""
        return self._skipped + sum(session.times.skipped for session in self.sessions)

    @property
    def counts(self) -> PictureCounts:
        """What all encoders made and sent, since the daemon started."""
        out = PictureCounts()
        for counts in (self._ended, *(group.pictures.counts for group in self.groups)):
            out.add(counts)
        return out

    @property
    def groups(self) -> list[Group]:
        """The encoders, each with its viewers."""
        return list(self._groups.values())

    def second(self) -> None:
        """Once a second: note what the encoders have done."""
        for group in self.groups:
            group.pictures.counts.second()

    # -- who watches -----------------------------------------------------------------------------

    def join(self, session: ViewerSession) -> None:
        """A viewer has said what it wants; GraphError if there is no room."""
        if len(self.sessions) >= VIEWERS_MAX:
            raise GraphError(f"guest {self.guest.name} has {VIEWERS_MAX} viewers, the maximum")
        self.sessions.append(session)
        self._changed("new", session)
        session.tell_screens(self._named())
        session.tell_keyboard(self._holder())
        self.regroup(session)
        self.guest.latency_changed()

    def leave(self, session: ViewerSession) -> None:
        """A viewer has left, or may not watch any more."""
        self.leave_keyboard(session)
        self._exit(session)
        if session in self.sessions:
            self.sessions.remove(session)
            self._skipped += session.times.skipped
            self._changed("remove", session)
            self.guest.latency_changed()

    def regroup(self, session: ViewerSession) -> None:
        """Let a viewer share the encoder that fits it now; if there is no room for that, GraphError, and no change."""
        before, sort = self._group_of.get(session), self._sort(session)
        if (before.sort if before else None) == sort:
            return
        if before is not None and sort is not None and self._only_rate(before, sort):
            self._set_rate(before, sort)
            return
        group = None if sort is None or session.listed is None else self._group(sort, session.listed)
        self._exit(session)
        if group is not None:
            self._group_of[session], session.encoding = group, True
            group.sessions.append(session)
            group.pictures.join(session)
            group.wake()
        self._changed("change", session)

    # Another encoder costs a viewer the whole picture again, another rate of its own one costs nothing.
    def _only_rate(self, group: Group, sort: Sort) -> bool:
        """Whether a group's only viewer wants another rate, which no other group has."""
        same = group.sort._replace(rate=sort.rate) == sort
        return same and len(group.sessions) == 1 and sort not in self._groups

    def _set_rate(self, group: Group, sort: Sort) -> None:
        del self._groups[group.sort]
        group.sort = sort
        self._groups[sort] = group
        group.pictures.set_rate(sort.rate)
        group.wake()

    def _sort(self, session: ViewerSession) -> Sort | None:
        """The sort that a viewer is of now; None while it is sent no pictures."""
        if session.listed is None or not session.wants_pictures or session.long_hidden:
            return None
        if self.clock() < session.retry_ns:
            return None
        settings, group = session.settings, self._group_of.get(session)
        rate = settings.picture if isinstance(settings.picture, int) else None
        if settings.picture == "auto":
            rate = rate_step(session.flow.rate, group.sort.rate if group else None)
        return Sort(session.listed.key, settings, rate, _formats(session))

    def _group(self, sort: Sort, listed: Listed) -> Group:
        group = self._groups.get(sort)
        if group is None:
            group = self._groups[sort] = Group(self.guest, sort, listed, self._make, self._timer, self._failed)
        return group

    def _failed(self, group: Group, error: Exception) -> None:
        """An encoder makes no more pictures: its viewers are told, and tried with another one later."""
        log.warning("guest %s, %s: pictures ended: %s", self.guest.name, group.listed.key, error)
        told = error if isinstance(error, MillraceError) else CodecError("the picture can't be encoded")
        if not isinstance(error, BudgetError):
            # Its budget has reported that.
            evidence = {"error": str(error)[:TEXT_MAX] or type(error).__name__}
            self.guest.report(Symptom("picture", "failed", self.guest.name, group.listed.key, evidence))
        for session in list(group.sessions):
            self._exit(session)
            session.retry_ns = self.clock() + RETRY_NS
            session.tell_trouble(told)

    def _exit(self, session: ViewerSession) -> None:
        group = self._group_of.pop(session, None)
        session.encoding = False
        if group is None:
            return
        group.sessions.remove(session)
        group.pictures.leave(session)
        if not group.sessions:
            del self._groups[group.sort]
            self._ended.add(group.pictures.counts)
            group.close()

    def ready(self, session: ViewerSession) -> None:
        """A viewer has room again: send it what is due."""
        group = self._group_of.get(session)
        if group is not None and session.ready(self.clock()):
            group.handle_timeout(self.clock())
            group.wake()

    def refresh(self, session: ViewerSession) -> None:
        """A viewer needs a key picture: at once, or when it may have one."""
        group = self._group_of.get(session)
        if group is not None:
            if session.refreshes.allowed(self.clock()):
                group.pictures.refresh(session)
            group.wake()

    # -- the keyboard ----------------------------------------------------------------------------

    def take_keyboard(self, session: ViewerSession) -> None:
        """Give a viewer the keyboard, whoever had it; RightsError unless it may type."""
        if not session.may_type:
            raise RightsError(f"{session.principal.key} may not type in guest {self.guest.name}")
        seat = self.guest.screens.seat
        if seat.who is not session.who:
            for other in self.sessions:
                if other.has_keyboard:
                    other.blame.keyboard_taken(session.name, self.clock())
                other.release_keys()
            seat.take(session.who)
        self._tell_keyboard()

    def leave_keyboard(self, session: ViewerSession) -> None:
        """Take the keyboard away from a viewer, if it has it."""
        if session.has_keyboard:
            session.release_keys()
            self.guest.screens.seat.leave(session.who)
            self._tell_keyboard()

    def _holder(self) -> str:
        """The name of the viewer that has the keyboard."""
        holder = self.guest.screens.seat.who
        names = (session.name for session in self.sessions if session.who is holder)
        return "" if holder is None else next(names, holder.key)

    def _tell_keyboard(self) -> None:
        for session in list(self.sessions):
            session.tell_keyboard(self._holder())
            self._changed("change", session)

    # -- the screens -----------------------------------------------------------------------------

    def screen_changed(self, change: str, listed: Listed) -> None:
        """A screen of the guest came, changed or went."""
        for session in list(self.sessions):
            if change == "new" and session.listed is None and session.accepts(listed):
                session.see(listed)
            elif change == "remove" and session.listed is listed:
                self._lost(session, listed)
            session.tell_screens(self._named())
            session.tell_relative()
            session.clip.see(session.listed)
            if change != "change":
                # Readers that come and go are changes too: those of the encoder that this makes.
                session.regroup()

    def _lost(self, session: ViewerSession, listed: Listed) -> None:
        self._exit(session)
        session.tell_gone(self._why(listed))

    def _why(self, listed: Listed) -> str:
        """Why a screen is gone, as its machine says."""
        for machine in self.guest.machines:
            if machine.key == listed.door:
                view = machine.view()
                return f"{listed.label}: {view.error or view.state}"
        return f"{listed.label} is gone"

    def _named(self) -> list[ScreenNamed]:
        return [_named(listed) for listed in self.guest.screens][:NAMED_MAX]


def _formats(session: ViewerSession) -> Formats:
    video = next((codec for codec in VIDEO_CODECS if codec in session.codecs), None)
    return Formats(video, "jpeg" in session.formats, "zstd" in session.formats)


def _named(listed: Listed) -> ScreenNamed:
    memory = listed.screen.memory
    size = (memory.mode.width, memory.mode.height) if memory else (0, 0)
    return ScreenNamed(listed.key, listed.label, *size)
