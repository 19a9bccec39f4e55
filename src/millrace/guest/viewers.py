"""All viewers of a guest: who shares an encoder, who has the keyboard, and what becomes of them when a screen goes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial

from millrace.errors import BudgetError, CodecError, GraphError, MillraceError, RightsError
from millrace.graph.screens import Listed
from millrace.graph.steps import Steps
from millrace.guest.home import Home
from millrace.guest.notfound import missing
from millrace.guest.viewer import ViewerSession
from millrace.guest.viewergroup import Group, Timer, in_this_loop
from millrace.guest.viewersort import Sort
from millrace.io.clock import now_ns
from millrace.outlets.encoded import MakePictures
from millrace.outlets.picturechoice import VIDEO_CODECS, Formats
from millrace.outlets.picturecounts import PictureCounts
from millrace.outlets.pictureflow import rate_step
from millrace.outlets.picturetimes import StageTotals
from millrace.symptoms import TEXT_MAX, Symptom
from millrace.units import NS_PER_S, HostNs
from millrace.wire.peer.pictures import ScreenNamed

log = logging.getLogger("millrace.guest")

VIEWERS_MAX = 256
"""Connections of viewers, those that have not said yet what they want among them."""
ENCODERS_MAX = 32
"""Encoders of a guest: of more sorts of viewers, some share the nearest one."""
EACH_MAX = ENCODERS_MAX // 2
"""Encoders of one principal's viewers: it can't take those of all others."""
NAMED_MAX = 64
"""Screens of a list."""
RETRY_NS = 5 * NS_PER_S
"""How long a viewer whose encoder has failed waits for another."""


# The keyboard changes hands here and nowhere else: what the one who had it holds down is released while it still has
# it, and all viewers of the guest are told. So whatever takes it away from a viewer (leaving, its rights, its screen)
# goes through `leave_keyboard`.
#
# What a machine does, and who has the keyboard, is told in rounds (`_follow_all`), a worker of the guest's turns: each
# viewer is told the newest state, however many there were before. A screen that is gone is still seen until then, so
# nothing is begun on a screen that has `ended`.
class Viewers:
    """The viewers of one guest."""

    def __init__(
        self, guest: Home, make: MakePictures, timer: Callable[[Group], Timer] = in_this_loop,
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
        self._connected: set[ViewerSession] = set()
        self._new: dict[Listed, None] = {}
        """Screens that came since the last round."""
        self._named: list[ScreenNamed] = []
        self._holder = ""
        """The name of the viewer that has the keyboard."""
        self._stale = False
        """Something has changed since the last round began."""
        self._following = Steps(self._follow_all, guest.turns.over)

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
        for group in self._groups.values():
            group.pictures.counts.second()

    # -- who watches -----------------------------------------------------------------------------

    def arrive(self, session: ViewerSession) -> None:
        """A viewer has connected; GraphError if there is no room."""
        if len(self._connected) >= VIEWERS_MAX:
            raise GraphError(f"guest {self.guest.name} has {VIEWERS_MAX} viewers, the maximum")
        self._connected.add(session)

    def join(self, session: ViewerSession) -> None:
        """A viewer has said what it wants."""
        self.sessions.append(session)
        self._changed("new", session)
        self._look()
        session.tell_screens(self._named)
        session.tell_keyboard(self._holder)
        self.regroup(session)
        self.guest.latency_changed()

    def leave(self, session: ViewerSession) -> None:
        """A viewer has left, or may not watch any more."""
        self._connected.discard(session)
        self.leave_keyboard(session)
        self._exit(session)
        if session in self.sessions:
            self.sessions.remove(session)
            self._skipped += session.times.skipped
            self._changed("remove", session)
            self.guest.latency_changed()

    def regroup(self, session: ViewerSession) -> None:
        """Let a viewer share the encoder that fits it now; GraphError or BudgetError if there is no room.

        Without room for an encoder nothing changes; without room to join one, it is sent nothing until it is.
        """
        before, sort = self._group_of.get(session), self._sort(session)
        if (before.sort if before else None) == sort:
            return
        if before is not None and sort is not None and self._becomes(before, sort):
            self._adapt(before, sort)
            return
        if sort is not None and self._too_soon(session, sort, before):
            return
        group = None if sort is None or session.listed is None else self._group(sort, session, session.listed, before)
        if group is not None and group is before:
            return
        self._exit(session)
        if group is not None:
            self._group_of[session] = group
            group.sessions.append(session)
            try:
                group.pictures.join(session)
            except MillraceError:
                # It is in no group, so the next tick tries again.
                self._exit(session)
                raise
            group.wake()
        session.shares = None if group is None else group.sort.settings
        self._changed("change", session)

    # Another encoder costs a viewer the whole picture again, another rate of its own one costs nothing.
    def _becomes(self, group: Group, sort: Sort) -> bool:
        """Whether a group's only viewer wants what its encoder can go on with, and no other group has."""
        return group.sort.becomes(sort) and len(group.sessions) == 1 and sort not in self._groups

    def _adapt(self, group: Group, sort: Sort) -> None:
        del self._groups[group.sort]
        before, group.sort = group.sort, sort
        self._groups[sort] = group
        if sort.rate != before.rate:
            group.pictures.set_rate(sort.rate)
        if sort.settings.fps != before.settings.fps:
            group.pictures.set_fps(sort.settings.fps)
        group.wake()
        if sort.settings != before.settings:
            for session in group.sessions:
                session.shares = sort.settings
                self._changed("change", session)

    # A new encoder begins with the whole picture, which takes a thread from the others for a while.
    def _too_soon(self, session: ViewerSession, sort: Sort, before: Group | None) -> bool:
        """Whether a viewer would have a second new encoder within a second; its session asks again when it may."""
        made = sort not in self._groups and not self._full(session.principal.key, before)
        return made and not session.encoders.allowed(self.clock())

    def _sort(self, session: ViewerSession) -> Sort | None:
        """The sort that a viewer is of now; None while it is sent no pictures."""
        if session.listed is None or session.listed.screen.ended or not session.wants_pictures or session.long_hidden:
            return None
        if self.clock() < session.retry_ns:
            return None
        settings, group = session.settings, self._group_of.get(session)
        rate = settings.picture if isinstance(settings.picture, int) else None
        if settings.picture == "auto":
            rate = rate_step(session.flow.rate, group.sort.rate if group else None)
        return Sort(session.listed.key, settings, rate, _formats(session))

    def _group(self, sort: Sort, session: ViewerSession, listed: Listed, before: Group | None) -> Group:
        """The group of that sort, or the nearest if there is no room for one, for a viewer that leaves `before`."""
        group = self._groups.get(sort)
        if group is None:
            if full := self._full(session.principal.key, before):
                return self._nearest(sort, full)
            group = Group(self.guest, sort, listed, self._make, self._timer, self._failed, self.clock)
            self._groups[sort] = group
        return group

    def _full(self, who: str, before: Group | None) -> str:
        """Why a viewer of `who` that leaves `before` can have no other encoder; empty if it can."""
        kept = [group for group in self.groups if group is not before or len(group.sessions) > 1]
        if len(kept) >= ENCODERS_MAX:
            return f"guest {self.guest.name} has {ENCODERS_MAX} encoders of pictures, the maximum"
        if sum(group.owner == who for group in kept) >= EACH_MAX:
            return f"{who} has {EACH_MAX} encoders of pictures in guest {self.guest.name}, the maximum"
        return ""

    def _nearest(self, sort: Sort, full: str) -> Group:
        """The group whose pictures are most like those that are wanted; GraphError, with why it is `full`, for none."""
        suit = [group for group in self.groups if group.sort.serves(sort)]
        if not suit:
            raise GraphError(f"{full}, and none of them suits")
        return min(suit, key=lambda group: group.sort.unlike(sort))

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
            self._each(session, lambda session: session.tell_trouble(told))

    def _exit(self, session: ViewerSession) -> None:
        group = self._group_of.pop(session, None)
        session.shares = None
        session.pictures.drop()
        if group is None:
            return
        group.sessions.remove(session)
        group.pictures.leave(session)
        if not group.sessions:
            del self._groups[group.sort]
            self._ended.add(group.pictures.counts)
            group.close()

    def ready(self, session: ViewerSession) -> None:
        """A viewer may have room again: what is due is sent."""
        group = self._group_of.get(session)
        if group is not None and (session.pictures.due or session.ready(self.clock())):
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
        if seat.who is session.who:
            return
        before = self._typist()
        if before is not None:
            before.blame.keyboard_taken(session.name, self.clock())
            before.release_keys()
        seat.take(session.who)
        for one in (before, session):
            if one is not None:
                self._changed("change", one)
        self.tell_later()

    def leave_keyboard(self, session: ViewerSession) -> None:
        """Take the keyboard away from a viewer, if it has it."""
        if session.has_keyboard:
            session.release_keys()
            self.guest.screens.seat.leave(session.who)
            self._changed("change", session)
            self.tell_later()

    def _typist(self) -> ViewerSession | None:
        """The viewer that has the keyboard."""
        holder = self.guest.screens.seat.who
        return None if holder is None else next((one for one in self.sessions if one.who is holder), None)

    # -- what is told in rounds ------------------------------------------------------------------

    def screen_changed(self, change: str, listed: Listed) -> None:
        """A screen of the guest came, changed or went."""
        if change == "new":
            self._new[listed] = None
        elif change == "remove":
            self._new.pop(listed, None)
        self.tell_later()

    def tell_later(self) -> None:
        """Tell all viewers what has changed, in the next round."""
        self._stale = True
        self.guest.turns.wait(self._following)

    def _follow_all(self) -> Iterator[None]:
        while self._stale:
            self._look()
            self._stale = False
            new, self._new = list(self._new), {}
            for session in list(self.sessions):
                if session in self._connected and not session.sending.closed:
                    self._each(session, partial(self._follow, new=new))
                    yield

    @staticmethod
    def _each(session: ViewerSession, work: Callable[[ViewerSession], None]) -> None:
        """Do for one of several viewers what is done for all: an error in it ends that viewer, and not the round."""
        try:
            work(session)
        except Exception as error:
            session.sending.fail(error)

    def _follow(self, session: ViewerSession, new: list[Listed]) -> None:
        """Tell a viewer the newest state; `new` are screens that may take the place of the one that it saw."""
        listed = session.listed
        if listed is not None and listed.screen.ended:
            self._exit(session)
            session.tell_gone(self._why(listed))
        if session.listed is None:
            for one in new:
                if not one.screen.ended and session.accepts(one):
                    session.see(one)
                    break
        self.tell(session)
        if session.listed is not listed:
            session.regroup()

    def tell(self, session: ViewerSession) -> None:
        """Tell a viewer what it has not been told yet, if it has room."""
        session.tell_screens(self._named)
        session.tell_keyboard(self._holder)
        session.tell_relative()
        session.tell_clip()

    def _why(self, listed: Listed) -> str:
        """Why a screen is gone, as its machine says."""
        for machine in self.guest.machines:
            if machine.key == listed.door:
                view = machine.view()
                return f"{listed.label}: {view.error or view.state}"
        return f"{listed.label} is gone"

    def _look(self) -> None:
        """Note what all viewers are to be told."""
        typist, holder = self._typist(), self.guest.screens.seat.who
        self._holder = typist.name if typist is not None else "" if holder is None else holder.key
        self._named = [_named(listed) for listed in self.guest.screens][:NAMED_MAX]


def _formats(session: ViewerSession) -> Formats:
    video = next((codec for codec in VIDEO_CODECS if codec in session.codecs), None)
    zstd = "zstd" in session.formats
    return Formats(video, "jpeg" in session.formats, zstd, zstd and "palette" in session.formats)


def _named(listed: Listed) -> ScreenNamed:
    memory = listed.screen.memory
    size = (memory.mode.width, memory.mode.height) if memory else (0, 0)
    return ScreenNamed(listed.key, listed.label, *size)
