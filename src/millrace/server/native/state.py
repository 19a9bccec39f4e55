"""The state of a native connection as a plain value, with which another session can continue it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from millrace.control.plane import Held
from millrace.guest.native import NativeStreamState
from millrace.io.fdstream import Outgoing
from millrace.rights.grants import Subject
from millrace.rights.model import NOBODY, Principal
from millrace.wire.native.messages import Call
from millrace.wire.native.session import NativeState


@dataclass(slots=True)
class SessionState:
    """A connection between two calls. The nodes of its streams belong to the graph."""

    subject: Subject
    wire: NativeState
    outgoing: Outgoing = field(default_factory=Outgoing)
    name: str = ""
    """The program's own name for itself."""
    token: bool = False
    """It authenticated with a token, so the program's identity does not matter."""
    greeted: bool = False
    ready: bool = False
    """It is authenticated and admitted."""
    principal: Principal = NOBODY
    kinds: frozenset[str] | None = None
    """The kinds it watches; None for the default ones."""
    calls: deque[tuple[int, Call]] = field(default_factory=deque)
    """Queued calls with their numbers; none of them has started."""
    called: int = 0
    asked: dict[int, Call | None] = field(default_factory=dict)
    """By number: calls that wait for a permission; None stands for the request to connect."""
    streams: list[NativeStreamState] = field(default_factory=list)
    """Only while it is frozen."""
    held: Held = field(default_factory=Held)
    """What the control plane kept for it at its previous place."""
