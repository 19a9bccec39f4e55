"""Requests of a guest's programs are processed one share of time at a time, completely and in order."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import cast

import pytest

from millrace.budget import MIB
from millrace.graph.model import Stream
from millrace.graph.share import SLICE_NS
from millrace.io.client import ClientConnection
from millrace.io.runner import RECEIVE_BYTES
from millrace.io.turns import ChunkSize, Turns
from millrace.sim.rig import Rig
from millrace.units import HostNs, default_map
from millrace.wire.contract import Untimed
from millrace.wire.pulse.client import Notice, Reply
from millrace.wire.pulse.constants import Change, Command, Facility
from millrace.wire.pulse.tagstruct import Spec
from tests.turning import COST_NS, FakeTransport, Guest, deliver, run


def test_awaited_work_is_charged_but_does_not_wait_again() -> None:
    """A change of one guest has its turn among everybody's: a flood in that guest must not prolong it."""

    async def test() -> None:
        worked_ns = 0

        class Flood:
            first = False

            def work(self) -> bool:
                nonlocal worked_ns
                worked_ns += 2 * SLICE_NS
                return False

        async def change() -> str:
            nonlocal worked_ns, rounds
            for _ in range(4):
                worked_ns += SLICE_NS
                await asyncio.sleep(0)
            return "made"

        async def counted() -> None:
            nonlocal rounds
            while True:
                rounds += 1
                await asyncio.sleep(0)

        turns, rounds = Turns(lambda: worked_ns), 0
        for _ in range(10):
            turns.wait(Flood())
        counting = asyncio.create_task(counted())
        await asyncio.sleep(0)
        began, used = rounds, turns.used_ns
        assert await turns.charged(change()) == "made"
        assert rounds - began <= 6 and turns.used_ns - used >= 4 * SLICE_NS
        counting.cancel()

    run(test)


def test_portion_adapts_to_cost_of_its_bytes() -> None:
    chunk_size = ChunkSize(64, 4096)
    sizes = []
    for over in (*[False] * 8, *[True] * 8):
        chunk_size.processed(over)
        sizes.append(chunk_size.bytes)
    assert sizes == [128, 256, 512, 1024, 2048, 4096, 4096, 4096, 2048, 1024, 512, 256, 128, 64, 64, 64]


def test_machine_with_costly_bytes_exceeds_its_share_slightly() -> None:
    """Twenty bytes may cost as much as a new stream: a kilobyte of them is not processed at once."""

    class Costly(Untimed):
        partial_bytes = 0

        def receive(self, data: memoryview, now_ns: HostNs) -> None:
            guest.worked_ns += COST_NS * len(data) // 20

        def data_to_send(self) -> bytes:
            return b""

    async def test() -> None:
        runner = ClientConnection(Costly(), lambda now: None, lambda why: None, guest.turns)._runner
        transport = FakeTransport()
        runner.connection_made(cast(asyncio.Transport, transport))
        deliver(runner, bytes(4000))
        longest = 0
        while guest.turns.waiting:
            before = guest.worked_ns
            await asyncio.sleep(0)
            longest = max(longest, guest.worked_ns - before)
        assert guest.worked_ns == COST_NS * 4000 // 20 and transport.reading
        assert longest <= SLICE_NS + 128 * COST_NS // 20

    guest = Guest()
    run(test)


def test_flood_of_commands_is_served_one_share_at_a_time_in_order() -> None:
    async def test() -> None:
        guest = Guest()
        runner, transport, wire = guest.connect()
        tags = [wire.send_request(Command.GET_SERVER_INFO, {}) for _ in range(500)]
        data = wire.data_to_send()
        assert len(data) < RECEIVE_BYTES
        deliver(runner, data)
        assert guest.worked_ns <= SLICE_NS + COST_NS and not transport.reading
        assert await guest.idle(runner, transport) > 30
        wire.receive(bytes(transport.written), 0)
        replies = [event.tag for event in wire.events() if isinstance(event, Reply)]
        assert replies[-len(tags) :] == tags and guest.done == len(tags) + 1

    run(test)


def test_disconnected_client_is_removed_immediately() -> None:
    async def test() -> None:
        guest = Guest()
        runner, _, wire = guest.connect()
        deliver(runner, wire.data_to_send())
        assert len(guest.rig.door.clients) == 1
        runner.eof_received()
        # asyncio reports the loss in the next round; another client may ask before that.
        assert not guest.rig.door.clients
        runner.connection_lost(None)
        assert not guest.rig.door.clients

    run(test)


def test_connections_of_a_guest_share_one_share_and_are_read_in_small_pieces() -> None:
    async def test() -> None:
        guest = Guest()
        clients = [guest.connect() for _ in range(20)]
        kept = 0
        for runner, _, wire in clients:
            for _ in range(100):
                wire.send_request(Command.GET_SERVER_INFO, {})
            data = wire.data_to_send()[: len(runner.get_buffer(-1))]
            deliver(runner, data)
            kept = max(kept, len(runner.get_buffer(-1)))
        assert guest.worked_ns <= SLICE_NS + COST_NS
        assert len(clients[-1][0].get_buffer(-1)) < RECEIVE_BYTES
        await guest.idle(*clients[0][:2])
        assert guest.done == 20 * 101

    run(test)


