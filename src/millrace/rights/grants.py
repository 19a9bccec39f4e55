"""Grants: which programs of a guest may come in, record its microphone, what it plays, or its camera.

A rule is about one permission and one program, or `*` for those without a rule of their own. Its verdict is yes, no,
or that somebody is to be asked. Without any rule a guest's programs may, as under PulseAudio.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from millrace.errors import ConfigError, GraphError
from millrace.text import quoted

ANY = "*"
RULES_MAX = 1000


class Permission(Enum):
    """What can be granted. Millrace records no camera itself yet: programs that do can ask for it."""

    CONNECT = "connect"
    MICROPHONE = "microphone"
    MONITOR = "monitor"
    CAMERA = "camera"


class Verdict(Enum):
    """What a rule says."""

    DENY = 0
    ALLOW = 1
    PROMPT = 2

    def as_json(self) -> bool | str:
        """true, false or "prompt"."""
        return "prompt" if self is Verdict.PROMPT else self is Verdict.ALLOW


def parse_permission(text: str) -> Permission:
    """A permission by name; ConfigError says what there is."""
    try:
        return Permission(text)
    except ValueError:
        known = ", ".join(p.value for p in Permission)
        raise ConfigError(f"{quoted(text)} is not a right of programs; use {known}") from None


def parse_verdict(value: bool | str) -> Verdict:
    """A verdict as the API has it."""
    if isinstance(value, bool):
        return Verdict.ALLOW if value else Verdict.DENY
    if value == "prompt":
        return Verdict.PROMPT
    raise ConfigError('allow must be true, false, "prompt" or null')


@dataclass(frozen=True, slots=True)
class Identity:
    """A program on this machine, as the kernel knows it.

    `program` is a name only where the file is the system's own; else it is the whole path, for anybody can call a
    file of theirs firefox. In a sandbox (flatpak:APP, snap:NAME, container:ID) the name of a file says nothing.
    """

    pid: int = 0
    uid: int = -1
    program: str = ""
    sandbox: str = ""
    unproven: bool = False
    """Whether it is only known who connected, and not yet who speaks: it may have become that program in between."""

    @property
    def names(self) -> tuple[str, ...]:
        """What rules may call it, the most particular first."""
        if self.sandbox:
            return (self.sandbox, self.sandbox.partition(":")[0] + ":*")
        return (self.program,) if self.program else ()

    def __str__(self) -> str:
        return self.names[0] if self.names else "an unknown program"


UNKNOWN = Identity()


@dataclass(eq=False)
class Subject:
    """Who is at the other end of a connection, and what was granted to it alone, once.

    It is made where the connection is accepted, and goes with it. `ours` is the daemon's own user, or root; one of
    which nothing is known, such as a connection over TCP, is nobody.
    """

    identity: Identity = UNKNOWN
    once: dict[Permission, bool] = field(default_factory=dict)
    ours: bool = False


class Grants:
    """One guest's rules."""

    def __init__(self) -> None:
        self._rules: dict[tuple[Permission, str], Verdict] = {}

    def __iter__(self) -> Iterator[tuple[Permission, str, Verdict]]:
        return iter([(what, program, verdict) for (what, program), verdict in self._rules.items()])

    def demand_room(self, what: Permission, program: str) -> None:
        """GraphError where one more rule would be too many."""
        if len(self._rules) >= RULES_MAX and (what, program) not in self._rules:
            raise GraphError(f"this guest has {RULES_MAX} rules, the maximum; delete one")

    def set(self, what: Permission, program: str, verdict: Verdict | None) -> None:
        """Make a rule, or with None take it away."""
        if verdict is None:
            self._rules.pop((what, program), None)
        else:
            self._rules[what, program] = verdict

    def verdict(self, what: Permission, subject: Subject) -> Verdict:
        """By what was granted once, else by the program's own rule, else by the one for any, else yes.

        A rule that forbids is above what was granted once. Whoever has not spoken yet may at most connect by a
        program's own rule; no rule applies to the rest, and nobody is asked about it.
        """
        unproven = subject.identity.unproven and what is not Permission.CONNECT
        names = (ANY,) if unproven else (*subject.identity.names, ANY)
        ruled = next((v for name in names if (v := self._rules.get((what, name))) is not None), Verdict.ALLOW)
        if unproven:
            return Verdict.DENY if ruled is Verdict.PROMPT else ruled
        once = subject.once.get(what)
        if once is None or ruled is Verdict.DENY:
            return ruled
        return Verdict.ALLOW if once else Verdict.DENY
