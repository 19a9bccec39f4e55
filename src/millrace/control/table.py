"""The rows of the command table: what a command is called, what it takes and gives, and where it has to run.

A host may have several workers, each with guests of its own. The arguments of a command determine which of them it
concerns, so a router can pass it on without knowing the command. One worker alone runs all commands.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import msgspec


class InGuest(msgspec.Struct, frozen=True):
    """The worker that has this guest."""

    guest: str


# Numbers are unique on a host, so at most one guest has the object of a key with a number. A sink or a source may also
# be referred to by its name, which exists in many guests. Such a key means the guest `default`, as in all commands that
# take a guest, or else the only one that has it; if several have it, it means none. That is so whatever the right in
# that guest is, or one's rights would decide what is changed.
class OnObject(msgspec.Struct, frozen=True):
    """The worker of the guest that is meant, of those that the principal may see, by an object with this key."""

    key: str


class Whole(Enum):
    """All workers, or none."""

    WORKERS = "workers"
    """All workers. Their results are merged: lists are joined, as are the guests of a `StateView`."""
    HOST = "host"
    """No worker: what is kept once for the host. Tokens, links, stored texts, and which guests there are."""


Scope = InGuest | OnObject | Whole


class Command(msgspec.Struct, frozen=True):
    """One command: its name, its HTTP method and path, its argument and result types, and a summary."""

    name: str
    method: str
    path: str
    takes: type[Any]
    returns: Any
    scope: Callable[[Any], Scope]
    """Where it runs, with these arguments."""
    kept: Callable[[Any], bool]
    """Whether, with these arguments, it writes to disk before it is answered."""
    summary: str
