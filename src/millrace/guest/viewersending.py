"""What one viewer is sent: messages in one order, what waits for room, and what its machine has not taken yet."""

from __future__ import annotations

import logging
from collections.abc import Callable

from millrace.absent import never
from millrace.budget import VIEWERS, Account
from millrace.errors import BudgetError, MillraceError, PeerLost, bare
from millrace.outlets.queue import Passed, Traffic, Write, unknown
from millrace.wire.peer.pictures import ToViewer
from millrace.wire.peer.viewing import ViewServer

log = logging.getLogger("millrace.guest")
UNSENT_MAX, UNSENT_BYTES_MAX = 64, 2 * 1024 * 1024
"""Messages that may wait because the viewer does not read, and their bytes; with more, it is given up."""
INTERNAL = "an internal error; the daemon's log has it"


# What is written can't be dropped any more, so everything is left out before: a picture is encoded for a viewer only
# while it is `open`, states are told in their newest form only, and other messages are few. What happens to a viewer
# must not happen to those that it is called for, so an error is kept until its session's tick.
class Sending:
    """The connection of one viewer. `write` sends messages; `room` says whether it can take more."""

    def __init__(
        self, wire: ViewServer, account: Account, write: Write, room: Callable[[], bool], traffic: Traffic = unknown
    ) -> None:
        self.bytes = 0
        """Written since the beginning."""
        self.error: MillraceError | None = None
        """What ended it; nothing is sent any more."""
        self._wire, self._account = wire, account
        self._write, self._room, self._traffic = write, room, traffic
        self._unsent: list[str | bytes] = []
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether nothing is sent any more."""
        return self._closed or self.error is not None

    @property
    def open(self) -> bool:
        """Whether something new can be sent at once."""
        return not self._unsent and not self.closed and self._room()

    @property
    def passed(self) -> Passed | None:
        """What was written to the connection, and has arrived; None if the system can't say, or it is over."""
        return None if self._closed else self._traffic()

    def flush(self, begun: bool = False) -> None:
        """Write what is queued on the wire, if there is room, or it is the rest of what has `begun`."""
        self._unsent += self._wire.data_to_send()
        if self.closed:
            self._unsent.clear()
        elif self._unsent and (begun or self._room()):
            unsent, self._unsent = self._unsent, []
            self.bytes += sum(map(len, unsent))
            self._account.hold("unsent", 0, VIEWERS)
            self._write(unsent)
        elif self._unsent:
            self._bound()

    def _bound(self) -> None:
        count, size = len(self._unsent), sum(map(len, self._unsent))
        if count > UNSENT_MAX or size > UNSENT_BYTES_MAX:
            self.fail(PeerLost(f"the viewer left {count} messages of {size} bytes unread"))
            return
        try:
            self._account.hold("unsent", size, VIEWERS)
        except BudgetError as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Send nothing more; the session's next tick ends it, with `INTERNAL` for what nobody has raised on purpose."""
        if not isinstance(error, MillraceError):
            log.error("a viewer is ended because of an internal error", exc_info=error)
            error = MillraceError(INTERNAL)
        # It is kept, and was raised in frames that hold this.
        bare(error)
        self.error = self.error or error
        self._unsent.clear()

    def stop(self, last: ToViewer) -> list[str | bytes]:
        """Send nothing more. Returns this last message, for whoever ends the connection."""
        self.close()
        self._wire.send_message(last)
        return self._wire.data_to_send()

    def close(self) -> None:
        """The session is over."""
        self._closed = True
        self._unsent.clear()

    def forget(self) -> None:
        """The connection is over. It is reached through these, which keep this: a cycle (daemon/collector.py)."""
        self._closed = True
        self._write, self._room, self._traffic = (lambda messages: None), never, unknown
