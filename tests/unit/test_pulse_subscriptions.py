"""SubscriptionEvents: each change once, only to its subscribers, in turns, and nothing from before they subscribed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from millrace.doors.pulse.subscriptions import Subscription, SubscriptionEvents, SubscriptionState
from millrace.wire.pulse.constants import Change, Facility

SINK, STREAM, CLIENT = Facility.SINK, Facility.SINK_INPUT, Facility.CLIENT
NEW, CHANGE, REMOVE = Change.NEW, Change.CHANGE, Change.REMOVE


def mask(*facilities: Facility) -> int:
    return sum(1 << facility for facility in facilities)


class Turns:
    """SubscriptionEvents that are spread when the test says so, a step at a time."""

    def __init__(self) -> None:
        self.called = 0
        self._make: Callable[[], Iterator[None]] = lambda: iter(())
        self.news = SubscriptionEvents(self._in_turns)
        self.woken: list[int] = []

    def _in_turns(self, make: Callable[[], Iterator[None]]) -> Callable[[], None]:
        self._make = make

        def call() -> None:
            self.called += 1

        return call

    def subscribe(self, client: int, *facilities: Facility, state: SubscriptionState | None = None) -> Subscription:
        one = Subscription(self.news, client, lambda: self.woken.append(client), state or SubscriptionState())
        if facilities:
            one.set_mask(mask(*facilities))
        return one

    def spread(self) -> int:
        """Tell all; the number of steps."""
        return sum(1 for _ in self._make())


def told(subscription: Subscription) -> list[tuple[int, int]]:
    return list(subscription.take())


def test_client_gets_only_the_events_it_subscribed_to() -> None:
    turns = Turns()
    sinks, both, none = turns.subscribe(1, SINK), turns.subscribe(2, SINK, STREAM), turns.subscribe(3)
    turns.news.publish(SINK, NEW, 7)
    turns.news.publish(STREAM, CHANGE, 8)
    turns.news.publish(CLIENT, NEW, 9)
    assert told(sinks) == [] and turns.called == 3, "nothing is sent outside its turn"
    assert turns.spread() == 2 and turns.woken == [1, 2]
    assert told(sinks) == [(SINK | NEW, 7)] and told(sinks) == []
    assert told(both) == [(SINK | NEW, 7), (STREAM | CHANGE, 8)] and told(none) == []
    assert turns.spread() == 0 and turns.woken == [1, 2]


def test_nothing_is_queued_without_subscribers() -> None:
    turns = Turns()
    turns.news.publish(SINK, NEW, 7)
    assert (turns.called, turns.news.serial, turns.spread()) == (0, 0, 0)


def test_new_subscriber_gets_no_earlier_events() -> None:
    turns = Turns()
    first, late = turns.subscribe(1, SINK), turns.subscribe(2)
    turns.news.publish(SINK, NEW, 7)
    late.set_mask(mask(SINK))
    turns.news.publish(SINK, NEW, 8)
    turns.spread()
    assert told(late) == [(SINK | NEW, 8)] and len(told(first)) == 2
    # Who only asks for more has been listening all along.
    turns.news.publish(SINK, NEW, 9)
    late.set_mask(mask(SINK, STREAM))
    turns.spread()
    assert told(late) == [(SINK | NEW, 9)]
    late.set_mask(0)
    turns.news.publish(SINK, NEW, 10)
    late.set_mask(mask(SINK))
    turns.spread()
    assert told(late) == [] and turns.news.subscriptions.keys() == {1, 2}


def test_subscriber_between_two_queued_events_gets_the_second() -> None:
    turns = Turns()
    first, late = turns.subscribe(1, SINK), turns.subscribe(2)
    turns.news.publish(SINK, CHANGE, 7)
    late.set_mask(mask(SINK))
    turns.news.publish(SINK, CHANGE, 7)
    turns.spread()
    assert told(first) == told(late) == [(SINK | CHANGE, 7)]


def test_repeated_change_is_sent_once() -> None:
    turns = Turns()
    one = turns.subscribe(1, SINK)
    for _ in range(3):
        turns.news.publish(SINK, CHANGE, 7)
    turns.news.publish(SINK, CHANGE, 8)
    turns.spread()
    # A client that reads slowly is told once too, though the change was spread again.
    turns.news.publish(SINK, CHANGE, 7)
    turns.spread()
    assert told(one) == [(SINK | CHANGE, 7), (SINK | CHANGE, 8)]
    turns.news.publish(SINK, CHANGE, 7)
    turns.spread()
    assert told(one) == [(SINK | CHANGE, 7)]


def test_change_of_removed_object_is_not_sent_before_its_removal() -> None:
    turns = Turns()
    one = turns.subscribe(1, SINK)
    turns.news.publish(SINK, CHANGE, 7)
    turns.news.publish(SINK, CHANGE, 8)
    turns.news.publish(SINK, REMOVE, 7)
    turns.spread()
    assert told(one) == [(SINK | CHANGE, 8), (SINK | REMOVE, 7)]
    # The same where the change was spread already, and waits in the client's own queue.
    turns.news.publish(SINK, NEW, 9)
    turns.news.publish(SINK, CHANGE, 9)
    turns.spread()
    turns.news.publish(SINK, REMOVE, 9)
    turns.spread()
    assert told(one) == [(SINK | NEW, 9), (SINK | REMOVE, 9)]


def test_event_published_while_delivering_is_sent_in_same_pass() -> None:
    turns = Turns()
    first, second = turns.subscribe(1, SINK), turns.subscribe(2, SINK)
    turns.news.publish(SINK, NEW, 7)
    steps = turns._make()
    next(steps)
    turns.news.publish(SINK, NEW, 8)
    assert told(first) == [(SINK | NEW, 7)]
    for _ in steps:
        pass
    assert told(first) == [(SINK | NEW, 8)] and told(second) == [(SINK | NEW, 7), (SINK | NEW, 8)]


def test_client_may_leave_while_events_are_delivered() -> None:
    turns = Turns()
    first, second = turns.subscribe(1, SINK), turns.subscribe(2, SINK)
    turns.news.publish(SINK, NEW, 7)
    steps = turns._make()
    next(steps)
    second.set_mask(0)
    first.set_mask(0)
    for _ in steps:
        pass
    assert turns.news.subscriptions == {} and told(second) == []


def test_continued_state_sends_pending_events_and_only_new_ones() -> None:
    before = Turns()
    state = SubscriptionState()
    one = before.subscribe(1, SINK, state=state)
    before.news.publish(SINK, NEW, 7)
    before.spread()
    after = Turns()
    after.subscribe(2, SINK)
    for index in range(5):
        after.news.publish(SINK, NEW, index)
    again = after.subscribe(1, state=state)
    after.news.publish(SINK, NEW, 9)
    after.spread()
    assert told(again) == [(SINK | NEW, 7), (SINK | NEW, 9)] and told(one) == []


def test_client_that_can_not_be_woken_keeps_nothing_from_the_others() -> None:
    turns = Turns()
    bad = Subscription(turns.news, 1, lambda: 1 // 0, SubscriptionState())  # type: ignore[arg-type]
    bad.set_mask(mask(SINK))
    good = turns.subscribe(2, SINK)
    for number in (7, 8):
        turns.news.publish(SINK, NEW, number)
        for _ in turns.news.spreading():
            pass
        assert list(good.take()) == [(SINK | NEW, number)] and turns.woken
        turns.woken.clear()
    assert list(bad.take()) == [(SINK | NEW, 7), (SINK | NEW, 8)]
