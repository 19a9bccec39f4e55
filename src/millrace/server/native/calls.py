"""Calls of one native connection: those that wait for their turn, and those that wait for a permission."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from millrace.budget import Account
from millrace.errors import BudgetError
from millrace.rights.prompts import Answer
from millrace.server.native.state import SessionState
from millrace.wire.native.messages import Call, Fault

ASKED_MAX = 16
"""Calls of one connection that may wait for a permission."""
CALL_BYTES = 512
"""Memory of a queued call besides its arguments."""
ARGS_BYTES_MAX = 64 * 1024
"""The same limit as for HTTP requests."""
CALLS_MAX = 1024
"""Queued calls of one connection."""
_NO_CALL = (-1, None)


class Calls:
    """The calls in `state`, charged to `account`. They are numbered in the order in which they came."""

    def __init__(self, state: SessionState, account: Account) -> None:
        self._state, self._account = state, account
        self._doing: tuple[int, Call | None] = _NO_CALL

    def __bool__(self) -> bool:
        """Whether any are queued."""
        return bool(self._state.calls)

    def resume(self) -> None:
        """Continue from the state: calls that waited for a permission ask for it again, ahead of queued ones."""
        state = self._state
        waiting = [(number, call) for number, call in state.asked.items() if call is not None]
        state.asked.clear()
        state.calls.extendleft(reversed(waiting))
        for number, call in state.calls:
            self._account.hold(("call", number), CALL_BYTES + len(bytes(call.args)))

    def add(self, call: Call) -> Fault | None:
        """Queue a call; a fault, to be sent, if there is no room for it."""
        size, state = len(bytes(call.args)), self._state
        if len(state.calls) >= CALLS_MAX:
            return Fault(call.serial, "busy", f"{CALLS_MAX} calls are already pending")
        if size > ARGS_BYTES_MAX:
            return Fault(call.serial, "limit", f"arguments of {size} bytes; {ARGS_BYTES_MAX} at most")
        if not self._account.fits(("call", state.called), CALL_BYTES + size):
            return Fault(call.serial, "limit", f"no room for this call: {self._account.held} bytes are pending")
        state.calls.append((state.called, call))
        state.called += 1
        return None

    def take(self) -> tuple[int, Call]:
        """The oldest of those that are queued, and its number. It is charged for until it is `done`."""
        return self._state.calls.popleft()

    def done(self, number: int) -> None:
        """A call was run."""
        self._account.hold(("call", number), 0)

    @contextmanager
    def running(self, number: int, call: Call) -> Iterator[None]:
        """What asks for a permission meanwhile is this call."""
        self._doing = number, call
        try:
            yield
        finally:
            self._doing = _NO_CALL

    def await_answer(self, again: Answer) -> Answer:
        """The call that is running, or the request to connect, waits for an answer: see `Asker`."""
        asked = self._state.asked
        if len(asked) >= ASKED_MAX:
            raise BudgetError(f"{ASKED_MAX} requests of this connection are already pending")
        number, asked[number] = self._doing

        def answered(allow: bool) -> None:
            asked.pop(number, None)
            again(allow)

        return answered
