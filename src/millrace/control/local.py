"""The control plane of one worker in this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from millrace.budget import Budget
from millrace.control.commands import Commands
from millrace.control.livesessions import End, Leave, Lose
from millrace.control.plane import Held, Place, Session
from millrace.control.registry import Watcher
from millrace.control.table import Command
from millrace.control.worker import Worker
from millrace.guest.guest import Guest
from millrace.io.turns import Turns
from millrace.observe.metrics import exposition
from millrace.rights.model import OWNER, Principal, Right
from millrace.symptoms import Symptom


# Servers know a plane and nothing behind it. It authenticates, finds the guests and objects that a principal may see,
# and runs commands with that principal's rights. The same commands serve every protocol, so none of them lacks a check
# that another has.
class LocalPlane:
    """A `ControlPlane`, and the `LocalGuests` behind it."""

    def __init__(self, worker: Worker, place: Place) -> None:
        self._worker, self._access, self.place = worker, worker.access, place
        self.commands = Commands(worker, place)
        self.strangers = worker.principal_turns.strangers

    # -- principals --------------------------------------------------------------------------

    def admit(self, given: str, address: str) -> Principal:
        """See `Identities`."""
        return self._access.admit(given, address)

    def let_in(self, secret: str, address: str) -> Principal:
        """See `Identities`."""
        return self._access.let_in(secret, address)

    def follow_link(self, code: str) -> bytes | None:
        """See `Identities`."""
        return self._access.follow_link(code)

    def begin_session(self, secret: bytes) -> tuple[Principal, str]:
        """See `Identities`."""
        return self._access.begin_session(secret)

    async def sign_out(self, principal: Principal) -> None:
        """See `Identities`."""
        await self._access.sign_out(principal)

    def unauthenticated(self) -> None:
        """See `Identities`."""
        self._access.refused += 1

    def enter(self, principal: Principal, end: End, lose: Lose) -> Leave:
        """See `ControlPlane`."""
        return self._access.enter(principal, end, lose)

    def renewed(self, principal: Principal) -> Principal:
        """See `ControlPlane`. The token may have ended or lost a guest while the connection was frozen."""
        return self._access.renewed(principal)

    def turns_of(self, principal: Principal) -> Turns:
        """See `Operations`."""
        return self._worker.principal_turns.of(principal)

    def budget_of(self, principal: Principal = OWNER) -> Budget:
        """See `Operations`."""
        return self._worker.budgets.of(principal)

    # -- guests ------------------------------------------------------------------------------

    def names(self, principal: Principal) -> list[str]:
        """See `ControlPlane`."""
        return [guest.name for guest in self.visible(principal)]

    def visible(self, principal: Principal) -> list[Guest]:
        """See `LocalGuests`."""
        return self._worker.visible(principal)

    def guest(self, principal: Principal, name: str, right: Right) -> Guest:
        """See `LocalGuests`."""
        return self.commands.guest(principal, name, right)

    def take_id(self) -> int:
        """See `LocalGuests`."""
        return self._worker.ids.take()

    def joined(self, session: Session) -> None:
        """See `LocalGuests`."""
        self._worker.sessions[session] = None

    # -- commands and objects ----------------------------------------------------------------

    @property
    def table(self) -> Mapping[str, Command]:
        """See `Operations`."""
        return self.commands.table

    async def run(self, principal: Principal, name: str, args: Any) -> Any:
        """See `Operations`."""
        return await self.commands.run(principal, name, args)

    def metrics(self, principal: Principal) -> bytes:
        """See `ControlPlane`."""
        counters = self._worker.counters(self.commands.refused())
        guests, whole = self.visible(principal), principal.may(Right.SEE)
        return exposition(counters, self._worker.diagnosis.incidents, guests, whole)

    @property
    def ready(self) -> bool:
        """See `ControlPlane`."""
        return not self._worker.store.trouble

    def watch(self, watcher: Watcher) -> None:
        """See `Objects`."""
        self._worker.registry.watch(watcher, self.turns_of(watcher.principal))

    def unwatch(self, watcher: Watcher) -> None:
        """See `Objects`."""
        self._worker.registry.unwatch(watcher)

    def measure(self, watcher: Watcher, guest: str | None) -> None:
        """See `Objects`."""
        self._worker.registry.measure(watcher, guest)

    # -- what is kept for a connection -------------------------------------------------------

    def claim(self, name: str, session: Session, replace: bool) -> bool:
        """See `ControlPlane`."""
        return self._worker.claims.claim(name, session, replace)

    def duck(self, session: Session, key: str, db: float, guest: str | None) -> None:
        """See `ControlPlane`."""
        self._worker.duck(session, self.commands.find(session.principal, key, guest, Right.CONTROL), db)

    def held(self, session: Session) -> Held:
        """See `ControlPlane`."""
        worker = self._worker
        return Held(worker.claims.of(session), worker.ducking.of(session), worker.registry.looked(session))

    def resume(self, session: Session, held: Held) -> None:
        """See `ControlPlane`."""
        for name, had in held.claims.items():
            have = self.claim(name, session, replace=had)
            if have is not had:
                session.claim_changed(name, have)
        self._worker.ducking.resume(session, held.ducking)
        if held.looked is not None:
            self._worker.registry.watch(session, self.turns_of(session.principal), held.looked)

    def release(self, session: Session) -> None:
        """See `ControlPlane`."""
        self.unwatch(session)
        self._worker.prompts.forget(session.subject)
        self._worker.release(session)

    # -- trouble -----------------------------------------------------------------------------

    def report(self, symptom: Symptom) -> None:
        """See `ControlPlane`."""
        self._worker.report(symptom)

    def forbidden(self) -> None:
        """See `ControlPlane`."""
        self._worker.forbidden += 1
