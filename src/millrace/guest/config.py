"""The configuration of one guest."""

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
DEFAULT_GUEST = "default"
"""The guest that commands mean if none is given."""
# A guest is reached at /NAME and has the folder NAME in the runtime directory, so the names of other routes and of
# the daemon's own files are not available.
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
    """Rights of this guest's own programs; everything but admin if None."""
    grants: tuple[tuple[Permission, Verdict], ...] = ()
    """Default rules for all its programs; rules made at run time take precedence."""
    attach: tuple[Place, ...] = ()
    """Where this guest's own admins may attach machines: see `machines/address.py`."""
    microphone: bool = True
    """Whether listeners that offer their microphone may speak, unless `set listener/N mic=off` says otherwise."""
    memory: int = GUEST_BYTES_MAX
    """Its memory budget in the daemon, in bytes."""


def checked_guest_name(name: str) -> str:
    """Check that a guest name is safe in paths and URLs; ConfigError otherwise."""
    return parse_name(name, "guest name", _RESERVED)


STREAM_TABLES = "stream/"
"""Prefix of the keys under which remembered streams are stored: stream/GUEST/GROUP."""


def stream_table(guest: str) -> str:
    """Prefix of the keys of one guest's remembered streams."""
    return f"{STREAM_TABLES}{guest}/"


def table_of(key: str) -> str:
    """The guest to whose remembered streams a key belongs; empty if to none."""
    guest, slash, _ = key.removeprefix(STREAM_TABLES).partition("/")
    return guest if key.startswith(STREAM_TABLES) and slash else ""


def graph_rate(value: object, what: str) -> int:
    """Check a guest's sample rate in Hz."""
    return checked_int(value, what, GUEST_RATE_MIN, RATE_MAX)


def graph_channels(value: object, what: str) -> int:
    """Check the channel count of a guest's default sink."""
    return checked_int(value, what, 1, GUEST_CHANNELS_MAX)


def added_guest(name: str, options: dict[str, Any]) -> GuestConfig:
    """The configuration of a guest that is added at run time."""
    rate = graph_rate(options.get("rate", 48_000), "rate")
    return GuestConfig(name, rate, graph_channels(options.get("channels", 2), "channels"))
