"""Changes to a guest with thousands of streams, and lists of them, are made in steps that let others run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from millrace.daemon.app import Daemon
from millrace.graph.model import Stream
from millrace.io import turns
from millrace.server.http.answers import ITEMS_AT_ONCE, as_json, as_msgpack
from millrace.units import default_map
from tests.scenario.test_kept import ask, running


async def rounds_of(work: Coroutine[Any, Any, Any]) -> tuple[Any, int]:
    """The result of an operation, and how many rounds the loop made in the meantime."""
    task, rounds = asyncio.ensure_future(work), 0
    while not task.done():
        await asyncio.sleep(0)
        rounds += 1
    return task.result(), rounds


def test_removing_sink_moves_streams_in_steps_including_new_ones(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        await ask(daemon, "sink.add", guest="alice", name="extra")
        graph = daemon.worker.guests["alice"].graph
        first, extra = graph.sinks.values()
        graph.set_default(extra)
        for _ in range(500):
            graph.add_stream(Stream(graph.ids.take(), "s", default_map(2)), extra)
        moved = []

        async def watch() -> None:
            while extra.id in graph.sinks:
                moved.append(sum(stream.sink is first for stream in graph.streams.values()))
                assert graph.default is not None
                if moved[-1] and len(graph.streams) < 510:
                    graph.add_stream(Stream(graph.ids.take(), "late", default_map(2)), graph.default)
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        await ask(daemon, "sink.remove", guest="alice", sink="extra")
        await watching
        assert {stream.sink for stream in graph.streams.values()} == {first} and len(graph.streams) == 510
        assert max(after - before for before, after in pairwise(moved)) <= turns.STEPS_PER_PAUSE + 2

    running(tmp_path, test)


def test_long_answer_is_serialized_in_steps_and_unchanged() -> None:
    streams = [{"id": f"stream/{n}", "name": 'a "b", [c]', "volume": [1, 2.5, None], "mute": False} for n in range(520)]
    value = {
        "guests": [{"name": "a", "streams": streams, "sinks": [], "memory": {"for": {}}}],
        "text": "\u202e",
        "n": 7,
    }

    async def main() -> None:
        made, rounds = await rounds_of(as_json(value))
        assert made == json.dumps(value) and rounds > 520 / ITEMS_AT_ONCE

    asyncio.run(main())


def test_answer_of_few_large_items_is_serialized_in_steps() -> None:
    value = {"streams": [{"name": "n" * 60_000} for _ in range(20)], "sinks": [{"name": "n" * 60_000}] * 50}

    async def main() -> None:
        made, rounds = await rounds_of(as_json(value))
        assert made == json.dumps(value) and rounds > 35
        few = {"streams": value["streams"][:15]}
        packed, rounds = await rounds_of(as_msgpack(few))
        assert msgspec.msgpack.decode(packed) == few and rounds > 7

    asyncio.run(main())


def test_refused_caller_is_answered_when_strangers_share_allows(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        url = f"http://{daemon.serving.address}/api/v1/state"
        async with aiohttp.ClientSession() as session:

            async def ask_as(token: str) -> int:
                async with session.get(url, headers={"Authorization": f"Bearer {token}"}) as answer:
                    return answer.status

            strangers = daemon.worker.principal_turns.strangers
            assert await ask_as("wrong") == 401 and strangers.used_ns > 0
            turn = strangers.turn
            left = asyncio.Event()
            strangers.turn = left.wait  # type: ignore[assignment, method-assign]
            asking = asyncio.create_task(ask_as("wrong"))
            assert await ask_as((daemon.config.runtime / "key").read_text().strip()) == 200
            assert not (await asyncio.wait({asking}, timeout=0.2))[0]
            left.set()
            assert await asking == 401
            strangers.turn = turn  # type: ignore[method-assign]

    running(tmp_path, test)
