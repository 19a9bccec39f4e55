"""Keeps what a guest's streams get: each change of the table is on disk before it is in force and answered."""

from __future__ import annotations

import asyncio
from collections import deque

from millrace.daemon.keeper import Keeper
from millrace.doors.pulse.restore import RULES_MAX, Changes, Rules, Work, parsed, written
from millrace.errors import ConfigError

PREFIX = "stream/"
"""Where in the memory of session managers the tables are: stream/GUEST/GROUP."""
WAITING_MAX = 16


def prefix_of(guest: str) -> str:
    """Of one guest's table."""
    return f"{PREFIX}{guest}/"


class Remembered:
    """One guest's table on disk."""

    def __init__(self, keeper: Keeper, guest: str, rules: Rules) -> None:
        self._keeper, self._prefix, self._rules = keeper, prefix_of(guest), rules
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
