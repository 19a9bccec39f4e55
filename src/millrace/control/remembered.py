"""Stores the settings of a guest's streams, sinks and sources. Each change is on disk before it is acknowledged."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from millrace.control.storefile import NotSaved
from millrace.control.writer import Stopping, StoreWriter
from millrace.errors import ConfigError
from millrace.guest.config import stream_table
from millrace.remembered.devices import DEFAULT, Devices, DeviceUpdate, Key, Value
from millrace.remembered.streams import RULES_MAX, Changes, Rules, RuleUpdate, parsed, written

RULES_WAITING_MAX = 16
DEVICES_WAITING_MAX = 1024
T = TypeVar("T")


class _Queue(Generic[T]):
    """At most `size` updates waiting for the disk, and a task that calls `write` while there are any."""

    def __init__(self, size: int, write: Callable[[], Awaitable[None]]) -> None:
        self.waiting: deque[T] = deque()
        self._size, self._write = size, write
        self._task: asyncio.Task[None] | None = None

    def add(self, update: T) -> bool:
        """False if the queue is full."""
        if len(self.waiting) >= self._size:
            return False
        self.waiting.append(update)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        return True

    def take(self) -> list[T]:
        """Take everything that is queued."""
        taken = list(self.waiting)
        self.waiting.clear()
        return taken

    async def _run(self) -> None:
        while self.waiting:
            await self._write()


# A guest's rows are deleted before its clients are gone. What they still change must not be written, or it would be
# loaded by a later guest of the same name.
class GuestWriter:
    """Writes what one guest remembers, as long as the guest exists."""

    def __init__(self, writer: StoreWriter) -> None:
        self._writer, self.store, self.turn = writer, writer.store, writer.turn
        self.ended = False
        """The guest is gone."""

    async def write(self, change: Callable[..., T], *args: Any) -> T:
        """See `StoreWriter.write`; NotSaved if the guest is gone when its turn comes."""
        async with self.turn:
            if self.ended:
                raise NotSaved("not saved: the guest was removed")
            return await self._writer.write(change, *args)


class RememberedStreams:
    """One guest's remembered streams. Updates are written one by one, because each builds on the ones before."""

    def __init__(self, writer: GuestWriter, guest: str, rules: Rules) -> None:
        self._writer, self._prefix, self._rules = writer, stream_table(guest), rules
        self._queue: _Queue[RuleUpdate] = _Queue(RULES_WAITING_MAX, self._write)

    async def load(self) -> None:
        """Load what is stored, and rewrite entries that an earlier version wrote in another form."""
        kept = await self._writer.write(self._writer.store.recall, self._prefix)
        again = self._rules.load({key.removeprefix(self._prefix): text for key, text in kept.items()})
        if again:
            await self._keep(again)

    async def learn(self, key: str, text: str | None) -> None:
        """Store what a session manager remembers about the group under `key`."""
        name = key.removeprefix(self._prefix)
        async with self._writer.turn:
            await self._keep({name: text})
            self._rules.take({name: None if text is None else parsed(text)})

    async def _keep(self, texts: dict[str, str | None]) -> None:
        changes = {self._prefix + name: text for name, text in texts.items()}
        await self._writer.write(self._writer.store.remember_all, changes, self._prefix, RULES_MAX)

    def submit(self, update: RuleUpdate) -> None:
        """See `Rules`."""
        if not self._queue.add(update):
            update.done(False)

    async def _write(self) -> None:
        update = self._queue.waiting.popleft()
        try:
            async with self._writer.turn:
                changes: Changes = update.changes()
                if changes:
                    await self._keep({n: None if rule is None else written(n, rule) for n, rule in changes.items()})
                self._rules.take(changes)
        except ConfigError:
            update.done(False)
            return
        update.done(True)


# Levels come in bursts, while a slider is moved, and only the last value of each matters. So everything that waits
# goes out in one transaction, with the values that are in force when it is written, and every one of those requests
# is acknowledged by it.
class RememberedDevices:
    """One guest's remembered sinks and sources. Changes made during a write go out together in the next one."""

    def __init__(self, writer: GuestWriter, guest: str, table: Devices) -> None:
        self._writer, self._guest, self._table = writer, guest, table
        self._queue: _Queue[DeviceUpdate] = _Queue(DEVICES_WAITING_MAX, self._write)

    def submit(self, update: DeviceUpdate) -> None:
        """See `Devices`."""
        if self._queue.add(update):
            return
        # Queued updates of the same key would save the value that has just been rolled back, so they fail too.
        waiting = self._queue.take()
        self._queue.waiting.extend(one for one in waiting if one.key != update.key)
        self._table.was_not_kept({update.key: self._table.now[update.key]})
        for one in (*(one for one in waiting if one.key == update.key), update):
            one.done(False)

    async def _write(self) -> None:
        try:
            # In turn with other changes: the value written last must be the one in force.
            async with self._writer.turn:
                await self._write_all(self._queue.take())
        except Stopping:
            for update in self._queue.take():
                update.done(False)

    async def _write_all(self, updates: list[DeviceUpdate]) -> None:
        values = {one.key: self._table.now[one.key] for one in updates if one.key in self._table.now}
        kept = await self._keep(values)
        if kept:
            self._table.was_kept(values)
            self._bring_back(values)
        elif not self._writer.ended:
            self._table.was_not_kept(values)
        for update in updates:
            update.done(kept)

    def _bring_back(self, values: dict[Key, Value]) -> None:
        """A refusal during the write rolled back to the value before it. Restore what is now on disk."""
        coming = {one.key for one in self._queue.waiting}
        for key in values.keys() - coming:
            now = self._table.now.get(key)
            if now != values[key] and key in self._table.kept:
                self._table.now.setdefault(key, values[key])
                self._table.was_not_kept({key: self._table.now[key]})

    async def _keep(self, values: dict[Key, Value]) -> bool:
        levels = {key: value for key, value in values.items() if not isinstance(value, str)}
        defaults = {key[1]: value for key, value in values.items() if key[0] == DEFAULT and isinstance(value, str)}
        try:
            await self._writer.write(self._writer.store.keep_devices, self._guest, levels, defaults)
        except ConfigError:
            return False
        return True


class Memory:
    """Everything a guest remembers about streams and devices. Its door creates the tables."""

    streams: RememberedStreams
    devices: RememberedDevices

    def __init__(self, writer: StoreWriter, guest: str) -> None:
        self._writer, self._guest = GuestWriter(writer), guest

    def end(self) -> None:
        """The guest is gone: write nothing more, since a new guest may take its name."""
        self._writer.ended = True

    def keep_rules(self, table: Rules) -> Callable[[RuleUpdate], None]:
        """See `memory.Memory`."""
        self.streams = RememberedStreams(self._writer, self._guest, table)
        return self.streams.submit

    def keep_devices(self, table: Devices) -> Callable[[DeviceUpdate], None]:
        """See `memory.Memory`."""
        self.devices = RememberedDevices(self._writer, self._guest, table)
        return self.devices.submit
