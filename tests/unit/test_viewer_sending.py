"""What one viewer is sent: at once if there is room, in order, and no more than may wait."""

from __future__ import annotations

import logging

import pytest

from millrace.budget import Budget
from millrace.errors import BudgetError, PeerLost
from millrace.guest.viewersending import INTERNAL, UNSENT_BYTES_MAX, UNSENT_MAX, Sending
from millrace.outlets.queue import Passed
from millrace.wire.peer.messages import Bye
from millrace.wire.peer.viewing import ViewServer


class Line:
    """A viewer's connection, and what is sent through it."""

    def __init__(self) -> None:
        self.budget = Budget("alice")
        self.account = self.budget.open("viewer")
        self.roomy = True
        self.written: list[list[str | bytes]] = []
        self.wire = ViewServer(0)
        self.sending = Sending(
            self.wire, self.account, lambda messages: self.written.append(list(messages)), lambda: self.roomy,
            lambda: Passed(9, 5),
        )  # fmt: skip

    def say(self, *reasons: str) -> None:
        """Queue messages and send what can be sent."""
        for reason in reasons:
            self.wire.send_message(Bye(reason))
        self.sending.flush()

    @property
    def said(self) -> list[list[str]]:
        """The reasons of the messages, by write."""
        return [[str(message).partition('"reason":"')[2].partition('"')[0] for message in one] for one in self.written]


def test_what_waits_for_room_is_written_in_order_in_one_go_and_charged_until_then() -> None:
    line = Line()
    line.say("a", "b")
    assert line.said == [["a", "b"]] and line.sending.bytes == sum(map(len, line.written[0])) and line.sending.open
    line.roomy = False
    assert not line.sending.open
    line.say("c")
    line.say("d")
    waiting = line.account.part("unsent")
    assert len(line.written) == 1 and waiting > 0
    line.roomy = True
    assert not line.sending.open, "what waits comes first"
    line.say("e")
    assert line.said[1:] == [["c", "d", "e"]] and line.sending.open and not line.account.part("unsent")


def test_rest_of_what_has_begun_is_written_without_room() -> None:
    line = Line()
    line.roomy = False
    line.say("before")
    line.wire.send_message(Bye("rest"))
    line.sending.flush(begun=True)
    assert line.said == [["before", "rest"]] and not line.account.part("unsent")


@pytest.mark.parametrize(("messages", "kept"), [
    (["x"] * UNSENT_MAX, True), (["x"] * (UNSENT_MAX + 1), False),
    (["x" * (UNSENT_BYTES_MAX - 1_000)], True), (["x" * UNSENT_BYTES_MAX], False),
])  # fmt: skip
def test_viewer_that_leaves_more_than_may_wait_is_given_up(messages: list[str], kept: bool) -> None:
    line = Line()
    line.roomy = False
    line.say(*messages)
    assert line.sending.closed is not kept and isinstance(line.sending.error, PeerLost) is not kept
    line.roomy = True
    line.say("next")
    assert line.said == ([[*messages, "next"]] if kept else [])


def test_viewer_for_whose_messages_its_guest_has_no_memory_is_given_up() -> None:
    line = Line()
    line.roomy, line.budget.limit = False, line.budget.held + 100
    line.say("x" * 200)
    assert isinstance(line.sending.error, BudgetError) and line.budget.held <= line.budget.limit


def test_first_error_stays_and_what_nobody_raised_on_purpose_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    line = Line()
    with caplog.at_level(logging.ERROR):
        line.sending.fail(ZeroDivisionError("this bug"))
        line.sending.fail(PeerLost("later"))
    assert str(line.sending.error) == INTERNAL and "ZeroDivisionError: this bug" in caplog.text
    assert line.sending.closed and not line.sending.open
    line.say("late")
    line.sending.flush(begun=True)
    assert not line.written and "later" not in caplog.text


def test_connection_that_is_over_is_let_go_of() -> None:
    line = Line()
    assert line.sending.passed == Passed(9, 5)
    line.sending.close()
    assert line.sending.closed and line.sending.error is None and line.sending.passed is None
    line.say("late")
    assert not line.written
    other = Line()
    other.sending.forget()
    assert not other.sending.open and other.sending.passed is None
    other.say("late")
    assert not other.written
    for kept in ("_write", "_room", "_traffic"):
        assert getattr(other.sending, kept) is not getattr(line.sending, kept)
        assert getattr(other.sending, kept).__closure__ is None
