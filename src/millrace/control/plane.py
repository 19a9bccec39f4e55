"""The control plane: the one interface given to servers. It identifies callers and runs commands with their rights."""

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
    """What the plane keeps for one connection, in a form that lets another connection take over."""

    claims: Mapping[str, bool] = {}
    """Names that it owns (True) or is queued for (False)."""
    ducking: Mapping[int, float] = {}
    """Its attenuations: linear gain by stream number."""
    looked: Looked | None = None
    """None if it watches nothing."""


# Servers know the plane and nothing behind it. It authenticates (`access`), finds the guests and objects that a
# principal may see, and runs commands with that principal's rights. The same commands serve every protocol, so none
# of them lacks a check that another has.
class ControlPlane:
    """The control plane of one worker."""

    def __init__(self, worker: Worker, place: Place) -> None:
        self._worker, self.place = worker, place
        self.commands = Commands(worker, place)
        self.access, self.registry, self.claims = worker.access, worker.registry, worker.claims
        self.prompts, self.listeners = worker.prompts, worker.listeners
        self.owners, self.strangers = worker.turns, worker.strangers

    # -- principals --------------------------------------------------------------------------

    def enter(self, principal: Principal, end: End, lose: Lose) -> Leave:
        """Register a session under a principal: see `Access.enter`."""
        return self.access.enter(principal, end, lose)

    def renewed(self, principal: Principal, token: bool, guest: Guest | None) -> Principal:
        """The current principal of a connection that was handed on, on the native socket of `guest` or of the daemon.

        Its token may have ended or lost a guest while the connection was frozen. RightsError if no rights are left.
        """
        if token:
            return self.access.renewed(principal)
        return OWNER if guest is None else guest.admission.principal

    def turns_of(self, principal: Principal) -> Turns:
        """The share of the daemon's time that a principal's commands are charged to."""
        return self._worker.turns_of(principal)

    def budget_of(self, principal: Principal = OWNER) -> Budget:
        """The memory budget that is charged for a principal."""
        return self._worker.budgets.of(principal)

    def visible(self, principal: Principal) -> list[Guest]:
        """The guests that `principal` may see."""
        return self._worker.visible(principal)

    def guest(self, principal: Principal, name: str, right: Right) -> Guest:
        """A guest in which `principal` has `right`. One that it may not see is reported as missing."""
        return self.commands.guest(principal, name, right)

    # -- commands ----------------------------------------------------------------------------

    async def run(self, principal: Principal, name: str, args: Any) -> Any:
        """Run a command; see `Commands.run`."""
        return await self.commands.run(principal, name, args)

    def metrics(self, principal: Principal) -> bytes:
        """Prometheus metrics of the guests that `principal` may see."""
        counters = self._worker.counters(self.commands.refused())
        guests, whole = self.visible(principal), principal.may(Right.SEE)
        return exposition(counters, self._worker.diagnosis.incidents, guests, whole)

    @property
    def ready(self) -> bool:
        """Whether changes can be saved."""
        return not self._worker.store.trouble

    def take_id(self) -> int:
        """A number for a new object."""
        return self._worker.ids.take()

    def duck(self, session: Session, key: str, db: float, guest: str | None) -> None:
        """Attenuate a stream for as long as the connection lasts."""
        self._worker.duck(session, self.commands.find(session.principal, key, guest, Right.CONTROL), db)

    def joined(self, session: Session) -> None:
        """A program has connected."""
        self._worker.sessions[session] = None

    def held(self, session: Session, watcher: Watcher) -> Held:
        """What is kept for a connection; called before it is released here to continue elsewhere."""
        return Held(self.claims.of(session), self._worker.ducking.of(session), self.registry.looked(watcher))

    # A claim that the connection held before it was handed on is taken back from its present holder (`replace`), and
    # one that it only waited for is queued again. It is notified of any difference, since for its client nothing
    # happened in between.
    def resume(self, session: Session, watcher: Watcher, held: Held) -> None:
        """Restore what was kept for a connection elsewhere, and notify it of what it has lost."""
        for name, had in held.claims.items():
            have = self.claims.claim(name, session, replace=had)
            if have is not had:
                session.claim_changed(name, have)
        self._worker.ducking.resume(session, held.ducking, (guest.graph for guest in self._worker.guests.values()))
        if held.looked is not None:
            self.registry.watch(watcher, held.looked)

    def release(self, session: Session) -> None:
        """A connection has closed: release its claims and attenuations."""
        self._worker.release(session)

    # -- trouble -----------------------------------------------------------------------------

    def report(self, symptom: Symptom) -> None:
        """See `symptoms.Report`."""
        self._worker.report(symptom)

    def violated(self, guest: str, key: str, error: Exception, stage: str = "client") -> None:
        """A client or listener was disconnected for a violation; `guest` is empty for a daemon-wide client."""
        self.report(violation(guest, key, error, stage))

    def refused(self, guest: str, who: str, what: str) -> None:
        """Report a request that was refused for lack of rights."""
        self.report(refusal(guest, who, what))

    def forbidden(self) -> None:
        """Count a request of a known principal that was refused for lack of rights."""
        self._worker.forbidden += 1
