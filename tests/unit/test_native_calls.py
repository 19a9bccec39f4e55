"""Calls of a native connection: their limits, their order, and what waits for a permission."""

from __future__ import annotations

import msgspec
import pytest

from millrace.budget import Account, Budget
from millrace.errors import BudgetError
from millrace.rights.grants import Identity, Subject
from millrace.server.native.calls import ARGS_BYTES_MAX, ASKED_MAX, CALL_BYTES, CALLS_MAX, Calls
from millrace.server.native.state import SessionState
from millrace.wire.native.messages import Call, Fault
from millrace.wire.native.session import NativeState


def made(size: int = 10**6) -> tuple[Calls, SessionState, Account]:
    state, account = (
        SessionState(Subject(Identity(5, 1000, "tool")), NativeState()),
        Budget(limit=size).open("connection", {}),
    )
    return Calls(state, account), state, account


def call(serial: int, args: bytes = b"\xc0") -> Call:
    return Call(serial, "ask", msgspec.Raw(args))


def test_calls_are_taken_in_order_and_charged_until_they_are_done() -> None:
    calls, _, account = made()
    assert not calls and calls.add(call(7)) is None and calls.add(call(8, b"1234")) is None and calls
    assert account.held == 2 * CALL_BYTES + 1 + 4
    first, second = calls.take(), calls.take()
    assert not calls and [(number, one.serial) for number, one in (first, second)] == [(0, 7), (1, 8)]
    calls.done(0)
    assert account.held == CALL_BYTES + 4
    calls.done(1)
    assert not account.held


def test_a_call_without_room_is_answered_with_a_fault_and_not_kept() -> None:
    calls, state, account = made(2 * CALL_BYTES)
    assert calls.add(call(1, bytes(ARGS_BYTES_MAX + 1))) == Fault(1, "limit", "arguments of 65537 bytes; 65536 at most")
    assert calls.add(call(2)) is None
    refused = calls.add(call(3, bytes(CALL_BYTES)))
    assert refused == Fault(3, "limit", f"no room for this call: {CALL_BYTES + 1} bytes are pending")
    assert len(state.calls) == 1 and account.held == CALL_BYTES + 1
    calls, state, account = made()
    assert not any(calls.add(call(number)) for number in range(CALLS_MAX))
    held = account.held
    assert calls.add(call(CALLS_MAX)) == Fault(CALLS_MAX, "busy", "1024 calls are already pending")
    assert account.held == held and len(state.calls) == CALLS_MAX


def test_only_the_running_call_waits_for_a_permission_and_others_of_the_connection_mean_connecting() -> None:
    calls, state, _ = made()
    calls.add(call(1))
    told: list[bool] = []
    number, one = calls.take()
    with calls.running(number, one):
        answer = calls.await_answer(told.append)
        with pytest.raises(ZeroDivisionError), calls.running(9, one):
            raise ZeroDivisionError
    connect = calls.await_answer(told.append)
    assert state.asked == {0: one, -1: None}
    answer(True)
    connect(False)
    assert told == [True, False] and not state.asked


def test_few_may_wait_for_a_permission() -> None:
    calls, state, _ = made()
    for number in range(ASKED_MAX):
        with calls.running(number, call(number)):
            calls.await_answer(lambda allow: None)
    with pytest.raises(BudgetError, match="16 requests of this connection"), calls.running(99, call(99)):
        calls.await_answer(lambda allow: None)
    assert 99 not in state.asked


def test_another_session_asks_again_before_it_goes_on_with_what_was_queued() -> None:
    calls, state, _ = made()
    for serial in (1, 2, 3):
        calls.add(call(serial))
    for _ in range(2):
        number, one = calls.take()
        with calls.running(number, one):
            calls.await_answer(lambda allow: None)
    calls.await_answer(lambda allow: None)
    account = Budget(limit=10**6).open("connection", {})
    again = Calls(state, account)
    again.resume()
    assert not state.asked and account.held == 3 * (CALL_BYTES + 1)
    assert [again.take()[1].serial for _ in range(3)] == [1, 2, 3]
