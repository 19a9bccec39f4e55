"""Keeps what a guest's streams, sinks and sources get: each change is on disk before it is answered."""

from __future__ import annotations

import asyncio
from collections import deque

from millrace.control.writer import StoreWriter
from millrace.doors.pulse import devices
from millrace.doors.pulse.devices import DEFAULT, Devices, Value
from millrace.doors.pulse.restore import RULES_MAX, Changes, Rules, Work, parsed, written
from millrace.errors import ConfigError
from millrace.guest.config import stream_table

WAITING_MAX = 16
DEVICES_WAITING_MAX = 1024


class Remembered:
    """One guest's table on disk."""

    def __init__(self, keeper: StoreWriter, guest: str, rules: Rules) -> None:
        self._keeper, self._prefix, self._rules = keeper, stream_table(guest), rules
        self._waiting: deque[Work] = deque()
        self._task: asyncio.Task[None] | None = None
        rules.submit = self._submit

    async def load(self) -> None:
        """Take up what is kept; what an earlier daemon wrote otherwise is written anew."""
        kept = await self._keeper.write(self._keeper.store.recall, self._prefix)
        again = self._rules.load({key.removeprefix(self._prefix): text for key, text in kept.items()})
        if again:
            await self._keep(again)

    async def learn(self, key: str, text: str | None) -> None:
        """What a session manager remembers of the group under `key`."""
        name = key.removeprefix(self._prefix)
        await self._keep({name: text})
        self._rules.take({name: None if text is None else parsed(text)})

    async def _keep(self, texts: dict[str, str | None]) -> None:
        changes = {self._prefix + name: text for name, text in texts.items()}
        await self._keeper.write(self._keeper.store.remember_all, changes, self._prefix, RULES_MAX)

    def _submit(self, work: Work) -> None:
        if len(self._waiting) >= WAITING_MAX:
            work.done(False)
            return
        self._waiting.append(work)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._waiting:
            work = self._waiting.popleft()
            changes: Changes = work.changes()
            try:
                if changes:
                    await self._keep({n: None if rule is None else written(n, rule) for n, rule in changes.items()})
            except ConfigError:
                work.done(False)
                continue
            self._rules.take(changes)
            work.done(True)


class RememberedDevices:
    """One guest's sinks and sources on disk: what is set while another change is being written is written together."""

    def __init__(self, keeper: StoreWriter, guest: str, table: Devices) -> None:
        self._keeper, self._guest, self._table = keeper, guest, table
        self._waiting: list[devices.Work] = []
        self._task: asyncio.Task[None] | None = None
        self._ended = False
        table.submit = self._submit

    def end(self) -> None:
        """The guest is gone: the next of its name is another."""
        self._ended = True

    def _submit(self, work: devices.Work) -> None:
        if len(self._waiting) >= DEVICES_WAITING_MAX:
            # What waits for the same key would keep what has just gone back.
            refused = [one for one in self._waiting if one.key == work.key]
            self._waiting = [one for one in self._waiting if one.key != work.key]
            self._table.was_not_kept({work.key: self._table.now[work.key]})
            for one in (*refused, work):
                one.done(False)
            return
        self._waiting.append(work)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._waiting and not self._ended:
            # In turn with the owner's changes: what is written last is what is in force.
            async with self._keeper.turn:
                works, self._waiting = self._waiting, []
                values = {work.key: self._table.now[work.key] for work in works if work.key in self._table.now}
                kept = not self._ended and await self._keep(values)
            (self._table.was_kept if kept else self._table.was_not_kept)(values)
            if kept:
                self._bring_back(values)
            for work in works:
                work.done(kept)

    def _bring_back(self, values: dict[devices.Key, Value]) -> None:
        """What was refused while this was written has gone back too far: what is on disk is in force."""
        coming = {one.key for one in self._waiting}
        for key in values.keys() - coming:
            now = self._table.now.get(key)
            if now != values[key] and key in self._table.kept:
                self._table.now.setdefault(key, values[key])
                self._table.was_not_kept({key: self._table.now[key]})

    async def _keep(self, values: dict[devices.Key, Value]) -> bool:
        levels = {key: value for key, value in values.items() if not isinstance(value, str)}
        defaults = {key[1]: value for key, value in values.items() if key[0] == DEFAULT and isinstance(value, str)}
        try:
            await self._keeper.write(self._keeper.store.keep_devices, self._guest, levels, defaults)
        except ConfigError:
            return False
        return True
