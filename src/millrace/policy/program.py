"""The policy as a program: it connects, claims the role, carries out the policy, and reconnects after a failure."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

from millrace.client.bus import Bus, connect
from millrace.errors import GraphError, MillraceError, PeerLost
from millrace.policy.config import PolicyConfig
from millrace.policy.model import Command, Policy
from millrace.text import printable

log = logging.getLogger("millrace.policy")
NAME = "policy"
RETRY_S = 0.5
STEP = 25
"""Changes handled without a pause. In the daemon's own process, sound is processed in the pauses."""
SETTLE_S = 0.3
"""How often changes are saved: a moving slider must not cause a write at every step."""


class _Lost(Exception):
    """Another policy has taken over."""


# Several policies may run; the name `policy` decides which one acts. One that is replaced drops its connection and
# queues again without `replace`, or two of them started with `--replace` would take the role from each other for
# ever. What a policy has learned but not saved yet survives a lost connection (`_notes`), because it belongs to the
# program and not to the session.
class Program:
    """Runs one policy against one daemon."""

    def __init__(self, path: Path, config: PolicyConfig, replace: bool = False) -> None:
        self._path, self._config, self._replace = path, config, replace
        self._notes: dict[str, Command] = {}
        self._in_charge = asyncio.Event()
        self._lost = asyncio.Event()
        self.commands = 0

    async def run(self) -> None:
        """Run forever; ends only when cancelled."""
        while True:
            try:
                async with connect(self._path, name="millrace-policy", on_claim=self._claimed) as bus:
                    await self._in(bus)
            except _Lost:
                log.warning("another policy has taken over; waiting to take over again")
                self._replace = False
            except PeerLost as error:
                log.info("%s", error)
            await asyncio.sleep(RETRY_S)

    # Whatever ended the connection (the daemon ends one that falls behind, with a BudgetError), the next may last. If
    # it is refused, `connect` says why, and the program ends with that.
    async def _in(self, bus: Bus) -> None:
        """Run a session. PeerLost if the connection ends, for any reason."""
        try:
            await self._session(bus)
        except MillraceError as error:
            if bus.lost is None or isinstance(error, PeerLost):
                raise
            raise PeerLost(f"the connection ended: {error}") from error

    async def _session(self, bus: Bus) -> None:
        self._in_charge.clear()
        self._lost.clear()
        if not await bus.claim(NAME, self._replace):
            log.warning("%s", await self._held(bus))
            await self._wait_for_claim(bus)
        policy = Policy(self._config)
        log.info("in charge")
        tasks = [asyncio.create_task(work) for work in (self._watch(bus, policy), self._keep(bus), self._guard())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            try:
                await self._note_all(bus)
            except MillraceError as error:
                log.warning("not saved: %s", error)

    async def _held(self, bus: Bus) -> str:
        """Who is in charge instead, for the user."""
        holder = (await bus.call("state"))["policy"]
        name = f"by {printable(holder['name'])} (process {holder['pid']})" if holder else "by another program"
        return f"the policy is held {name}; waiting until it ends. To take over, use --replace"

    async def _wait_for_claim(self, bus: Bus) -> None:
        """Wait until the role is ours or the daemon is gone."""
        while not self._in_charge.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._in_charge.wait()
            if bus.lost is not None:
                raise bus.lost

    def _claimed(self, name: str, have: bool) -> None:
        if name == NAME:
            (self._in_charge if have else self._lost).set()

    async def _guard(self) -> None:
        await self._lost.wait()
        raise _Lost

    async def _watch(self, bus: Bus, policy: Policy) -> None:
        synced, looked_at = False, 0
        async for change in bus.watch():
            looked_at += 1
            if looked_at % STEP == 0:
                await asyncio.sleep(0)
            thing = change.object
            if thing is None:
                synced = True
                continue
            if change.what == "removed":
                commands = policy.gone(thing.id)
            else:
                # Objects that existed before the policy connected are left alone, but requests are answered.
                new = change.what == "added" and (synced or thing.kind == "request")
                commands = policy.seen(thing.id, thing.kind, thing.guest, thing.props, new)
            for command in commands:
                await self._do(bus, command)

    async def _do(self, bus: Bus, command: Command) -> None:
        if command.method == "remember":
            self._notes[command.args["key"]] = command
            return
        try:
            await bus.call(command.method, **command.args)
            self.commands += 1
        except GraphError as error:
            # The object has gone in the meantime.
            log.debug("%s: %s", command.method, error)
        except PeerLost:
            raise
        except MillraceError as error:
            log.warning("%s %s: %s", command.method, command.args, error)

    async def _keep(self, bus: Bus) -> None:
        while True:
            await asyncio.sleep(SETTLE_S)
            await self._note_all(bus)

    async def _note_all(self, bus: Bus) -> None:
        # A note is deleted after it was saved, not before: if this is cancelled in between, the note is still there.
        for key, command in list(self._notes.items()):
            try:
                await bus.call(command.method, **command.args)
            except PeerLost:
                raise
            except MillraceError as error:
                log.warning("not saved: %s", error)
            if self._notes.get(key) is command:
                del self._notes[key]
