"""The interface that servers have to guests: everything `server/` uses, and nothing of what is behind it.

`LocalPlane` (control/local.py) is the plane of one worker in the same process. Nothing in `ControlPlane` refers to a
worker or a guest, so the plane of several workers can have the same interface. What needs the guest itself, because
sound passes through it, is in `LocalGuests`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from millrace.budget import Budget
from millrace.control.livesessions import End, Leave, Lose
from millrace.control.registry import Looked, Watcher
from millrace.control.table import Command
from millrace.guest.guest import Guest
from millrace.io.turns import Turns
from millrace.rights.grants import Subject
from millrace.rights.model import OWNER, Principal, Right
from millrace.symptoms import Symptom


class Held(NamedTuple):
    """What the plane keeps for one connection, in a form that lets another connection take over."""

    claims: Mapping[str, bool] = {}
    """Names that it owns (True) or is queued for (False)."""
    ducking: Mapping[int, float] = {}
    """Its attenuations: linear gain by stream number."""
    looked: Looked | None = None
    """None if it watches nothing."""


class Place(Protocol):
    """The addresses of the daemon."""

    @property
    def address(self) -> str:
        """HOST:PORT, for listeners on this host."""
        ...

    @property
    def url(self) -> str:
        """URL at which listeners connect, without the guest."""
        ...

    @property
    def page_url(self) -> str:
        """URL of the page."""
        ...


class Session(Watcher, Protocol):
    """A connection of a program that controls guests or plays in them."""

    subject: Subject

    @property
    def name(self) -> str:
        """The program's own name for itself."""
        ...

    def claim_changed(self, name: str, have: bool) -> None:
        """See `Claimant`."""
        ...

    def end_forbidden(self, guest: str) -> None:
        """The grants of a guest have changed: end what they now forbid."""
        ...


class Identities(Protocol):
    """Which principal a secret identifies."""

    def admit(self, given: str, address: str) -> Principal:
        """See `Access.admit`: the principal of a token or a browser's session."""
        ...

    def let_in(self, secret: str, address: str) -> Principal:
        """See `Access.let_in`: the principal of a token."""
        ...

    def follow_link(self, code: str) -> bytes | None:
        """See `Access.follow_link`."""
        ...

    def begin_session(self, secret: bytes) -> tuple[Principal, str]:
        """See `Access.begin_session`."""
        ...

    async def sign_out(self, principal: Principal) -> None:
        """See `Access.sign_out`."""
        ...

    def unauthenticated(self) -> None:
        """Count a request that failed authentication."""
        ...


class Operations(Protocol):
    """The commands, and whom they are charged to."""

    @property
    def table(self) -> Mapping[str, Command]:
        """All commands, by name."""
        ...

    async def run(self, principal: Principal, name: str, args: Any) -> Any:
        """Run a command with a principal's rights. Refusals are raised as ConfigError, GraphError or RightsError."""
        ...

    def budget_of(self, principal: Principal = OWNER) -> Budget:
        """The memory budget that is charged for a principal."""
        ...

    def turns_of(self, principal: Principal) -> Turns:
        """The share of the daemon's time that a principal's commands are charged to."""
        ...


class Objects(Protocol):
    """The registry, for its watchers."""

    def watch(self, watcher: Watcher) -> None:
        """Send `watcher` all objects that it may see, then every change."""
        ...

    def unwatch(self, watcher: Watcher) -> None:
        """Stop notifying it."""
        ...

    def measure(self, watcher: Watcher, guest: str | None) -> None:
        """Also send `watcher` a guest's measurements every second; None stops that."""
        ...


class ControlPlane(Identities, Operations, Objects, Protocol):
    """The control plane, as servers see it."""

    @property
    def place(self) -> Place:
        """The addresses that users are shown."""
        ...

    @property
    def ready(self) -> bool:
        """Whether changes can be saved."""
        ...

    @property
    def strangers(self) -> Turns:
        """The share of unauthenticated connections."""
        ...

    def enter(self, principal: Principal, end: End, lose: Lose) -> Leave:
        """Register a session under a principal: see `Access.enter`."""
        ...

    def renewed(self, principal: Principal) -> Principal:
        """The current principal of a token whose connection was handed on; RightsError if no rights are left."""
        ...

    def names(self, principal: Principal) -> list[str]:
        """The names of the guests that `principal` may see."""
        ...

    def metrics(self, principal: Principal) -> bytes:
        """Prometheus metrics of the guests that `principal` may see."""
        ...

    # -- what is kept for a connection ---------------------------------------------------------

    def claim(self, name: str, session: Session, replace: bool) -> bool:
        """See `Claims.claim`."""
        ...

    def duck(self, session: Session, key: str, db: float, guest: str | None) -> None:
        """Attenuate a stream for as long as the connection lasts."""
        ...

    def held(self, session: Session) -> Held:
        """What is kept for a connection; called before it is released here to continue elsewhere."""
        ...

    def resume(self, session: Session, held: Held) -> None:
        """Restore what was kept for a connection elsewhere, and notify it of what it has lost."""
        ...

    def release(self, session: Session) -> None:
        """A connection has closed: drop its claims and attenuations, what it watches, and its pending requests."""
        ...

    # -- trouble -------------------------------------------------------------------------------

    def report(self, symptom: Symptom) -> None:
        """See `symptoms.Report`."""
        ...

    def forbidden(self) -> None:
        """Count a request of a known principal that was refused for lack of rights."""
        ...


class LocalGuests(Protocol):
    """The guests of this process, for connections that carry their sound."""

    def visible(self, principal: Principal) -> list[Guest]:
        """The guests that `principal` may see."""
        ...

    def guest(self, principal: Principal, name: str, right: Right) -> Guest:
        """A guest in which `principal` has `right`. One that it may not see is reported as missing."""
        ...

    def take_id(self) -> int:
        """A number for a new object."""
        ...

    def joined(self, session: Session) -> None:
        """A program has connected, and must hear when grants change."""
        ...
