"""Which viewers of a guest share which encoder, and who gives one up when there are no more."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator

from millrace.budget import ENCODERS
from millrace.errors import BudgetError, CodecError, GraphError, MillraceError
from millrace.graph.screens import Listed
from millrace.graph.steps import Steps
from millrace.guest.home import Home
from millrace.guest.viewer import ViewerSession
from millrace.guest.viewergroup import Group, Timer
from millrace.guest.viewersort import Distance, Sort
from millrace.outlets.encoded import MakePictures
from millrace.outlets.picturechoice import Formats
from millrace.outlets.picturecost import work_bytes
from millrace.outlets.picturecounts import PictureCounts
from millrace.outlets.pictureflow import rate_step
from millrace.pixels.rects import Size
from millrace.symptoms import TEXT_MAX, Symptom
from millrace.units import NS_PER_S, HostNs

log = logging.getLogger("millrace.guest")

ENCODERS_MAX = 32
"""Encoders of a guest: of more sorts of viewers, some share the nearest one."""
EACH_MAX = ENCODERS_MAX // 2
"""Encoders of one principal's viewers."""
RETRY_NS = 5 * NS_PER_S
"""How long a viewer whose encoder has failed waits for another; without room for one, it is tried each second."""


def for_one(session: ViewerSession, work: Callable[[ViewerSession], None]) -> None:
    """Do for one of several viewers what is done for all: an error in it ends that viewer, and not the round."""
    try:
        work(session)
    except Exception as error:
        session.sending.fail(error)


