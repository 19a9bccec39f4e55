"""Rights: what may be done, where, by whom. One function decides.

A principal has rights in guests. `see` is a guest's existence and state, `hear` its sound, `speak` its
source, `control` volumes, moves and settings, `link` the graph's links, `admin` everything, and
guests and tokens themselves. Nobody has a right in a guest that was not named to them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, Flag, auto

from millrace.errors import ConfigError, RightsError
from millrace.text import quoted

ALL_GUESTS = "*"


class Right(Flag):
    """What may be done."""

    NONE = 0
    SEE = auto()
    HEAR = auto()
    SPEAK = auto()
    CONTROL = auto()
    LINK = auto()
    ADMIN = auto()


EVERYTHING = Right.SEE | Right.HEAR | Right.SPEAK | Right.CONTROL | Right.LINK | Right.ADMIN
GUEST_RIGHTS = Right.SEE | Right.HEAR | Right.SPEAK | Right.CONTROL | Right.LINK
"""What a guest's own programs may in it, unless that is narrowed: what PulseAudio lets them."""
NAMES = {right.name.lower(): right for right in Right if right.name}
_IMPLIED = {Right.HEAR: Right.SEE, Right.SPEAK: Right.SEE, Right.CONTROL: Right.SEE, Right.LINK: Right.SEE}


def parse_rights(text: str) -> Right:
    """'hear,speak' to rights, with what they imply; ConfigError names what is not known."""
    out = Right.NONE
    for word in text.split(","):
        name = word.strip().lower()
        if name == "all":
            return EVERYTHING
        if name not in NAMES or not NAMES[name]:
            raise ConfigError(
                f"there is no right {quoted(word.strip())}; there are"
                f" {', '.join(n for n, r in NAMES.items() if r)} and all"
            )
        out |= NAMES[name]
    return implied(out)


def implied(rights: Right) -> Right:
    """`rights` with those that they include: whoever hears a guest sees it; an admin has all."""
    if Right.ADMIN in rights:
        return EVERYTHING
    for right, also in _IMPLIED.items():
        if right in rights:
            rights |= also
    return rights


def show_rights(rights: Right) -> list[str]:
    """Names, in order."""
    return [name for name, right in NAMES.items() if right and right in rights]


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody with rights. `key` names them in logs and lists: owner, token/N, certificate/NAME."""

    key: str
    rights: Right
    guests: frozenset[str]
    session: str = field(default="", compare=False)
    """The number of the browser's session that they come by, if they do."""

    def may(self, right: Right, guest: str | None = None) -> bool:
        """Whether they may do this in `guest`, or, with None, outside any guest."""
        if right not in self.rights:
            return False
        if guest is None:
            return ALL_GUESTS in self.guests
        return ALL_GUESTS in self.guests or guest in self.guests

    def without(self, guest: str) -> Principal:
        """The same, without that guest."""
        return replace(self, guests=self.guests - {guest})

    def demand(self, right: Right, guest: str | None = None) -> None:
        """RightsError unless they may. It does not tell whether the guest exists."""
        if not self.may(right, guest):
            name = "/".join(show_rights(right))
            where = f"in guest {guest}" if guest is not None else "outside its guests"
            raise RightsError(f"{self.key} may not {name} {where}")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the principal of a TLS client certificate may, who is known by a name in it."""

    name: str
    rights: Right
    guests: frozenset[str]

    @property
    def principal(self) -> Principal:
        """The principal."""
        return Principal(f"certificate/{self.name}", self.rights, self.guests)


OWNER = Principal("owner", EVERYTHING, frozenset({ALL_GUESTS}))
"""The daemon's own user, or root."""
NOBODY = Principal("nobody", Right.NONE, frozenset())


class Admits(Enum):
    """Whom a listening socket lets in by what the kernel says of the peer alone.

    It is said where the socket is opened, and never guessed from a connection: what has no address, no name or no
    owner is not somebody for that.
    """

    OWNER = "owner"
    """This user and root, with every right."""
    PROGRAMS = "programs"
    """This user and root, as programs of one guest."""
    NOBODY = "nobody"
    """TCP: whoever comes shows a secret."""
