"""What each command of the API takes, as types: checked here, shown in the API's own description."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from millrace.errors import ConfigError
from millrace.text import printable

Value = str | int | float | bool
T = TypeVar("T")


class Nothing(msgspec.Struct):
    """No arguments."""


class State(msgspec.Struct):
    """Everything, or of one guest; the names of all are told either way."""

    guest: str | None = None


class Set(msgspec.Struct):
    """Change a thing's settings: volume and mute; of listeners codec, bitrate and more."""

    target: str
    settings: dict[str, Value]
    guest: str | None = None


class Move(msgspec.Struct):
    """Let a stream or a listener go on at another sink."""

    target: str
    to: str
    guest: str | None = None


class LinkTo(msgspec.Struct):
    """Link a stream or a sink into a sink too, with a matrix of its own if given."""

    source: str
    to: str
    matrix: list[list[float]] | None = None
    guest: str | None = None


class GuestAdd(msgspec.Struct):
    """Make a guest."""

    name: str
    rate: int | None = None
    channels: int | None = None


class OfGuest(msgspec.Struct):
    """A guest."""

    guest: str


class Attach(msgspec.Struct):
    """Give a guest a door to its machine."""

    guest: str
    door: str
    vm: str = ""
    password: str | None = None
    password_file: str | None = None
    ca_file: str | None = None


class Detach(msgspec.Struct):
    """Let go of a machine: the door's number."""

    door: str


class SinkAdd(msgspec.Struct):
    """Add a sink."""

    guest: str
    name: str
    description: str = ""


class SinkRemove(msgspec.Struct):
    """Remove a sink, by name or number."""

    guest: str
    sink: str


class Grant(msgspec.Struct):
    """Rule who may record: `allow` true, false, "prompt", or null to forget the rule."""

    guest: str
    what: str
    allow: bool | str | None
    program: str = ""


class Decide(msgspec.Struct):
    """Answer a request that waits; with `always`, for that program from now on."""

    request: str
    allow: bool
    always: bool = False


class TokenNew(msgspec.Struct):
    """Make a token. No guests mean all."""

    may: str
    guests: list[str] = []
    expires: str = ""
    name: str = ""


class OfToken(msgspec.Struct):
    """A token's number."""

    token: str


class Remember(msgspec.Struct):
    """Keep a text under a key, or with null forget it: for session managers."""

    key: str
    value: str | None = None


class Recall(msgspec.Struct):
    """What is kept under keys that begin so."""

    prefix: str = ""


class Incidents(msgspec.Struct):
    """What has gone wrong lately: in a guest, or about one object."""

    guest: str | None = None
    subject: str | None = None


class About(msgspec.Struct):
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