# An encoder begins with the whole picture, and so does a viewer that joins one: that takes a thread from the others for
# a while. So each way into a group passes the viewer's limit and its principal's (`ViewerLimits.moves`).
#
# When there are no more encoders, a principal that has fewer than another by two or more takes one of that one's: in
# the end all that want some have as many as another, and nobody takes one from whom it would have to give it back.
class Sharing:
    """The encoders of one guest's viewers."""

    def __init__(
        self, guest: Home, make: MakePictures, timer: Callable[[Group], Timer],
        changed: Callable[[str, ViewerSession], None], clock: Callable[[], HostNs],
    ) -> None:  # fmt: skip
        """`changed` is called with "change" when a viewer shares another one."""
        self._guest, self._make, self._timer, self._changed, self._clock = guest, make, timer, changed, clock
        self._groups: dict[Sort, Group] = {}
        self._group_of: dict[ViewerSession, Group] = {}
        self._ended = PictureCounts()
        """What encoders that have ended had counted."""
        self._left: deque[tuple[ViewerSession, Callable[[ViewerSession], None]]] = deque()
        """Viewers whose encoder has ended, and what is to be done for each."""
        self._leaving = Steps(self._dismiss, guest.turns.over)

    @property
    def groups(self) -> list[Group]:
        """The encoders, each with its viewers."""
        return list(self._groups.values())

    @property
    def counts(self) -> PictureCounts:
        """What all encoders made and sent, since the daemon started."""
        out = PictureCounts()
        for counts in (self._ended, *(group.pictures.counts for group in self.groups)):
            out.add(counts)
        return out

    def second(self) -> None:
        """Once a second: note what the encoders have done."""
        for group in self._groups.values():
            group.pictures.counts.second()

    # -- the encoder that fits -------------------------------------------------------------------

    def regroup(self, session: ViewerSession) -> bool:
        """Let a viewer share the encoder that fits it now; GraphError or BudgetError if there is no room.

        Without room for an encoder nothing changes; without room to join one, it is sent nothing until it is. Returns
        whether it shares the best one that it can have already.
        """
        before, sort = self._group_of.get(session), self._sort(session)
        if (before.sort if before else None) == sort:
            return before is not None
        if sort is None or session.listed is None:
            self._move(session, None)
        elif before is not None and self._becomes(before, sort):
            self._adapt(session, before, sort)
        else:
            return self._join(session, session.listed, sort, before)
        return False

    def _sort(self, session: ViewerSession) -> Sort | None:
        """The sort that a viewer is of now; None while it is sent no pictures."""
        if session.listed is None or session.listed.screen.ended or not session.wants_pictures or session.long_hidden:
            return None
        if self._clock() < session.retry_ns:
            return None
        settings, group = session.settings, self._group_of.get(session)
        rate = settings.picture if isinstance(settings.picture, int) else None
        if settings.picture == "auto":
            rate = rate_step(session.flow.rate, group.sort.rate if group else None)
        shows = Formats.named(session.codecs, session.formats, session.videos.codecs)
        return Sort(session.listed.key, settings, rate, shows)

    # Another encoder costs a viewer the whole picture again, another rate of its own one costs nothing.
    def _becomes(self, group: Group, sort: Sort) -> bool:
        """Whether a group's only viewer wants what its encoder can go on with, and no other group has."""
        return group.sort.becomes(sort) and len(group.sessions) == 1 and sort not in self._groups

    def _adapt(self, session: ViewerSession, group: Group, sort: Sort) -> None:
        before = group.sort
        if sort.settings.fps != before.settings.fps and not session.limits.paces.allowed(self._clock()):
            return
        del self._groups[before]
        group.sort = sort
        self._groups[sort] = group
        if sort.rate != before.rate:
            group.pictures.set_rate(sort.rate)
        if sort.settings.fps != before.settings.fps:
            group.pictures.set_fps(sort.settings.fps)
        group.wake()
        if sort.settings != before.settings:
            session.shares = sort.settings
            self._changed("change", session)

    def _join(self, session: ViewerSession, listed: Listed, sort: Sort, before: Group | None) -> bool:
        """Let it share the encoder of that sort, one of its own, or the nearest; later, if it may have none yet.

        Returns whether it did already.
        """
        group, spare = self._groups.get(sort), None
        if group is None:
            kept = [one for one in self.groups if one is not before or len(one.sessions) > 1]
            full = self._full(session.principal.key, kept)
            spare = self._spare(session.principal.key, kept, before) if full else None
            if full and spare is None:
                group = self._nearest(sort)
                if group is None:
                    raise GraphError(f"{full}, and none of them suits")
            elif not full and not self._has_room(session.principal.key, kept, sort, listed, before):
                # If none suits, one of its own is tried, whose error says what is held.
                group = self._nearest(sort)
        if group is not None and group is before:
            return True
        if session.limits.moves.allowed(self._clock()):
            if spare is not None:
                self._end(spare, _displaced)
            self._move(session, group or self._new(sort, listed))
        return False

    def _move(self, session: ViewerSession, group: Group | None) -> None:
        self.exit(session)
        if group is not None:
            self._group_of[session] = group
            group.sessions.append(session)
            try:
                group.pictures.join(session)
            except MillraceError:
                # It is in no group, so the next tick tries again.
                self.exit(session)
                raise
            group.wake()
        session.shares = None if group is None else group.sort.settings
        self._changed("change", session)

    def _new(self, sort: Sort, listed: Listed) -> Group:
        group = Group(self._guest, sort, listed, self._make, self._timer, self._failed, self._clock)
        self._groups[sort] = group
        return group

    # -- when there are no more ------------------------------------------------------------------

    def _full(self, who: str, kept: list[Group]) -> str:
        """Why a viewer of `who` can have no encoder besides these; empty if it can."""
        if sum(group.owner == who for group in kept) >= EACH_MAX:
            return f"{who} has {EACH_MAX} encoders of pictures in guest {self._guest.name}, the maximum"
        if len(kept) >= ENCODERS_MAX:
            return f"guest {self._guest.name} has {ENCODERS_MAX} encoders of pictures, the maximum"
        return ""

    # For memory, nobody gives an encoder up: it may be too small, and another one may need it for a film.
    # Whoever sees pictures already asks again and again until there is room for others: only a question.
    def _has_room(self, who: str, kept: list[Group], sort: Sort, listed: Listed, before: Group | None) -> bool:
        """Whether there is memory for an encoder of `who` besides these.

        After its first one, a principal's fill no more than half of what all encoders may hold.
        """
        ending = sum(_needed(listed, group.sort) for group in self.groups if group not in kept)
        part = 0.5 if any(group.owner == who for group in kept) else 1.0
        budget = self._guest.admission.budget
        ask = budget.has_room if before is None else budget.is_free
        return ask(_needed(listed, sort) - ending, ENCODERS, part)

    def _spare(self, who: str, kept: list[Group], before: Group | None) -> Group | None:
        """The encoder that whoever has most gives up for a viewer of `who`; None if that would be no fairer."""
        # Of whoever has EACH_MAX, half of all, nobody has two more.
        count = Counter(group.owner for group in kept)
        most = max(count, key=count.__getitem__)
        if count[most] < count[who] + 2:
            return None
        its = (group for group in kept if group.owner == most and group is not before)
        return min(its, key=lambda group: _loss(group, kept))

    def _nearest(self, sort: Sort) -> Group | None:
        """The group whose pictures are most like those that are wanted; None if none suits."""
        suit = (group for group in self.groups if group.sort.serves(sort))
        return min(suit, key=lambda group: group.sort.distance(sort), default=None)

    # -- the end of an encoder -------------------------------------------------------------------

    def _failed(self, group: Group, error: Exception) -> None:
        """An encoder makes no more pictures: its viewers are told, and tried with another one later."""
        log.warning("guest %s, %s: pictures ended: %s", self._guest.name, group.listed.key, error)
        told = error if isinstance(error, MillraceError) else CodecError("the picture can't be encoded")
        if not isinstance(error, BudgetError):
            # Its budget has reported that.
            evidence = {"error": str(error)[:TEXT_MAX] or type(error).__name__}
            self._guest.report(Symptom("picture", "failed", self._guest.name, group.listed.key, evidence))
        for session in group.sessions:
            if not isinstance(error, BudgetError):
                session.retry_ns = self._clock() + RETRY_NS
            session.limits.moves.renew()
        self._end(group, lambda session: session.tell_trouble(told))

    # There may be 256 of them. So what takes time for each is done in the guest's turns.
    def _end(self, group: Group, then: Callable[[ViewerSession], None]) -> None:
        """End an encoder. Its viewers share none until `then` is done for each."""
        for session in group.sessions:
            del self._group_of[session]
            session.shares = None
            self._left.append((session, then))
        group.sessions.clear()
        self._close(group)
        self._guest.turns.wait(self._leaving)

    def _dismiss(self) -> Iterator[None]:
        while self._left:
            session, then = self._left.popleft()
            # Meanwhile it may have left, or share another one already.
            if not session.sending.closed and session not in self._group_of:
                session.pictures.drop()
                for_one(session, then)
            yield

    def exit(self, session: ViewerSession) -> None:
        """A viewer is sent no more pictures."""
        group = self._group_of.pop(session, None)
        session.shares = None
        session.pictures.drop()
        if group is not None:
            group.sessions.remove(session)
            group.pictures.leave(session)
            if not group.sessions:
                self._close(group)

    def _close(self, group: Group) -> None:
        del self._groups[group.sort]
        self._ended.add(group.pictures.counts)
        group.close()

    # -- what its viewers need -------------------------------------------------------------------

    def ready(self, session: ViewerSession) -> None:
        """A viewer may have room again: what is due is sent."""
        group = self._group_of.get(session)
        if group is not None and (session.pictures.due or session.ready(self._clock())):
            group.wake()

    def wake(self, session: ViewerSession) -> None:
        """Have a round of a viewer's group."""
        if (group := self._group_of.get(session)) is not None:
            group.wake()

    def refresh(self, session: ViewerSession) -> None:
        """A viewer needs a key picture: at once, or when it may have one."""
        group = self._group_of.get(session)
        if group is not None:
            if session.limits.refreshes.allowed(self._clock()):
                group.pictures.refresh(session)
            group.wake()


def _needed(listed: Listed, sort: Sort) -> int:
    """Memory that an encoder takes from the start."""
    memory = listed.screen.memory
    return 0 if memory is None else work_bytes(Size(memory.mode.width, memory.mode.height), sort.settings.scale)


def _displaced(session: ViewerSession) -> None:
    """Its encoder was given up for somebody else's viewer, which is not its doing: it shares another at once."""
    session.limits.moves.renew()
    session.regroup()


def _loss(group: Group, kept: list[Group]) -> tuple[bool, bool, tuple[Distance, ...]]:
    """How much is lost if the viewers of a group share the nearest of the others: least if one suits at all."""
    others = [one.sort.distance(group.sort) for one in kept if one is not group and one.sort.serves(group.sort)]
    shared = any(session.principal.key != group.owner for session in group.sessions)
    return not others, shared, (min(others),) if others else ()
