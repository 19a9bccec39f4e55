"""Settings of a guest's streams and devices are saved before they are acknowledged, at any rate of requests."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from functools import partial
from pathlib import Path

import pytest

from millrace.control.remembered import DEVICES_WAITING_MAX, RULES_WAITING_MAX, Memory
from millrace.control.store import Store
from millrace.control.writer import StoreWriter
from millrace.errors import ConfigError
from millrace.remembered.devices import Devices, Keep, Key, Value
from millrace.remembered.streams import Rule, Rules, RuleUpdate


class Table(Devices):
    """The settings of devices that were undone."""

    def __init__(self, keep: Keep | None = None) -> None:
        super().__init__(keep)
        self.undone: list[Key] = []

    def undo(self, key: Key) -> None:
        self.undone.append(key)


async def loaded(writer: StoreWriter) -> Rules:
    """A guest's rules, as they are on disk."""
    memory = Memory(writer, "alice")
    rules = Rules(keep=memory.keep_rules)
    await memory.streams.load()
    return rules


@pytest.mark.parametrize("while_written", [False, True])
def test_levels_beyond_limit_are_not_acknowledged_and_lost(tmp_path: Path, while_written: bool) -> None:
    async def main() -> None:
        writer = StoreWriter(Store(tmp_path / "state.db"))
        table = Devices(Memory(writer, "alice").keep_devices)
        key, heard = ("sink", "x"), dict[int, bool]()
        values = [((n / 4096,), False) for n in range(2000)]

        def ask(number: int) -> None:
            table.set(key, values[number], lambda kept: heard.update({number: kept}))

        slow = threading.Event()
        if while_written:
            ask(0)
            writer._thread.submit(slow.wait)
            await asyncio.sleep(0)
        async with writer.turn if not while_written else contextlib.nullcontext():
            for number in range(1, DEVICES_WAITING_MAX + 3):
                ask(number)
            await asyncio.sleep(0)
        slow.set()
        async with asyncio.timeout(10):
            while len(heard) < DEVICES_WAITING_MAX + 2 + while_written:
                await asyncio.sleep(0.01)
        last = max((number for number, kept in heard.items() if kept), default=None)
        on_disk = writer.store.guest("alice").levels
        assert heard[DEVICES_WAITING_MAX] is False or last == DEVICES_WAITING_MAX + 2
        assert last is not None and on_disk == {key: values[last]} == table.now == table.kept
        writer.close()

    asyncio.run(main())


KEY: Key = ("sink", "x")
QUIET, LOUD = ((0.25,), False), ((1.0,), False)


@pytest.mark.parametrize(
    ("kept", "now", "after"),
    [
        ({KEY: QUIET}, {KEY: LOUD}, {KEY: QUIET}),
        ({}, {KEY: LOUD}, {}),
        # Changed again meanwhile, or removed: the next change decides.
        ({KEY: QUIET}, {KEY: ((0.5,), True)}, {KEY: ((0.5,), True)}),
        ({KEY: QUIET}, {}, {}),
    ],
)
def test_unsaved_level_is_undone_unless_changed_again(
    kept: dict[Key, Value], now: dict[Key, Value], after: dict[Key, Value]
) -> None:
    table = Table()
    table.kept, table.now = dict(kept), dict(now)
    table.was_not_kept({KEY: LOUD})
    assert table.now == after and table.kept == kept
    assert table.undone == ([KEY] if now != after else [])


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("while_written", [False, True])
def test_level_in_force_is_level_on_disk_after_overload(tmp_path: Path, while_written: bool, known: bool) -> None:
    async def main() -> None:
        writer, heard = StoreWriter(Store(tmp_path / "state.db")), list[bool]()
        table = Table(Memory(writer, "alice").keep_devices)
        before: dict[Key, Value] = {KEY: QUIET} if known else {}
        table.load(before)
        slow = threading.Event()
        if while_written:
            table.set(KEY, LOUD, heard.append)
            writer._thread.submit(slow.wait)
            await asyncio.sleep(0)
        for number in range(DEVICES_WAITING_MAX + 1):
            table.set(KEY, ((number / 4096,), False), heard.append)
        assert table.now == before and table.undone == [KEY] and heard == [False] * (DEVICES_WAITING_MAX + 1)
        slow.set()
        while while_written and not heard[-1]:
            await asyncio.sleep(0.001)
        # The level being written meanwhile is saved, and so in force.
        assert table.now == table.kept == ({KEY: LOUD} if while_written else before)
        assert writer.store.guest("alice").levels == ({KEY: LOUD} if while_written else {})
        assert table.undone == [KEY] * (1 + while_written)
        writer.close()

    asyncio.run(asyncio.wait_for(main(), 10))


