"""The send queue of a listener: its limits, its end, and its errors, which affect no other listener."""

from __future__ import annotations

import pytest

from millrace.errors import GraphError
from millrace.outlets.peer import Subscriber
from millrace.outlets.queue import QUEUE_PACKETS_MAX, SendQueue
from millrace.outlets.subscribers import Subscribers
from millrace.sim.rig import Rig
from tests.unit.test_graph import add


def test_full_queue_drops_oldest_packets_and_gives_budget_back_when_empty() -> None:
    written: list[str | bytes] = []
    budget: list[int] = []
    drops: list[None] = []
    open_ = False
    queue = SendQueue(
        written.extend, lambda: open_, lambda size: budget.append(size) is None, lambda: drops.append(None)
    )
    queue.send("format")
    for number in range(QUEUE_PACKETS_MAX + 5):
        queue.send(bytes([number]))
    assert (queue.queued, len(drops), queue.dropped_packets) == (QUEUE_PACKETS_MAX, 6, 6) and not written
    open_ = True
    queue.flush()
    assert written == ["format", *(bytes([number]) for number in range(6, QUEUE_PACKETS_MAX + 5))]
    assert budget[-1] == 0


def test_budget_without_room_empties_queue_and_raises_nothing() -> None:
    queue = SendQueue(lambda messages: None, lambda: False, lambda size: False, lambda: None)
    queue.send(b"packet", "silence")
    assert queue.queued == 0


def test_line_of_closed_connection_takes_no_messages() -> None:
    queue = SendQueue(lambda messages: None, lambda: True, lambda size: True, lambda: None)
    queue.forget()
    queue.send(b"packet")
    assert queue.queued == 0 and queue.sent_packets == 0


def broken(messages: object) -> None:
    raise RuntimeError("no such socket")


def outlet_of(rig: Rig, subscribers: Subscribers, write: object) -> Subscriber:
    outlet = Subscriber(rig.graph.ids.take(), "x", write, lambda: True)  # type: ignore[arg-type]
    subscribers.join(outlet, rig.sink)
    return outlet


def test_error_on_one_line_ends_that_line_and_no_other() -> None:
    rig = Rig()
    subscribers = Subscribers(rig.graph)
    heard: list[str | bytes] = []
    outlets = [outlet_of(rig, subscribers, heard.extend) for _ in range(2)]
    outlets[0]._write = broken
    add(rig)
    rig.run(0.5)
    error = outlets[0].take_error()
    assert isinstance(error, RuntimeError) and outlets[0].take_error() is None
    assert sum(isinstance(message, bytes) for message in heard) > 20 and outlets[1].take_error() is None


def test_outlet_that_has_left_never_plays_again() -> None:
    rig = Rig()
    subscribers = Subscribers(rig.graph)
    outlet = Subscriber(rig.graph.ids.take(), "x", lambda messages: None, lambda: True)
    with pytest.raises(GraphError, match="still connecting"):
        subscribers.move(outlet, rig.sink)
    subscribers.join(outlet, rig.sink)
    subscribers.leave(outlet)
    subscribers.join(outlet, rig.sink)
    with pytest.raises(GraphError, match="it has left"):
        subscribers.move(outlet, rig.graph.add_sink("other"))
    assert outlet.group is None and not subscribers.outlets and not rig.graph.taps
