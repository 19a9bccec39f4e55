"""What is set of one guest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from millrace.budget import GUEST_BYTES_MAX
from millrace.guest.machines.address import DoorSpec, Place
from millrace.io.paths import RUNTIME_NAMES
from millrace.rights.grants import Permission, Verdict
from millrace.rights.model import Right
from millrace.text import checked_int, parse_name
from millrace.units import RATE_MAX

GUEST_RATE_MIN, GUEST_CHANNELS_MAX = 8_000, 8
_RESERVED = frozenset({"api", "metrics", "health", "ready", "static", "page", "session"}) | RUNTIME_NAMES


@dataclass(frozen=True, slots=True)
class GuestConfig:
    """One guest."""

    name: str
    rate: int = 48_000
    channels: int = 2
    pulse_tcp: tuple[str, ...] = ()
    doors: tuple[DoorSpec, ...] = ()
    rights: Right | None = None
    """What this guest's own programs may; all but admin if not given."""
    grants: tuple[tuple[Permission, Verdict], ...] = ()
    """Rules for all its programs that stand unless others were made while it ran."""
    attach: tuple[Place, ...] = ()
    """Where this guest's own admins may look for its machines: see doorspec."""
    microphone: bool = True
    """Whether listeners that offer their microphone may speak, unless `set listener/N mic=off` says otherwise."""
    memory: int = GUEST_BYTES_MAX
    """Bytes that all of it together may make the daemon hold."""


def checked_guest_name(name: str) -> str:
    """A name fit for paths and URLs, else ConfigError."""
    return parse_name(name, "guest name", _RESERVED)


STREAM_TABLES = "stream/"
"""Where in the memory of session managers the tables of guests' streams are: stream/GUEST/GROUP."""


def stream_table(guest: str) -> str:
    """Under which keys a session manager remembers a guest's streams."""
    return f"{STREAM_TABLES}{guest}/"


def graph_rate(value: object, what: str) -> int:
    """A guest's rate in Hz, from a file or a message."""
    return checked_int(value, what, GUEST_RATE_MIN, RATE_MAX)


def graph_channels(value: object, what: str) -> int:
    """The channels of a guest's default sink."""
    return checked_int(value, what, 1, GUEST_CHANNELS_MAX)


def added_guest(name: str, options: dict[str, Any]) -> GuestConfig:
    """What a guest is that was added while running."""
    rate = graph_rate(options.get("rate", 48_000), "rate")
    return GuestConfig(name, rate, graph_channels(options.get("channels", 2), "channels"))