def test_client_with_too_much_unread_is_disconnected() -> None:
    async def test() -> None:
        guest = Guest()
        budget = guest.rig.graph.budget
        for unread, cut in ((MIB // 2, False), (3 * MIB, True)):
            runner, transport, wire = guest.connect()
            budget.limit = budget.held + 2 * MIB
            transport.unread = unread
            deliver(runner, wire.data_to_send())
            assert transport.closed == cut
            runner.connection_lost(None)

    run(test)


def test_list_of_thousands_is_made_in_steps_and_later_requests_wait() -> None:
    rig = Rig()
    for number in range(300):
        rig.graph.add_stream(Stream(rig.graph.ids.take(), f"s{number}", default_map(2)), rig.sink)
    client = rig.client()
    steps = 0

    def over() -> bool:
        nonlocal steps
        steps += 1
        return True

    client.server.over = over
    client.wire.send_request(Command.GET_SINK_INPUT_INFO_LIST, {})
    client.wire.send_request(Command.GET_SERVER_INFO, {})
    data, at = client.wire.data_to_send(), 0
    while at < len(data) or client.server.unfinished:
        at += client.server.receive(data[at:], rig.now_ns)
        client.wire.receive(client.server.data_to_send(), rig.now_ns)
    listed, info = [event for event in client.wire.events() if isinstance(event, Reply)]
    assert len(listed.records) == 300 and "default_sink" in info.fields and steps >= 300


@pytest.mark.parametrize(
    ("command", "facility"),
    [(Command.GET_SINK_INFO_LIST, Facility.SINK), (Command.GET_SOURCE_INFO_LIST, Facility.SOURCE)],
)
def test_removal_during_listing_is_announced_after_the_list(command: Command, facility: Facility) -> None:
    rig = Rig()
    for name in ("one", "two", "three"):
        rig.graph.add_sink(name, name)
    client = rig.client()
    client.ask(Command.SUBSCRIBE, mask=0x2FF)
    client.server.over = lambda: True
    client.wire.send_request(command, {})
    data = client.wire.data_to_send()
    at, going = 0, [sink for sink in rig.graph.sinks.values() if sink is not rig.sink]
    while at < len(data) or client.server.unfinished:
        at += client.server.receive(data[at:], rig.now_ns)
        if client.server.unfinished and going:
            rig.graph.remove_sink(going.pop(0))
        client.wire.receive(client.server.data_to_send(), rig.now_ns)
    assert not going
    listed: set[int] = set()
    for event in client.wire.events():
        if isinstance(event, Reply):
            listed |= {record["index"] for record in event.records}
        elif isinstance(event, Notice) and event.fields["event"] == facility | Change.REMOVE:
            listed.discard(event.fields["index"])
    assert listed == {0} and set(rig.graph.sinks) == {rig.sink.id}


def test_closed_connection_releases_its_streams_in_steps() -> None:
    rig = Rig()
    client = rig.client()
    for _ in range(40):
        client.play(Spec(5, 2, 48_000), (1, 2))
    left = []
    client.server.over = lambda: True
    while not client.server.closed():
        left.append(len(rig.graph.streams))
    assert left == list(range(39, 0, -1)) and not rig.graph.streams and not rig.door.clients


def test_failing_worker_does_not_block_those_behind_it() -> None:
    class Once:
        first = False

        def __init__(self, error: Exception | None) -> None:
            self.error, self.worked = error, False

        def work(self) -> bool:
            self.worked = True
            if self.error is not None:
                raise self.error
            return True

    async def main() -> None:
        turns, behind = Turns(lambda: 0), Once(None)
        turns.wait(Once(ValueError("a bug")))
        turns.wait(behind)
        await asyncio.sleep(0)
        assert behind.worked and not turns.waiting

    asyncio.run(main())


def test_worker_behind_a_task_runs_in_next_round() -> None:
    class Once:
        first = False
        worked = False

        def work(self) -> bool:
            self.worked = True
            return True

    async def main() -> None:
        worked_ns = 0
        turns, behind, loop = Turns(lambda: worked_ns), Once(), asyncio.get_running_loop()
        # Both are queued between the work that uses up the share and the next round.
        task = loop.create_task(turns.turn())
        loop.call_soon(turns.wait, behind)
        with turns:
            worked_ns += 2 * SLICE_NS
        for _ in range(4):
            await asyncio.sleep(0)
        assert task.done() and behind.worked and not turns.waiting

    asyncio.run(main())


def test_streams_of_a_modules_sink_are_moved_in_steps() -> None:
    rig = Rig()
    client = rig.client()
    module = client.ask(Command.LOAD_MODULE, name="module-null-sink", argument="sink_name=extra")["index"]
    extra = next(sink for sink in rig.graph.sinks.values() if sink.name == "extra")
    nodes = [Stream(rig.graph.ids.take(), "s", default_map(2)) for _ in range(50)]
    for node in nodes:
        rig.graph.add_stream(node, extra)
    moved = []

    def over() -> bool:
        moved.append(sum(node.sink is not extra for node in nodes))
        return True

    client.server.over = over
    client.wire.send_request(Command.UNLOAD_MODULE, {"index": module})
    data, at = client.wire.data_to_send(), 0
    while at < len(data) or client.server.unfinished:
        at += client.server.receive(data[at:], rig.now_ns)
    assert max(after - before for before, after in pairwise(moved)) == 1
    assert extra.id not in rig.graph.sinks and all(node.sink is rig.sink for node in nodes)
