"""Reads the states of guests and connections from their encoding, in the versions that can be continued from."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from millrace.errors import ConfigError
from millrace.text import printable

T = TypeVar("T")


class _Versioned(msgspec.Struct):
    version: int


def read_frozen(data: bytes, kind: type[T], versions: range, what: str) -> T:
    """A state of `kind` in one of `versions`; `what` names its subject, for the ConfigError if it can't be read."""
    # Alone, and first: what else an unknown version holds need not be readable.
    version = decoded(data, _Versioned, what).version
    if version not in versions:
        raise ConfigError(
            f"a {what} was frozen in version {version} of its state, and this Millrace continues from"
            f" {versions[0]} to {versions[-1]} only; start the {what} anew"
        )
    return decoded(data, kind, what)


def decoded(data: bytes, kind: type[T], what: str) -> T:
    """The same for a part of such a state, which has no version of its own."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ConfigError(
            f"the state of a frozen {what} can't be read: {printable(error)}; start the {what} anew"
        ) from None
