"""The control plane: all that a server is given. It says who somebody is, and does what they ask, by their rights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from millrace.budget import Budget
from millrace.control.commands import Commands, Place
from millrace.control.livesessions import End, Leave, Lose
from millrace.control.registry import Looked, Watcher
from millrace.control.worker import Session, Worker
from millrace.guest.guest import Guest
from millrace.io.turns import Turns
from millrace.observe.metrics import exposition
from millrace.rights.model import OWNER, Principal, Right
from millrace.symptoms import Symptom, refusal, violation


class Held(NamedTuple):
    """What the plane keeps for one connection, with which another can go on for it."""

    claims: Mapping[str, bool] = {}
    """Names that it has (True) or waits for."""
    ducking: Mapping[int, float] = {}
    """By number of a stream: what it leaves of it, linear."""
    looked: Looked | None = None
    """None where it watches nothing."""


class ControlPlane:
    """That of one worker."""

    def __init__(self, worker: Worker, place: Place) -> None:
        self._worker, self.place = worker, place
        self.commands = Commands(worker, place)
        self.access, self.registry, self.claims = worker.access, worker.registry, worker.claims
        self.prompts, self.listeners = worker.prompts, worker.listeners
        self.owners, self.strangers = worker.turns, worker.strangers

    # -- who it is ---------------------------------------------------------------------------

    def enter(self, principal: Principal, end: End, lose: Lose) -> Leave:
        """Something begins by a principal's rights: see `Access.enter`."""
        return self.access.enter(principal, end, lose)

    def renewed(self, principal: Principal, token: bool, guest: Guest | None) -> Principal:
        """Who goes on by the native socket of `guest`, or by the daemon's, with the rights of now: while nobody looked
        after it a token may have ended or lost a guest. RightsError where there are none left."""
        if token:
            return self.access.renewed(principal)
        return OWNER if guest is None else guest.admission.principal

    def turns_of(self, principal: Principal) -> Turns:
        """At whose expense a principal's commands are done."""
        return self._worker.turns_of(principal)

    def budget_of(self, principal: Principal = OWNER) -> Budget:
        """Whose budget pays for what is kept for a principal."""
        return self._worker.budgets.of(principal)

    def visible(self, principal: Principal) -> list[Guest]:
        """The guests that `principal` may see."""
        return self._worker.visible(principal)

    def guest(self, principal: Principal, name: str, right: Right) -> Guest:
        """A guest in which `principal` has `right`. One that they may not see is not there."""
        return self.commands.guest(principal, name, right)

    # -- what is asked -----------------------------------------------------------------------

    async def run(self, principal: Principal, name: str, args: Any) -> Any:
        """Do a command; see `Commands.run`."""
        return await self.commands.run(principal, name, args)

    def metrics(self, principal: Principal) -> bytes:
        """What Prometheus reads, of the guests that `principal` may see."""
        counters = self._worker.counters(self.commands.refused())
        guests, whole = self.visible(principal), principal.may(Right.SEE)
        return exposition(counters, self._worker.diagnosis.incidents, guests, whole)

    @property
    def ready(self) -> bool:
        """Whether changes are kept."""
        return not self._worker.store.trouble

    def take_id(self) -> int:
        """A number for a new object."""
        return self._worker.ids.take()

    def duck(self, session: Session, key: str, db: float, guest: str | None) -> None:
        """Take a stream back for as long as that connection lives."""
        self._worker.duck(session, self.commands.find(session.principal, key, guest, Right.CONTROL), db)

    def joined(self, session: Session) -> None:
        """A program's connection has come."""
        self._worker.sessions[session] = None

    def held(self, session: Session, watcher: Watcher) -> Held:
        """What is kept for it, before it is released here to go on elsewhere."""
        return Held(self.claims.of(session), self._worker.ducking.of(session), self.registry.looked(watcher))

    def resume(self, session: Session, watcher: Watcher, held: Held) -> None:
        """It goes on with what was kept for it elsewhere, and is told of what it has no more."""
        for name, had in held.claims.items():
            have = self.claims.claim(name, session, replace=had)
            if have is not had:
                session.claim_changed(name, have)
        self._worker.ducking.resume(session, held.ducking, (guest.graph for guest in self._worker.guests.values()))
        if held.looked is not None:
            self.registry.watch(watcher, held.looked)

    def release(self, session: Session) -> None:
        """It has gone, and with it what it had claimed and ducked."""
        self._worker.release(session)

    # -- what went wrong ---------------------------------------------------------------------

    def report(self, symptom: Symptom) -> None:
        """See `symptoms.Report`."""
        self._worker.report(symptom)

    def violated(self, guest: str, key: str, error: Exception, stage: str = "client") -> None:
        """A client or a listener was cut off; the guest is empty for a client of the whole daemon."""
        self.report(violation(guest, key, error, stage))

    def refused(self, guest: str, who: str, what: str) -> None:
        """Somebody asked for what they may not."""
        self.report(refusal(guest, who, what))

    def forbidden(self) -> None:
        """Somebody who is known has asked for what they have no right to: that is counted."""
        self._worker.forbidden += 1
