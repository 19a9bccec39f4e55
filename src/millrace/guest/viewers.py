"""All viewers of a guest: who has the keyboard, and what becomes of them when a screen goes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from millrace.budget import VIEWERS, Account
from millrace.errors import BudgetError, GraphError
from millrace.graph.screens import Listed
from millrace.graph.steps import Steps
from millrace.guest.home import Home, MachineView
from millrace.guest.notfound import missing
from millrace.guest.places import divided
from millrace.guest.ratelimits import WholePictures
from millrace.guest.sharing import Sharing, for_one
from millrace.guest.viewer import VIEWER_BYTES, ViewerSession
from millrace.guest.viewergroup import Group, Timer, in_this_loop
from millrace.io.clock import now_ns
from millrace.outlets.encoded import MakePictures
from millrace.outlets.picturecounts import PictureCounts
from millrace.outlets.picturetimes import StageTotals
from millrace.rights.model import Principal, Right
from millrace.text import printable
from millrace.units import HostNs
from millrace.wire.peer.pictures import ScreenNamed

log = logging.getLogger("millrace.guest")

VIEWERS_MAX = 256
"""Connections of viewers, those that have not said yet what they want among them."""
NAMED_MAX = 64
"""Screens of a list."""
ABSENCE_MAX = 1000
"""Most characters of what the doors say of a guest without a screen."""


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
        # All may come back at once, and then move to the encoder for what their line takes.
        self.wholes = WholePictures(2 * VIEWERS_MAX)
        self._changed = changed
        self._sharing = Sharing(guest, make, timer, changed, clock)
        self.connected: dict[ViewerSession, None] = {}
        """In the order in which they came, those that have not said yet what they want among them."""
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
        return self._sharing.counts

    @property
    def groups(self) -> list[Group]:
        """The encoders, each with its viewers."""
        return self._sharing.groups

    def second(self) -> None:
        """Once a second: note what the encoders have done."""
        self._sharing.second()

    # -- who watches -----------------------------------------------------------------------------

    def has_room(self, leaving: int, always: bool) -> bool:
        """Whether there is a place and memory for another one (`make_room`), once so many have left."""
        budget, freed = self.guest.admission.budget, leaving * VIEWER_BYTES
        return len(self.connected) - leaving < VIEWERS_MAX and budget.would_fit(VIEWER_BYTES, VIEWERS, freed, always)

    def open(self, principal: Principal, size: int, always: bool) -> Account:
        """See `Company`. What it is being sent is divided among principals."""
        guest = self.guest
        who = divided(principal, guest.name)
        return guest.admission.budget.open("viewer", {"itself": size}, VIEWERS, who, always)

    def arrive(self, session: ViewerSession) -> None:
        """A viewer has connected; GraphError if there is no room."""
        if len(self.connected) >= VIEWERS_MAX:
            raise GraphError(f"guest {self.guest.name} has {VIEWERS_MAX} viewers, the maximum")
        self.connected[session] = None

    def join(self, session: ViewerSession) -> None:
        """A viewer has said what it wants."""
        self.sessions.append(session)
        self._changed("new", session)
        self._look()
        session.tell_screens(self._named)
        session.tell_keyboard(self._holder)
        try:
            self.regroup(session)
        except BudgetError as error:
            # It is told that it has no pictures, and stays: there may be room by the next tick.
            session.tell_trouble(error)
        self.guest.latency_changed()

    def leave(self, session: ViewerSession) -> None:
        """A viewer has left, or may not watch any more."""
        self.connected.pop(session, None)
        self.leave_keyboard(session)
        self._sharing.exit(session)
        if session in self.sessions:
            self.sessions.remove(session)
            self._skipped += session.times.skipped
            self._changed("remove", session)
            self.guest.latency_changed()

    def regroup(self, session: ViewerSession) -> bool:
        """See `Sharing`: let it share the encoder that fits it now; GraphError or BudgetError if there is no room."""
        return self._sharing.regroup(session)

    def ready(self, session: ViewerSession) -> None:
        """A viewer may have room again: what is due is sent."""
        self._sharing.ready(session)

    def wake(self, session: ViewerSession) -> None:
        """Something waits for a viewer, or was dropped because it waited too long."""
        self._sharing.wake(session)

    def refresh(self, session: ViewerSession) -> None:
        """A viewer needs a key picture: at once, or when it may have one."""
        self._sharing.refresh(session)

    # -- the keyboard ----------------------------------------------------------------------------

    def take_keyboard(self, session: ViewerSession) -> None:
        """Give a viewer the keyboard, whoever had it; RightsError unless it may type."""
        session.principal.demand(Right.TYPE, self.guest.name)
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
        if session.keyboard.held:
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
            # Known now: by the next round its machine may be in another state, or gone.
            listed.gone = self._why(listed)
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
                if session in self.connected and not session.sending.closed:
                    for_one(session, partial(self._follow, new=new))
                    yield

    def _follow(self, session: ViewerSession, new: list[Listed]) -> None:
        """Tell a viewer the newest state; `new` are screens that may take the place of the one that it saw."""
        listed = session.listed
        if listed is not None and listed.screen.ended:
            self._sharing.exit(session)
            session.tell_gone(listed.gone)
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

    @property
    def absence(self) -> str:
        """Why the guest has no screen, as its machines say; empty if it has no machine."""
        return absence_of(machine.view() for machine in self.guest.machines)

    def _why(self, listed: Listed) -> str:
        """Why a screen is gone, as its machine says."""
        for machine in self.guest.machines:
            if machine.key == listed.door:
                error = machine.view().error
                return f"{listed.label}: {error}" if error else f"{listed.label} is gone"
        return f"{listed.label} is gone"

    def _look(self) -> None:
        """Note what all viewers are to be told."""
        typist, holder = self._typist(), self.guest.screens.seat.who
        self._holder = typist.name if typist is not None else "" if holder is None else holder.key
        self._named = [_named(listed) for listed in self.guest.screens][:NAMED_MAX]


def absence_of(machines: Iterable[MachineView]) -> str:
    """Why these machines show no screen; empty if there are none."""
    return printable("; ".join(f"{one.door}: {_absence(one)}" for one in machines), ABSENCE_MAX)


def _absence(machine: MachineView) -> str:
    if machine.state != "attached":
        return machine.error or machine.state
    return "attached, but shows no screen" + (f" ({machine.hint})" if machine.hint else "")


def _named(listed: Listed) -> ScreenNamed:
    memory = listed.screen.memory
    size = (memory.mode.width, memory.mode.height) if memory else (0, 0)
    return ScreenNamed(listed.key, listed.label, *size)
