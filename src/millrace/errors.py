"""The whole error tree.

MillraceError
├── ConfigError            what the operator wrote can't be used; the text says what to change
│   └── NoDevice              there is no such sound device
├── GraphError             a verb that the graph refuses (no such node, a loop, a limit)
│   └── BudgetError           a guest has used up the memory that it may have
├── RightsError            somebody may not do that
├── ProtocolError
│   └── RemoteProtocolError   the other side violated it: ends that one connection
│       └── PasswordRefused       or does not take our password
├── CodecError             a codec refused settings or data
├── OutputLost             what was to be written can't be: a disk is full, a device is gone
└── PeerLost               the other machine is gone
    ├── NoDaemon              no daemon of this user runs
    └── Busy                  the daemon has no room now, or stops
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class MillraceError(Exception):
    """Base of all errors that Millrace raises on purpose. What each is called elsewhere, its kind says."""

    status: ClassVar[int] = 500
    """By HTTP."""
    word: ClassVar[str] = "internal"
    """In the native protocol's Fault."""
    listener_word: ClassVar[str] = "protocol"
    """In the listeners' protocol's Fault."""
    exit_code: ClassVar[int] = 1
    """Of a command that it ends."""


class ConfigError(MillraceError):
    """Configuration or arguments that can't be used."""

    status, word, exit_code = 400, "config", 2
    listener_word = "settings"


class NoDevice(ConfigError):
    """A sound device that can't be opened, or that there is not."""


class GraphError(MillraceError):
    """A verb the graph refuses."""

    status, word, exit_code = 409, "graph", 3
    listener_word = "graph"


class BudgetError(GraphError):
    """A guest has used up what it may make the daemon hold."""

    status, word = 507, "limit"
    listener_word = "limit"


class RightsError(MillraceError):
    """An action without the right to it."""

    status, word, exit_code = 403, "rights", 4


class ProtocolError(MillraceError):
    """A protocol was violated."""

    word, exit_code = "protocol", 5


class RemoteProtocolError(ProtocolError):
    """The other side violated a protocol. `code` is that protocol's own error code, if it has one."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class PasswordRefused(RemoteProtocolError):
    """The other side does not take the password that it was given."""


class CodecError(MillraceError):
    """A codec refused its settings or its data."""


class OutputLost(MillraceError):
    """A file or a pipe does not take what is written to it."""

    exit_code = 7


class PeerLost(MillraceError):
    """The other machine is gone."""

    exit_code = 6


class NoDaemon(PeerLost):
    """No daemon of this user answers where one would."""

    exit_code = 2


class Busy(PeerLost):
    """The daemon answers, but has no room for this now, or stops."""

    word = "busy"


BY_WORD: Mapping[str, type[MillraceError]] = {
    kind.word: kind for kind in (ConfigError, GraphError, BudgetError, RightsError, ProtocolError, Busy)
}
"""What the native protocol's words stand for."""
BY_LISTENER_WORD: Mapping[str, type[MillraceError]] = {
    kind.listener_word: kind for kind in (ConfigError, GraphError, BudgetError, RemoteProtocolError)
}
"""What the words of the listeners' protocol stand for."""
