"""All of Millrace's exceptions.

MillraceError
├── ConfigError            invalid configuration or arguments; the text says what to change
│   └── NoDevice              the sound device does not exist or can't be opened
├── GraphError             the graph refuses the operation (no such node, a loop, a limit)
│   └── BudgetError           a guest has used up its memory budget
├── RightsError            the caller lacks the right
│   └── RightsEnded           its token or session is no longer valid
├── ProtocolError
│   └── RemoteProtocolError   the peer violated the protocol: ends that one connection
│       └── LoginRefused          the peer does not let us in
│           └── PasswordRefused       the peer rejected our password
├── CodecError             a codec rejected settings or data
├── OutputLost             output can't be written: a full disk, a lost device
└── PeerLost               the peer is gone
    ├── NoDaemon              this user has no daemon running
    └── Busy                  the daemon is at a limit or shutting down
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


def bare(error: BaseException | None) -> None:
    """Take the traceback from an error, and from those that led to it: somebody keeps the error, but not its frames."""
    rest, seen = [error], set[int]()
    while rest:
        one = rest.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            rest += (one.__cause__, one.__context__)


class MillraceError(Exception):
    """Base of all errors that Millrace raises on purpose. Class attributes map each kind to every outside interface."""

    # A new kind of error inherits all of these, so it has a status, a word and an exit code at each interface from the
    # start.
    status: ClassVar[int] = 500
    """HTTP status."""
    word: ClassVar[str] = "internal"
    """Code in the native protocol's Fault."""
    listener_word: ClassVar[str] = "protocol"
    """Code in the peer protocol's Fault."""
    exit_code: ClassVar[int] = 1
    """Exit status of a command that fails with it."""


class ConfigError(MillraceError):
    """Invalid configuration or arguments."""

    status, word, exit_code = 400, "config", 2
    listener_word = "settings"


class NoDevice(ConfigError):
    """The sound device does not exist or can't be opened."""


class GraphError(MillraceError):
    """The graph refuses the operation."""

    status, word, exit_code = 409, "graph", 3
    listener_word = "graph"


class BudgetError(GraphError):
    """A guest has used up its memory budget in the daemon."""

    status, word = 507, "limit"
    listener_word = "limit"

    def __init__(self, what: str, needed: int = 0) -> None:
        """`needed` is the number of bytes that had no room."""
        super().__init__(what)
        self.needed = needed


class RightsError(MillraceError):
    """The caller lacks the right to do this."""

    status, word, exit_code = 403, "rights", 4
    listener_word = "rights"

    def __init__(self, message: str, right: str = "", guest: str = "") -> None:
        """`right` is the one right that is lacking, in `guest`, or outside all guests if that is empty.

        Without `right`, several are lacking, or something else than a right.
        """
        super().__init__(message)
        self.right, self.guest = right, guest


def lacking(error: MillraceError) -> tuple[str, str]:
    """The one right that is lacking, and the guest: for programs, which shall not read the sentence.

    The guest is empty outside all guests, and the right if no right is lacking, or more than one.
    """
    return (error.right, error.guest) if isinstance(error, RightsError) else ("", "")


class RightsEnded(RightsError):
    """The token or session that the caller used is no longer valid."""

    status = 401


class ProtocolError(MillraceError):
    """A protocol was violated."""

    word, exit_code = "protocol", 5


class RemoteProtocolError(ProtocolError):
    """The peer violated a protocol. `code` is that protocol's own error code, if it has one."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class LoginRefused(RemoteProtocolError):
    """The peer does not let us in, and will not a moment later either."""


class PasswordRefused(LoginRefused):
    """The peer rejected the password."""


class CodecError(MillraceError):
    """A codec rejected its settings or data."""


class OutputLost(MillraceError):
    """A file or pipe can't be written to."""

    exit_code = 7


class PeerLost(MillraceError):
    """The peer is gone."""

    exit_code = 6


class NoDaemon(PeerLost):
    """No daemon answers at this user's sockets."""

    exit_code = 2


class Busy(PeerLost):
    """The daemon answers, but is at a limit or shutting down."""

    word = "busy"


BY_WORD: Mapping[str, type[MillraceError]] = {
    kind.word: kind for kind in (ConfigError, GraphError, BudgetError, RightsError, ProtocolError, Busy)
}
"""Error classes by their code in the native protocol."""
BY_LISTENER_WORD: Mapping[str, type[MillraceError]] = {
    kind.listener_word: kind for kind in (ConfigError, GraphError, BudgetError, RightsError, RemoteProtocolError)
}
"""Error classes by their code in the peer protocol."""
