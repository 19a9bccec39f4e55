"""Rights: who may do what, and where. One function decides.

A principal has rights in guests. `see` covers a guest's existence and state, `hear` its sound, `speak` sending sound
to its source, `watch` its screens, `type` its keyboard and pointer, `clipboard` what is copied there, `control`
volumes, moves and settings, `link` the graph's links. `admin` covers everything, including guests and tokens
themselves. A principal has no rights in guests that it does not list.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, Flag

import msgspec

from millrace.errors import ConfigError, RightsError
from millrace.text import quoted

ALL_GUESTS = "*"


# In the order in which they are listed. The numbers are those of stored tokens, so none is ever changed.
class Right(Flag):
    """A right, or a set of them."""

    NONE = 0
    SEE = 1
    HEAR = 2
    SPEAK = 4
    WATCH = 64
    TYPE = 128
    CLIPBOARD = 256
    CONTROL = 8
    LINK = 16
    ADMIN = 32


EVERYTHING = ~Right.NONE
GUEST_RIGHTS = Right.SEE | Right.HEAR | Right.SPEAK | Right.CONTROL | Right.LINK
"""Default rights of a guest's own programs within it: what PulseAudio allows. They have no part in its screens, which
other programs, and whoever sits before them, use too."""
NAMES = {right.name.lower(): right for right in Right if right.name}
# A right that needs another to be of use contains it: a principal can't hear a guest whose sinks it may not list.
_IMPLIED = {
    Right.HEAR: Right.SEE,
    Right.SPEAK: Right.SEE,
    Right.WATCH: Right.SEE,
    Right.TYPE: Right.WATCH | Right.SEE,
    Right.CLIPBOARD: Right.WATCH | Right.SEE,
    Right.CONTROL: Right.SEE,
    Right.LINK: Right.SEE,
}


def parse_rights(text: str) -> Right:
    """Parse 'hear,speak' to rights, including those they imply; ConfigError names an unknown one."""
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
    """`rights` plus those they imply: hearing a guest implies seeing it; admin implies everything."""
    if Right.ADMIN in rights:
        return EVERYTHING
    for right, also in _IMPLIED.items():
        if right in rights:
            rights |= also
    return rights


def show_rights(rights: Right) -> list[str]:
    """Names of the rights, in order."""
    return [name for name, right in NAMES.items() if right and right in rights]


@dataclass(frozen=True, slots=True)
class Principal:
    """A holder of rights. `key` names it in logs and lists: owner, token/N, certificate/NAME."""

    key: str
    rights: Right
    guests: frozenset[str]
    session: str = field(default="", compare=False)
    """Number of the browser session through which it signed in, if any."""
    secret: bytes = field(default=b"", compare=False, repr=False)
    """Digest of the secret that a request proved, directly or by a session. Empty for what outlives the secret."""
    label: str = field(default="", compare=False)
    """What people call it: a token's name, a certificate's. A viewer or listener that gives no name has this one."""

    # The one decision that everything else asks. A principal that covers some guests has rights in those and none
    # outside of them: it can't see which other guests exist, nor make one.
    def may(self, right: Right, guest: str | None = None) -> bool:
        """Whether it has this right in `guest`, or, with None, outside any guest."""
        if right not in self.rights:
            return False
        if guest is None:
            return ALL_GUESTS in self.guests
        return ALL_GUESTS in self.guests or guest in self.guests

    def without(self, guest: str) -> Principal:
        """The same principal without that guest."""
        return replace(self, guests=self.guests - {guest})

    def demand(self, right: Right, guest: str | None = None, why: str = "") -> None:
        """RightsError without the right. Its sentence hides whether the guest exists; `why` is said instead."""
        if not self.may(right, guest):
            name = "/".join(show_rights(right))
            said = f"may not {name} in guest {guest}" if guest is not None else f"has no right `{name}` for all guests"
            raise RightsError(why or f"{self.key} {said}", name, guest or "")


class Certificate(msgspec.Struct, frozen=True):
    """Rights of a TLS client, identified by a name in its certificate."""

    name: str
    rights: Right
    guests: frozenset[str]

    @property
    def principal(self) -> Principal:
        """The principal of this certificate."""
        return Principal(f"certificate/{self.name}", self.rights, self.guests, label=self.name)


OWNER = Principal("owner", EVERYTHING, frozenset({ALL_GUESTS}), label="owner")
"""The daemon's own user, or root."""
NOBODY = Principal("nobody", Right.NONE, frozenset())


class Admits(Enum):
    """Whom a listening socket admits on the kernel's peer credentials alone.

    This is set where the socket is opened and never inferred from a connection: a missing address, name or owner must
    not turn a peer into somebody.
    """

    OWNER = "owner"
    """The daemon's user and root, with every right."""
    PROGRAMS = "programs"
    """The daemon's user and root, as programs of one guest."""
    NOBODY = "nobody"
    """TCP: every connection needs a secret."""
