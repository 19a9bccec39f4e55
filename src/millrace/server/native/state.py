"""What one native connection is, apart from who it works with: a value, with which it can go on elsewhere."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from millrace.control.plane import Held
from millrace.io.fdstream import Outgoing
from millrace.rights.grants import Subject
from millrace.rights.model import NOBODY, Principal
from millrace.wire.native.messages import Call
from millrace.wire.native.session import NativeState


@dataclass(slots=True)
class SessionState:
    """Between two calls, and without its streams, which are the guest's."""

    subject: Subject
    wire: NativeState
    outgoing: Outgoing = field(default_factory=Outgoing)
    name: str = ""
    """What it calls itself."""
    token: bool = False
    """It came in by one, whatever program has it."""
    greeted: bool = False
    ready: bool = False
    """It is let in."""
    principal: Principal = NOBODY
    kinds: frozenset[str] | None = None
    """What it watches; None for all kinds."""
    calls: deque[tuple[int, Call]] = field(default_factory=deque)
    """What it has asked for, by number, and nobody has begun."""
    called: int = 0
    asked: dict[int, Call | None] = field(default_factory=dict)
    """By number: calls that wait until somebody has decided; None is the connection itself."""
    held: Held = field(default_factory=Held)
    """What was kept for it where it was last."""
