"""The rows of the command table: what a command is called, what it takes and gives, and where it has to run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class Scope(Enum):
    """Which workers of a host a command concerns, if there are several. One worker alone runs all commands."""

    GUEST = "guest"
    """The worker that has the guest named by `guest` in the arguments."""
    OBJECT = "object"
    """The worker that has the object named in the arguments: each may be asked, and at most one has it."""
    ALL = "all"
    """All workers. Their results are merged: lists are joined, as are the guests of a `StateView`."""
    HOST = "host"
    """None of them: what is kept once for the host. Tokens, links, stored texts, and which guests there are."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its name, its HTTP method and path, its argument and result types, its scope, and a summary."""

    name: str
    method: str
    path: str
    takes: type[Any]
    returns: Any
    scope: Scope
    summary: str
