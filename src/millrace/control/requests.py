"""Argument types of the API's commands: checked here, and published in the API's OpenAPI description."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from millrace.errors import ConfigError
from millrace.rights.grants import ANY
from millrace.text import printable
from millrace.wire.arguments import Arguments

Value = str | int | float | bool
T = TypeVar("T")


class Nothing(Arguments):
    """No arguments."""


class State(Arguments):
    """Everything, or one guest; the names of all guests are included either way."""

    guest: str | None = None


class Set(Arguments):
    """Change an object's settings: volume and mute; for listeners codec, bitrate and more."""

    target: str
    settings: dict[str, Value]
    guest: str | None = None


class Move(Arguments):
    """Move a stream or listener to another sink."""

    target: str
    to: str
    guest: str | None = None


class LinkTo(Arguments):
    """Link a stream or sink to another sink as well, with its own mix matrix if given."""

    source: str
    to: str
    matrix: list[list[float]] | None = None
    guest: str | None = None


class GuestAdd(Arguments):
    """Create a guest."""

    name: str
    rate: int | None = None
    channels: int | None = None


class OfGuest(Arguments):
    """A guest."""

    guest: str


class Attach(Arguments):
    """Attach a machine to a guest.

    It is attached again when the daemon starts, unless `once`, or it was given a password instead of a file. One that
    is attached to another guest is refused, unless `also`: both guests would see it and type into it.
    """

    guest: str
    door: str
    vm: str = ""
    password: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    once: bool = False
    also: bool = False


class Detach(Arguments):
    """Detach a machine, given the door's number."""

    door: str


class SinkAdd(Arguments):
    """Add a sink."""

    guest: str
    name: str
    description: str = ""


class SinkRemove(Arguments):
    """Remove a sink, by name or number."""

    guest: str
    sink: str


class Grant(Arguments):
    """Set a rule about a program: `allow` is true, false, "prompt", or null to delete the rule.

    `*` means all programs without a rule of their own.
    """

    guest: str
    what: str
    allow: bool | str | None
    program: str = ANY


class Decide(Arguments):
    """Answer a pending request; with `always`, make it a rule for that program."""

    request: str
    allow: bool
    always: bool = False


class TokenNew(Arguments):
    """Create a token with these rights, listed or with commas. An empty list of guests means all."""

    may: list[str] | str
    guests: list[str] = msgspec.field(default_factory=list)
    expires: str = ""
    name: str = ""


class OfToken(Arguments):
    """A token's number."""

    token: str


class Remember(Arguments):
    """Store a text under a key, or delete it with null: for session managers."""

    key: str
    value: str | None = None


class Recall(Arguments):
    """Texts stored under keys with this prefix."""

    prefix: str = ""


class Incidents(Arguments):
    """Recent incidents, the one that happened last at the end: all, of one guest, or about one object."""

    guest: str | None = None
    subject: str | None = None


class About(Arguments):
    """A stream, listener, screen or viewer, or with `explain` a recorder."""

    target: str
    guest: str | None = None


def parsed(kind: type[T], args: Any) -> T:
    """Convert arguments, from JSON or a native call, to `kind`; ConfigError says what is wrong."""
    try:
        if not isinstance(args, msgspec.Raw):
            return msgspec.convert(args, kind)
        decoder = msgspec.msgpack.Decoder(kind)
        return decoder.decode(args)
    except msgspec.ValidationError as error:
        wanted = ", ".join(field.name for field in msgspec.structs.fields(kind)) or "nothing"  # type: ignore[arg-type]
        raise ConfigError(f"{error}; this takes {wanted}") from None
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise ConfigError(f"arguments not understood: {printable(error)}") from None
