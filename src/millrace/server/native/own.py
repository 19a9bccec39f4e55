"""Methods of the native protocol tied to the connection, besides streams: watch, claim, duck, ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from millrace.control.plane import ControlPlane, Session
from millrace.control.registry import parse_kinds
from millrace.doors.admission import Asker
from millrace.errors import ConfigError
from millrace.guest.guest import Guest
from millrace.io.clock import now_ns
from millrace.rights.grants import Permission, Verdict, parse_permission
from millrace.rights.model import Right
from millrace.wire.arguments import Arguments


class Watch(Arguments):
    """Watch kinds of objects; null for the default kinds."""

    kinds: list[str] | None = None


class Claim(Arguments):
    """Claim a name, such as `policy`; with `replace` the current owner loses it."""

    name: str
    replace: bool = False


class Duck(Arguments):
    """Attenuate a stream by so many dB (negative) for as long as this connection lasts; 0 releases it."""

    target: str
    db: float
    guest: str | None = None


class Ask(Arguments):
    """Ask for a permission: for programs that record a camera themselves."""

    what: str
    guest: str = "default"


class Connection(Session, Asker, Protocol):
    """The connection that these methods act on."""

    def guest(self, name: str, right: Right) -> Guest:
        """The guest of that name, if the connection has that right in it."""
        ...

    def reply(self, serial: int, value: Any = None) -> None:
        """Answer a call."""
        ...

    def watch(self, kinds: frozenset[str] | None) -> None:
        """Start watching objects of these kinds; None for the default ones."""
        ...


class OwnMethods:
    """The methods of one connection."""

    def __init__(self, session: Connection, plane: ControlPlane) -> None:
        self._session, self._plane = session, plane

    @property
    def table(self) -> dict[str, tuple[type[Any], Callable[[int, Any], None]]]:
        """Argument types and methods by name. They are bound to this, which therefore does not keep them."""
        return {
            "watch": (Watch, self._watch), "claim": (Claim, self._claim),
            "duck": (Duck, self._duck), "ask": (Ask, self._ask),
        }  # fmt: skip

    def _watch(self, serial: int, args: Watch) -> None:
        kinds = None if args.kinds is None else parse_kinds(args.kinds)
        self._session.reply(serial)
        self._session.watch(kinds)

    def _claim(self, serial: int, args: Claim) -> None:
        self._session.principal.demand(Right.ADMIN)
        have = self._plane.claim(args.name[:100], self._session, args.replace)
        self._session.reply(serial, {"have": have})

    def _duck(self, serial: int, args: Duck) -> None:
        self._plane.duck(self._session, args.target, args.db, args.guest)
        self._session.reply(serial)

    def _ask(self, serial: int, args: Ask) -> None:
        what, guest = parse_permission(args.what), self._session.guest(args.guest, Right.SEE)
        if what is not Permission.CAMERA:
            raise ConfigError("`ask` is only for the camera; `record` asks for the microphone and monitors itself")
        verdict = guest.admission.verdict(what, self._session.subject)
        if verdict is Verdict.PROMPT:
            guest.admission.ask(what, self._session, now_ns(), lambda allow: self._session.reply(serial, allow))
        else:
            self._session.reply(serial, verdict is Verdict.ALLOW)
