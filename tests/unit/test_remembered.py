"""What a guest's devices get is kept before it is acknowledged, also where more is asked for than may wait."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path

import pytest

from millrace.control.remembered import DEVICES_WAITING_MAX, RememberedDevices
from millrace.control.store import Store
from millrace.control.writer import StoreWriter
from millrace.doors.pulse.devices import Devices


@pytest.mark.parametrize("while_written", [False, True])
def test_of_too_many_levels_at_a_time_none_is_acknowledged_and_lost(tmp_path: Path, while_written: bool) -> None:
    async def main() -> None:
        keeper, table = StoreWriter(Store(tmp_path / "state.db")), Devices()
        RememberedDevices(keeper, "alice", table)
        key, heard = ("sink", "x"), dict[int, bool]()
        values = [((n / 4096,), False) for n in range(2000)]

        def ask(number: int) -> None:
            table.set(key, values[number], lambda kept: heard.update({number: kept}))

        slow = threading.Event()
        if while_written:
            ask(0)
            keeper._thread.submit(slow.wait)
            await asyncio.sleep(0)
        async with keeper.turn if not while_written else contextlib.nullcontext():
            for number in range(1, DEVICES_WAITING_MAX + 3):
                ask(number)
            await asyncio.sleep(0)
        slow.set()
        async with asyncio.timeout(10):
            while len(heard) < DEVICES_WAITING_MAX + 2 + while_written:
                await asyncio.sleep(0.01)
        last = max((number for number, kept in heard.items() if kept), default=None)
        on_disk = keeper.store.guest("alice").levels
        assert heard[DEVICES_WAITING_MAX] is False or last == DEVICES_WAITING_MAX + 2
        assert last is not None and on_disk == {key: values[last]} == table.now == table.kept
        keeper.close()

    asyncio.run(main())
