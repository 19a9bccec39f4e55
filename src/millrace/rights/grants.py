"""Grants: which programs of a guest may connect, or record its microphone, its monitors or its camera.

A rule covers one permission and one program, or `*` for programs without a rule of their own. Its verdict is allow,
deny or prompt. Without any rule a guest's programs are allowed, as under PulseAudio.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

import msgspec

from millrace.errors import ConfigError, GraphError
from millrace.text import quoted
from millrace.units import HostNs

ANY = "*"
RULES_MAX = 1000


class Permission(Enum):
    """What can be granted. Millrace does not record cameras itself: programs that do can ask for permission."""

    CONNECT = "connect"
    MICROPHONE = "microphone"
    MONITOR = "monitor"
    CAMERA = "camera"


class Verdict(Enum):
    """The outcome of a rule."""

    DENY = 0
    ALLOW = 1
    PROMPT = 2

    def as_json(self) -> bool | str:
        """true, false or "prompt"."""
        return "prompt" if self is Verdict.PROMPT else self is Verdict.ALLOW


def parse_permission(text: str) -> Permission:
    """A permission by name; ConfigError lists the known ones."""
    try:
        return Permission(text)
    except ValueError:
        known = ", ".join(p.value for p in Permission)
        raise ConfigError(f"{quoted(text)} is not a right of programs; use {known}") from None


def parse_verdict(value: bool | str) -> Verdict:
    """A verdict from its form in the API."""
    if isinstance(value, bool):
        return Verdict.ALLOW if value else Verdict.DENY
    if value == "prompt":
        return Verdict.PROMPT
    raise ConfigError('allow must be true, false, "prompt" or null')


class Identity(msgspec.Struct, frozen=True):
    """A program on this machine, as the kernel knows it.

    `program` is a bare name only for files of the system; otherwise it is the full path, since any user can name a file
    `firefox`. In a sandbox (flatpak:APP, snap:NAME, container:ID) a file name proves nothing.
    """

    pid: int = 0
    uid: int = -1
    program: str = ""
    sandbox: str = ""
    unproven: bool = False
    """Only the connecting process is known, not yet the sender: it may have exec'ed another program since."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which rules may refer to it, most specific first."""
        if self.sandbox:
            return (self.sandbox, self.sandbox.partition(":")[0] + ":*")
        return (self.program,) if self.program else ()

    def __str__(self) -> str:
        return self.names[0] if self.names else "an unknown program"


UNKNOWN = Identity()


class Pending(NamedTuple):
    """A request of a connection that waits for a decision."""

    guest: str
    what: Permission
    id: int
    """The number under which it is shown."""
    expires_ns: HostNs


@dataclass(eq=False)
class Subject:
    """The peer of a connection, and the one-time grants it has received.

    Created when the connection is accepted; it lives as long as the connection. `ours` means the daemon's own user or
    root. A peer of which nothing is known, such as one on TCP, is not ours.
    """

    identity: Identity = UNKNOWN
    once: dict[Permission, bool] = field(default_factory=dict)
    ours: bool = False
    pending: list[Pending] = field(default_factory=list)
    """If the connection is frozen and continues elsewhere, these are asked again under the same numbers."""
    address: str = ""
    """The other host's, of a connection over TCP. It says where to look, and proves nothing."""

    @property
    def who(self) -> str:
        """What is known of the peer: its program, else its address."""
        return str(self.identity) if self.identity.names or not self.address else self.address


class Grants:
    """One guest's rules."""

    def __init__(self) -> None:
        self._rules: dict[tuple[Permission, str], Verdict] = {}

    def __iter__(self) -> Iterator[tuple[Permission, str, Verdict]]:
        return iter([(what, program, verdict) for (what, program), verdict in self._rules.items()])

    # Replacing a rule is always possible, so a full list can still be made stricter.
    def demand_room(self, what: Permission, program: str) -> None:
        """GraphError if one more rule would exceed the limit."""
        if len(self._rules) >= RULES_MAX and (what, program) not in self._rules:
            raise GraphError(f"this guest has {RULES_MAX} rules, the maximum; delete one")

    def set(self, what: Permission, program: str, verdict: Verdict | None) -> None:
        """Set a rule; None deletes it."""
        if verdict is None:
            self._rules.pop((what, program), None)
        else:
            self._rules[what, program] = verdict

    # A denial wins over a one-time grant, so that a rule set now also stops a connection that was allowed before. An
    # identity that is not proven yet may be that of another program, so neither its own rules nor its one-time grants
    # count, and no request is made for it: the answer would be for a name that may turn out to be wrong. Connecting is
    # the exception, since the sender can only be proven by what it sends afterwards.
    def verdict(self, what: Permission, subject: Subject) -> Verdict:
        """The one-time grant decides, else the program's own rule, else the `*` rule; without any, allow.

        A rule that denies overrides a one-time grant. While the sender is unproven, rules for its program count only
        for connecting. Everything else falls to the `*` rule, and a prompt becomes a denial.
        """
        _, ruled = self.ruling(what, subject)
        if _is_unproven(what, subject):
            return Verdict.DENY if ruled is Verdict.PROMPT else ruled
        once = subject.once.get(what)
        if once is None or ruled is Verdict.DENY:
            return ruled
        return Verdict.ALLOW if once else Verdict.DENY

    def ruling(self, what: Permission, subject: Subject) -> tuple[str, Verdict]:
        """The program whose rule applies, and what that says; without any, it is empty and allows."""
        names = (ANY,) if _is_unproven(what, subject) else (*subject.identity.names, ANY)
        found = ((name, self._rules[what, name]) for name in names if (what, name) in self._rules)
        return next(found, ("", Verdict.ALLOW))


def _is_unproven(what: Permission, subject: Subject) -> bool:
    return subject.identity.unproven and what is not Permission.CONNECT
