"""What each command of the API takes, as types: checked here, shown in the API's own description."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from millrace.errors import ConfigError
from millrace.text import printable
from millrace.wire.arguments import Arguments

Value = str | int | float | bool
T = TypeVar("T")


class Nothing(Arguments):
    """No arguments."""


class State(Arguments):
    """Everything, or of one guest; the names of all are told either way."""

    guest: str | None = None


class Set(Arguments):
    """Change a thing's settings: volume and mute; of listeners codec, bitrate and more."""

    target: str
    settings: dict[str, Value]
    guest: str | None = None


class Move(Arguments):
    """Let a stream or a listener go on at another sink."""

    target: str
    to: str
    guest: str | None = None


class LinkTo(Arguments):
    """Link a stream or a sink into a sink too, with a matrix of its own if given."""

    source: str
    to: str
    matrix: list[list[float]] | None = None
    guest: str | None = None


class GuestAdd(Arguments):
    """Make a guest."""

    name: str
    rate: int | None = None
    channels: int | None = None


class OfGuest(Arguments):
    """A guest."""

    guest: str


class Attach(Arguments):
    """Give a guest a door to its machine."""

    guest: str
    door: str
    vm: str = ""
    password: str | None = None
    password_file: str | None = None
    ca_file: str | None = None


class Detach(Arguments):
    """Let go of a machine: the door's number."""

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
    """Rule who may record: `allow` true, false, "prompt", or null to forget the rule."""

    guest: str
    what: str
    allow: bool | str | None
    program: str = ""


class Decide(Arguments):
    """Answer a request that waits; with `always`, for that program from now on."""

    request: str
    allow: bool
    always: bool = False


class TokenNew(Arguments):
    """Make a token. No guests mean all."""

    may: str
    guests: list[str] = msgspec.field(default_factory=list)
    expires: str = ""
    name: str = ""


class OfToken(Arguments):
    """A token's number."""

    token: str


class Remember(Arguments):
    """Keep a text under a key, or with null forget it: for session managers."""

    key: str
    value: str | None = None


class Recall(Arguments):
    """What is kept under keys that begin so."""

    prefix: str = ""


class Incidents(Arguments):
    """What has gone wrong lately: in a guest, or about one object."""

    guest: str | None = None
    subject: str | None = None


class About(Arguments):
    """One stream, or with `explain` one recorder."""

    target: str
    guest: str | None = None


def parsed(kind: type[T], args: Any) -> T:
    """Arguments, of JSON or as a native call brought them, as `kind`; ConfigError says which is wrong."""
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