class Refusing(Store):
    """A store on a disk that is full."""

    def keep_devices(self, *values: object) -> None:
        """See `Store`."""
        raise ConfigError("not saved")

    def remember_all(self, *values: object) -> None:
        """See `Store`."""
        raise ConfigError("not saved")


@pytest.mark.parametrize(("kind", "kept"), [(Store, True), (Refusing, False)])
def test_level_that_disk_refuses_is_undone(kind: type[Store], kept: bool, tmp_path: Path) -> None:
    async def main() -> None:
        writer, heard = StoreWriter(kind(tmp_path / "state.db")), list[bool]()
        table = Table(Memory(writer, "alice").keep_devices)
        table.load({KEY: QUIET})
        table.set(KEY, LOUD, heard.append)
        assert table.now == {KEY: LOUD}
        while not heard:
            await asyncio.sleep(0.001)
        assert heard == [kept] and table.undone == [KEY] * (not kept)
        assert table.now == table.kept == {KEY: LOUD if kept else QUIET}
        writer.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_removed_guest_saves_nothing_and_waiters_are_told(tmp_path: Path) -> None:
    async def main() -> None:
        writer, heard = StoreWriter(Store(tmp_path / "state.db")), list[bool]()
        memory = Memory(writer, "alice")
        Devices(memory.keep_devices).set(KEY, LOUD, heard.append)
        memory.end()
        while not heard:
            await asyncio.sleep(0.001)
        assert heard == [False] and writer.store.guest("alice").levels == {}
        writer.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_shutdown_refuses_pending_updates(tmp_path: Path) -> None:
    async def main() -> None:
        writer, heard, troubles = StoreWriter(Store(tmp_path / "state.db")), list[bool](), list[object]()
        asyncio.get_running_loop().set_exception_handler(lambda loop, what: troubles.append(what))
        table, rules = Devices(Memory(writer, "alice").keep_devices), await loaded(writer)
        await writer.end()
        table.set(KEY, LOUD, heard.append)
        rules.submit(RuleUpdate(lambda: {"sink-input-by-media-name:x": Rule(mute=True)}, heard.append))
        while len(heard) < 2:
            await asyncio.sleep(0.001)
        gc.collect()
        assert heard == [False, False] and not troubles
        assert writer.store.guest("alice").levels == {} and not rules.kept and not writer.store.recall("")
        writer.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_rules_are_written_in_order_and_pending_ones_limited(tmp_path: Path) -> None:
    async def main() -> None:
        writer = StoreWriter(Store(tmp_path / "state.db"))
        rules = await loaded(writer)
        seen, heard = list[int](), dict[int, bool]()

        def change(number: int) -> dict[str, Rule | None]:
            seen.append(len(rules.kept))
            return {f"sink-input-by-media-name:{number}": Rule(mute=True)}

        for number in range(RULES_WAITING_MAX + 1):
            done = partial(heard.__setitem__, number)
            rules.submit(RuleUpdate(partial(change, number), done))
        assert heard == {RULES_WAITING_MAX: False}
        while len(heard) <= RULES_WAITING_MAX:
            await asyncio.sleep(0.001)
        assert seen == list(range(RULES_WAITING_MAX)) and all(heard[number] for number in seen)
        again = await loaded(writer)
        assert again.kept == rules.kept and len(again.kept) == RULES_WAITING_MAX
        writer.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_rule_that_disk_refuses_does_not_apply(tmp_path: Path) -> None:
    async def main() -> None:
        writer, heard = StoreWriter(Refusing(tmp_path / "state.db")), list[bool]()
        rules = await loaded(writer)
        rules.submit(RuleUpdate(lambda: {"sink-input-by-media-name:x": Rule(mute=True)}, heard.append))
        rules.submit(RuleUpdate(dict, heard.append))
        while len(heard) < 2:
            await asyncio.sleep(0.001)
        # A request that changes nothing needs no write.
        assert heard == [False, True] and rules.kept == {}
        writer.close()

    asyncio.run(asyncio.wait_for(main(), 10))
