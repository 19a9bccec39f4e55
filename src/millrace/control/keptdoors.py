"""Doors of machines that were attached by command: they are kept, and opened again when the daemon starts."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol

from millrace.control.store import StoredDoor
from millrace.control.writer import StoreWriter
from millrace.errors import GraphError, MillraceError
from millrace.guest.guest import Guest
from millrace.guest.home import Machine
from millrace.guest.machines.address import DoorSpec, confined, parse_door
from millrace.guest.machines.attached import AttachedMachine, DemandPlace, anywhere
from millrace.guest.machines.whereabouts import Whereabouts, of_spec

log = logging.getLogger("millrace.attach")
CONFIG, STATE = "configuration", "state"
"""What opens a door at the next start: see `Machine.kept`."""


class Attach(Protocol):
    """Attaches a machine to a guest; `demand_place` raises GraphError if it may not be attached where it is found."""

    def __call__(self, guest: Guest, spec: DoorSpec, demand_place: DemandPlace = anywhere) -> AttachedMachine:
        """See `attach`."""
        ...


# A password that was typed or sent is nowhere but in memory, so the door that needs it is not kept; one in a file is
# kept as the path of that file. What confines a door is not kept with it: that is for the configuration to say, which
# may be another by then.
class KeptDoors:
    """Attaches and detaches machines for commands. Those that do so have the turn of the store."""

    def __init__(
        self,
        writer: StoreWriter,
        attach: Attach,
        guests: Mapping[str, Guest],
    ) -> None:
        self._writer, self._attach, self._guests = writer, attach, guests
        self._forgetting: set[asyncio.Task[None]] = set()

    def open_all(self, guest: Guest, stored: Iterable[StoredDoor]) -> None:
        """The guest starts: open its doors, those of the configuration first."""
        for spec in guest.config.doors:
            if self._is_elsewhere(guest, of_spec(spec), spec.vm):
                log.warning(
                    "guest %s: %s is attached to another guest too; both see it and type into it", guest.name, spec.text
                )
            self._attach(guest, spec).keep(CONFIG)
        for row in stored:
            try:
                spec = _spec(row)
                if not _listed(guest, spec):
                    self._attach(guest, confined_spec(guest, spec) if row.confined else spec).keep(STATE)
            except MillraceError as error:
                log.warning("guest %s: %s is not attached again: %s", guest.name, row.door, error)

    # On one bus each machine has a name, and the only one need not be named.
    def _is_elsewhere(self, guest: Guest, place: Whereabouts | None, vm: str, before: float = math.inf) -> bool:
        """Whether another guest has a door to the machine at `place`, attached or waiting, numbered below `before`."""
        machines = (one for other in self._guests.values() if other is not guest for one in other.machines)
        return place is not None and any(
            one.place == place and one.id < before and (one.spec.vm == vm or not vm or not one.spec.vm)
            for one in machines
            if isinstance(one, AttachedMachine)
        )

    # One that was asked for before the other has it, and so has one that had been attached already.
    def _demand_place(self, guest: Guest, machine: AttachedMachine) -> None:
        """GraphError for one that leads to another guest's machine, which was not known when it was attached."""
        if not machine.sessions and self._is_elsewhere(guest, machine.place, machine.spec.vm, machine.id):
            if machine.kept == STATE:
                # When the daemon starts, it would be opened as one that was asked for.
                task = asyncio.get_running_loop().create_task(self._forget(guest, machine))
                self._forgetting.add(task)
                task.add_done_callback(self._forgotten)
            raise _also_needed(machine.spec)

    def _forgotten(self, task: asyncio.Task[None]) -> None:
        self._forgetting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("a door that was refused is still kept: %s", error)

    async def attach(self, guest: Guest, spec: DoorSpec, is_confined: bool, once: bool, also: bool) -> Machine:
        """Attach a machine; unless `once`, also after a restart. Nothing is attached if that can't be saved.

        GraphError, unless `also`, for one that is attached to another guest.
        """
        # Checked first: who may not attach it does not learn that another guest has it.
        if is_confined:
            spec = confined_spec(guest, spec)
        if not also and self._is_elsewhere(guest, of_spec(spec), spec.vm):
            raise _also_needed(spec)
        before = {machine: machine.spec for machine in guest.machines if isinstance(machine, AttachedMachine)}
        machine = self._attach(guest, spec, anywhere if also else partial(self._demand_place, guest))
        spec = machine.spec
        try:
            if _listed(guest, spec):
                machine.keep(CONFIG)
            elif is_confined and await self._is_of_host(guest, spec):
                # It may name files that an admin of only this guest may not, and would be refused at the next start.
                machine.keep(STATE)
            elif not once and not spec.password:
                row = StoredDoor(spec.text, spec.vm, spec.password_file, spec.ca_file, is_confined)
                await self._writer.write(self._writer.store.keep_door, guest.name, row)
                machine.keep(STATE)
            else:
                await self._forget(guest, machine)
        except BaseException:
            if machine in before:
                machine.spec = before[machine]
            else:
                await machine.stop("it could not be kept")
            raise
        return machine

    async def _is_of_host(self, guest: Guest, spec: DoorSpec) -> bool:
        """Whether it is kept as somebody with every right attached it."""
        stored = await self._writer.write(self._writer.store.guest, guest.name)
        return any((row.door, row.vm) == (spec.text, spec.vm) and not row.confined for row in stored.doors)

    async def detach(self, guest: Guest, machine: Machine) -> None:
        """Detach a machine, and forget it. One of the configuration is attached again at the next start."""
        if isinstance(machine, AttachedMachine):
            await self._forget(guest, machine)
        await machine.stop("it was detached")

    async def _forget(self, guest: Guest, machine: AttachedMachine) -> None:
        if machine.kept == STATE:
            await self._writer.write(self._writer.store.drop_door, guest.name, machine.spec.text, machine.spec.vm)
            machine.keep("")


def confined_spec(guest: Guest, spec: DoorSpec) -> DoorSpec:
    """The spec as an admin of only this guest may attach it; RightsError if it is not listed for the guest."""
    return confined(spec, guest.config.attach, guest.name)


def _also_needed(spec: DoorSpec) -> GraphError:
    return GraphError(
        f"{spec.text} is attached to another guest, and both would see it and type into it; if you want that,"
        " attach it with --also (`also` of the API)"
    )


def _listed(guest: Guest, spec: DoorSpec) -> bool:
    """Whether the configuration opens this door."""
    return any((one.text, one.vm) == (spec.text, spec.vm) for one in guest.config.doors)


def _spec(row: StoredDoor) -> DoorSpec:
    return replace(parse_door(row.door, row.vm, "", row.ca_file), password_file=row.password_file)
