"""When the cyclic garbage collector runs, and on which generations; its effect is tested in test_daemon_parts."""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Callable
from typing import Any

import pytest

from millrace.budget import MIB
from millrace.daemon import collector
from millrace.daemon.collector import EVERY_S, FORCED_EVERY_S, MIDDLE, NEVER, QUIET_S, SHORT_OBJECTS, YOUNG
from millrace.io.load import resident_bytes


class Collector:
    """Replaces the module `gc`, and records the calls."""

    def __init__(self) -> None:
        self.did: list[Any] = []
        self.callbacks: list[Callable[[str, dict[str, Any]], None]] = []

    def set_threshold(self, *thresholds: int) -> None:
        self.did.append(thresholds)

    def collect(self) -> int:
        self.did.append("collect")
        return 0

    def __getattr__(self, name: str) -> Callable[[], None]:
        return lambda: self.did.append(name)


@pytest.fixture
def gc(monkeypatch: pytest.MonkeyPatch) -> Collector:
    made = Collector()
    monkeypatch.setattr(collector, "gc", made)
    return made


def test_only_young_generation_is_collected_from_start(gc: Collector) -> None:
    collector.calm()
    assert gc.did == ["collect", "freeze", (YOUNG, MIDDLE, NEVER), "enable"] and len(gc.callbacks) == 1
    gc.did.clear()
    for phase, generation in (("start", 0), ("stop", 0), ("start", 1)):
        gc.callbacks[0](phase, {"generation": generation})
    assert gc.did == [], "the youngest generation is not frozen: most of it is freed by itself"
    gc.callbacks[0]("stop", {"generation": 1})
    gc.callbacks[0]("stop", {"generation": 2})
    assert gc.did == ["freeze", "freeze"]


def test_full_collection_unfreezes_and_freezes_again(gc: Collector) -> None:
    collector.collect()
    assert gc.did == ["unfreeze", "collect", "freeze"]


def collections(
    monkeypatch: pytest.MonkeyPatch, quiet: Callable[[float], bool], hours: float,
    resident: Callable[[float], int] = lambda now: 0, objects: int = SHORT_OBJECTS,
) -> list[float]:  # fmt: skip
    """The times of full collections, in seconds, on a simulated clock."""
    now, at = 0.0, list[float]()

    async def sleep(seconds: float) -> None:
        nonlocal now
        assert seconds == EVERY_S
        now += seconds
        if now > hours * 3600:
            raise asyncio.CancelledError

    monkeypatch.setattr(collector.asyncio, "sleep", sleep)
    monkeypatch.setattr(collector.gc, "get_freeze_count", lambda: objects)
    monkeypatch.setattr(collector, "collect", lambda: at.append(now))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(collector.keep_calm(lambda: quiet(now), lambda: resident(now)))
    return at


def playing(now: float) -> bool:
    return False


def test_full_collections_run_periodically_while_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    assert collections(monkeypatch, lambda now: True, 0.5) == [QUIET_S * n for n in range(1, 7)]
    # Sound for an hour: collect as soon as it ends, and not before.
    assert collections(monkeypatch, lambda now: now > 3600, 1.2)[:2] == [3660, 3660 + QUIET_S]


def test_short_full_collection_runs_daily_even_while_playing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert collections(monkeypatch, playing, 49) == [FORCED_EVERY_S, 2 * FORCED_EVERY_S]
    assert collections(monkeypatch, playing, 49, objects=SHORT_OBJECTS + 1) == [], "it would be heard"


def test_full_collection_runs_when_the_host_would_miss_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two mebibytes a second from 100 MiB on: beyond 1,324, and, with 1,420 then, beyond 5,284."""
    at = collections(monkeypatch, playing, 1, lambda now: int(100 + 2 * now) * MIB)
    assert at == [660, 2640]


def test_guest_that_takes_and_gives_back_its_memory_has_no_collection_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its budget is 256 MiB, and a collection would be heard in all other guests."""
    assert collections(monkeypatch, playing, 10, lambda now: (80 + 320 * (int(now) // 600 % 2)) * MIB) == []


def test_resident_memory_is_what_the_system_says() -> None:
    # Memory of its own: what malloc gives may be resident already.
    with mmap.mmap(-1, 64 * MIB) as large:
        before = resident_bytes()
        for page in range(0, len(large), mmap.PAGESIZE):
            large[page] = 1
        assert 60 * MIB < resident_bytes() - before < 80 * MIB
