"""Turns among many: messages, calls and notices of one guest, and who comes first."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest
from aiohttp import WSMessage, WSMsgType, web

from millrace.cli.logs import SAME_MAX, SAME_NS, Rated
from millrace.control.registry import Registry, json_text
from millrace.graph.share import LIGHT_NS, NO_PROGRESS_NS, SHORT_NS, SLICE_NS, Lag, Share
from millrace.graph.steps import Steps
from millrace.io.client import ClientConnection
from millrace.io.turns import Turns
from millrace.observe.incidents import INCIDENTS_PER_KIND_MAX, Incidents
from millrace.rights.model import OWNER
from millrace.server.http.events import WebSocket, messages
from millrace.sim.rig import Rig
from millrace.units import NS_PER_MS, NS_PER_S, HostNs
from millrace.wire.contract import Untimed
from millrace.wire.pulse.client import Failed, playback_fields
from millrace.wire.pulse.constants import Command
from millrace.wire.pulse.tagstruct import Spec
from tests.turning import COST_NS, FakeTransport, Guest, deliver, run


def test_calls_are_charged_to_their_caller_without_waiting_time() -> None:
    async def test() -> None:
        worked_ns = 0
        turns = Turns(lambda: worked_ns)
        order: list[str] = []

        async def call(name: str) -> None:
            nonlocal worked_ns
            for _ in range(3):
                worked_ns += SLICE_NS
                order.append(name)
                await asyncio.sleep(0)

        async def other() -> None:
            for _ in range(6):
                order.append("-")
                await asyncio.sleep(0)

        await asyncio.gather(turns.do(call("a")), turns.do(call("b")), other())
        # Each round has one step of either, however many there are.
        assert all("-" in order[n : n + 3] for n in range(len(order) - 2)), "".join(order)
        assert turns.used_ns == 6 * SLICE_NS

    run(test)


def test_watchers_are_notified_in_slices_and_in_turn() -> None:
    class Watcher:
        principal = OWNER
        kinds = None
        encode = staticmethod(json_text)

        def __init__(self) -> None:
            self.told = 0

        def send_objects(self, made: bytes) -> None:
            self.told += made.count(b'"kind"')

        def is_behind(self) -> bool:
            return False

        def give_up(self) -> None:
            """See `Watcher`."""

    async def test() -> None:
        registry, turns = Registry(), Turns()
        watchers = [Watcher() for _ in range(10)]
        for watcher in watchers:
            registry.watch(watcher, turns)
        for number in range(1000):
            registry.put(number, "stream", "a", lambda number=number: {"id": number})  # type: ignore[misc]
        await asyncio.sleep(0)
        while any(watcher.told < 1000 for watcher in watchers):
            await asyncio.sleep(0)
        registry.drop_guest("a")
        assert len(registry) == 0 and all(watcher.told >= 1000 for watcher in watchers)

    run(test)


def test_incidents_of_one_guest_displace_no_others() -> None:
    numbers = iter(range(100_000))
    ring = Incidents(lambda: next(numbers), lambda: 0, lambda change, incident: None)
    ring.record("client", "wrote late", 0, "neighbour", "stream/1")
    ring.record("cycle", "cut short", 0, "worst")
    for number in range(5000):
        ring.record("client", "broke the protocol", number, "worst", f"client/{number}")
    kept = [incident.guest for incident in ring]
    assert kept.count("neighbour") == 1 and kept.count("worst") == INCIDENTS_PER_KIND_MAX + 1
    assert ring.totals()["worst", "client", "broke the protocol"] == 5000


def test_flood_of_one_kind_of_message_does_not_flood_the_log() -> None:
    now, passed = 100 * NS_PER_S, []
    rated = Rated(lambda: now)
    for number in range(1000):
        record = logging.makeLogRecord({"name": "x", "levelno": 30, "msg": "ended: %s", "args": (number,)})
        now += NS_PER_MS
        passed.append(rated.filter(record))
    assert sum(passed) == SAME_MAX
    other = logging.makeLogRecord({"name": "x", "levelno": 30, "msg": "something else", "created": 101.0})
    assert rated.filter(other)
    later = logging.makeLogRecord({"name": "x", "levelno": 30, "msg": "ended: %s", "args": (7,)})
    now += SAME_NS
    assert rated.filter(later) and later.getMessage() == f"ended: 7 ({1000 - SAME_MAX} more like this were left out)"


def test_log_limit_is_per_guest_and_principal_and_survives_clock_changes() -> None:
    now = 100 * NS_PER_S
    rated = Rated(lambda: now)

    def passes(form: str, first: str, created: float = 100.0) -> bool:
        record = logging.makeLogRecord({"name": "x", "levelno": 30, "msg": form, "args": (first, "why")})
        record.created = created
        return rated.filter(record)

    for form, alice, bob in (
        ("%s: connection ended: %s", "guest alice, native", "guest bob, native"),
        ("guest %s: %s", "alice", "bob"),
        ("principal %s: %s", "token/1", "token/2"),
        ("%s: connection ended: %s", "principal token/1, web", "principal token/2, web"),
    ):
        assert sum(passes(form, alice) for _ in range(1000)) == SAME_MAX
        assert passes(form, bob) and not passes(form, alice)
    now += 11 * NS_PER_S
    assert passes("guest %s: %s", "alice", created=-3600.0)
    # What is not the daemon's own label gets no allowance of its own.
    assert sum(passes("%s: %s", f"guest{n}, x") for n in range(1000)) == SAME_MAX


def test_ended_and_refused_streams_leave_nothing_to_collector() -> None:
    rig = Rig()
    rig.client().play(Spec(3, 2, 44_100), (1, 2), bytes(10_000))
    rig.run(0.2)
    gc.collect()
    gc.disable()
    try:
        client = rig.client()
        fields = playback_fields(Spec(3, 2, 44_100), (1, 2))
        for _ in range(300):
            client.send(Command.CREATE_PLAYBACK_STREAM, **fields)
        assert any(isinstance(reply, Failed) for reply in client.replies.values())
        rig.run(0.2)
        client.close()
        rig.run(0.5)
        found = gc.collect()
    finally:
        gc.enable()
    # The rig's own client, and what it refers to.
    assert found < 100


class Flooded:
    """A WebSocket on which so many messages have arrived already."""

    def __init__(self, guest: Guest, count: int, kind: WSMsgType) -> None:
        self._guest, self._left, self._kind = guest, count, kind
        self.answered = 0

    async def receive(self) -> WSMessage:
        """See aiohttp: it does not yield while there are messages."""
        self._guest.worked_ns += COST_NS
        self._left -= 1
        return WSMessage(self._kind if self._left >= 0 else WSMsgType.CLOSING, b"", None)

    async def pong(self, data: bytes) -> None:
        """See aiohttp."""
        self.answered += 1


@pytest.mark.parametrize("kind", [WSMsgType.TEXT, WSMsgType.PING, WSMsgType.PONG])
def test_messages_waiting_on_many_websockets_are_read_one_share_at_a_time(kind: WSMsgType) -> None:
    async def test() -> None:
        guest = Guest()
        websockets = [Flooded(guest, 100, kind) for _ in range(10)]

        async def read(websocket: Flooded) -> int:
            return len([message async for message in messages(cast(web.WebSocketResponse, websocket), guest.turns)])

        tasks = [asyncio.create_task(guest.turns.do(read(websocket))) for websocket in websockets]
        while not all(task.done() for task in tasks):
            before = guest.worked_ns
            await asyncio.sleep(0)
            assert guest.worked_ns - before <= SLICE_NS + len(websockets) * COST_NS
        assert {task.result() for task in tasks} == {100 if kind is WSMsgType.TEXT else 0}
        assert {websocket.answered for websocket in websockets} == {100 if kind is WSMsgType.PING else 0}

    run(test)


@pytest.mark.parametrize("charged", [True, False])
def test_messages_left_on_closed_websocket_are_read_one_share_at_a_time(charged: bool) -> None:
    class Reader:
        def __init__(self, guest: Guest) -> None:
            self._guest, self.left = guest, 200

        async def read(self) -> WSMessage:
            self._guest.worked_ns += COST_NS
            self.left -= 1
            return WSMessage(WSMsgType.TEXT if self.left else WSMsgType.CLOSE, "" if self.left else 1000, None)

    async def test() -> None:
        guest = Guest()
        websockets = []
        for _ in range(3):
            websocket = WebSocket(guest.turns)
            websocket._reader = cast(Any, Reader(guest))
            websocket._writer, websocket._payload_writer = AsyncMock(), AsyncMock()
            websockets.append(websocket)
        # aiohttp closes some by itself, outside of the guest's turns.
        tasks = [
            asyncio.create_task(guest.turns.do(websocket.close()) if charged else websocket.close())
            for websocket in websockets
        ]
        while not all(task.done() for task in tasks):
            before = guest.worked_ns
            await asyncio.sleep(0)
            assert guest.worked_ns - before <= SLICE_NS + len(websockets) * COST_NS
        assert [websocket.close_code for websocket in websockets] == [1000] * 3 and guest.worked_ns == 3 * 200 * COST_NS

    run(test)


def test_share_used_for_the_most_part_is_restored_in_next_round() -> None:
    async def test() -> None:
        guest = Guest()
        for _ in range(5):
            with guest.turns:
                guest.worked_ns += SLICE_NS * 3 // 4
            await asyncio.sleep(0)
            assert guest.turns.left_ns == SLICE_NS

    run(test)


def test_short_work_is_charged_wall_time_without_reading_cpu_clock() -> None:
    worked_ns, wall_ns, reads = 0, 0, 0

    def clock() -> HostNs:
        nonlocal reads
        reads += 1
        return worked_ns

    share = Share(clock, lambda: wall_ns)
    share.begin(0, 0)
    wall_ns = SHORT_NS
    assert share.ended(wall_ns) == SHORT_NS and reads == 0
    share.begin(0, 0)
    worked_ns, wall_ns = SHORT_NS // 2, wall_ns + SHORT_NS + 1
    assert share.ended(wall_ns) == SHORT_NS // 2 and reads == 1, "it did not run all that time"


def test_backlog_is_dropped_only_for_guest_using_its_full_share() -> None:
    worked_ns = 0
    share = Share(lambda: worked_ns)
    share.used_ns = share.recent_ns = 2 * LIGHT_NS
    for heavy in (False, True):
        lag = Lag(share)
        share.heavy = heavy
        assert not lag.hopeless(worked_ns, 1000)
        worked_ns += NO_PROGRESS_NS
        assert lag.hopeless(worked_ns, 1000) == heavy


def test_cpu_time_is_queried_only_after_a_slice_of_wall_time() -> None:
    asked: list[int] = []
    wall_ns = 0

    def worked_ns() -> int:
        asked.append(1)
        return 0

    share = Share(worked_ns, lambda: wall_ns)
    share.enter()
    asked.clear()
    wall_ns = SLICE_NS - 1
    assert not share.over() and not asked
    wall_ns = SLICE_NS
    assert not share.over() and asked, "it waited for the processor"


def test_tasks_woken_together_run_one_after_another() -> None:
    async def test() -> None:
        guest = Guest()
        gate = asyncio.Event()

        async def costly() -> None:
            await gate.wait()
            guest.worked_ns += 2 * SLICE_NS

        tasks = [asyncio.create_task(guest.turns.do(costly())) for _ in range(10)]
        await asyncio.sleep(0)
        gate.set()
        while not all(task.done() for task in tasks):
            before = guest.worked_ns
            await asyncio.sleep(0)
            assert guest.worked_ns - before <= 2 * SLICE_NS
        assert guest.worked_ns == 20 * SLICE_NS

    run(test)


def test_turns_nobody_waits_for_take_no_rounds() -> None:
    async def test() -> None:
        guest = Guest()
        guest.turns.left_ns = 0
        *gone, last = [asyncio.create_task(guest.turns.turn()) for _ in range(1000)]
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert last.done()

    run(test)


def test_waiting_task_can_be_cancelled() -> None:
    async def test() -> None:
        guest = Guest()
        gate = asyncio.Event()
        ended: list[str] = []

        async def waits() -> None:
            try:
                await gate.wait()
                ended.append("went on")
            finally:
                ended.append("ended")

        task = asyncio.create_task(guest.turns.do(waits()))
        await asyncio.sleep(0)
        gate.set()
        guest.turns.left_ns = 0
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled() and ended == ["ended"]

    run(test)


class Endless:
    """A worker that always has more to do, and takes its whole share for it."""

    first = False

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work

    def work(self) -> bool:
        """See `Worker`."""
        self._work()
        return False


def test_task_gets_its_turn_beside_worker_using_its_whole_share() -> None:
    async def test() -> None:
        guest = Guest()

        def work() -> None:
            guest.worked_ns += SLICE_NS

        guest.turns.left_ns = 0
        task = asyncio.create_task(guest.turns.turn())
        await asyncio.sleep(0)
        guest.turns.wait(Endless(work))
        for _ in range(8):
            await asyncio.sleep(0)
        assert task.done(), "the rest of the round in which it wakes must be the task's"

    run(test)


def test_first_in_queue_works_before_those_already_waiting() -> None:
    async def test() -> None:
        order: list[str] = []
        turns = Turns(lambda: 0)

        def steps(name: str) -> Callable[[], Iterator[None]]:
            def make() -> Iterator[None]:
                order.append(name)
                yield

            return make

        for name in ("a", "first", "b"):
            worker = Steps(steps(name), turns.over, first=name == "first")
            turns.wait(worker)
            turns.wait(worker)  # It waits already.
        await asyncio.sleep(0)
        assert order == ["first", "a", "b"] and not turns.waiting

    run(test)


def test_bytes_arriving_while_earlier_ones_wait_are_processed_after_them() -> None:
    """The event loop may deliver what it had read before reading was paused."""
    taken = bytearray()

    class Sips(ClientConnection):
        def receive(self, data: memoryview, now_ns: HostNs) -> int:
            taken.extend(data[:2])
            return min(2, len(data))

    class Quiet(Untimed):
        partial_bytes = 0

        def receive(self, data: memoryview, now_ns: HostNs) -> None: ...

        def data_to_send(self) -> bytes:
            return b""

    async def test() -> None:
        turns = Turns(lambda: 0)
        runner = Sips(Quiet(), lambda now: None, lambda why: None, turns)._runner
        transport = FakeTransport()
        runner.connection_made(cast(asyncio.Transport, transport))
        deliver(runner, b"abcd")
        assert taken == b"ab" and not transport.reading
        deliver(runner, b"efg")
        while turns.waiting:
            await asyncio.sleep(0)
        assert taken == b"abcdefg" and transport.reading

    run(test)
