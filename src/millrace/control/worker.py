"""The worker: the guests of a process, and every change to them. It opens no sockets of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from millrace.control import verbs
from millrace.control.budgets import Budgets
from millrace.control.claims import Claims
from millrace.control.ducking import Ducking
from millrace.control.keptdoors import KeptDoors
from millrace.control.plane import Session
from millrace.control.principalturns import PrincipalTurns
from millrace.control.publish import GrantPublisher, Publisher, TokenPublisher
from millrace.control.registry import Registry
from millrace.control.remembered import Memory
from millrace.control.restored import restore
from millrace.control.results import PolicyView
from millrace.control.store import Store
from millrace.control.tokens import Access
from millrace.control.verbs import Found
from millrace.control.writer import Stopping, StoreWriter
from millrace.errors import ConfigError, GraphError, MillraceError, RightsError
from millrace.graph.driver import TimerDriver
from millrace.graph.model import Ids, Sink, Stream
from millrace.guest.config import GuestConfig, added_guest, checked_guest_name
from millrace.guest.guest import Common, Guest
from millrace.guest.listener import ListenerSession
from millrace.guest.machines.address import DoorSpec
from millrace.guest.machines.attach import attach
from millrace.guest.machines.attached import AttachedMachine, DemandPlace, anywhere
from millrace.guest.notfound import NotFound, missing_guest
from millrace.guest.viewer import ViewerSession
from millrace.io.clock import now_ns, wall_ns, worked_ns
from millrace.io.listeners import Listeners
from millrace.io.load import is_stopped, run_delay_ns
from millrace.io.timer import TimerRunner
from millrace.io.turns import Stretch, with_pauses
from millrace.observe.diagnosis import Diagnosis, Surroundings
from millrace.observe.flight import FlightRecorder
from millrace.observe.incidents import Incident
from millrace.observe.metrics import Counters
from millrace.observe.views import guest_summary
from millrace.rights.grants import Permission, Verdict
from millrace.rights.model import Principal, Right
from millrace.rights.prompts import Prompt, Prompts
from millrace.text import checked_number, printable

log = logging.getLogger("millrace.daemon")
GUESTS_MAX = 10_000


class Servers(Protocol):
    """Servers for a guest's programs and listeners, besides its doors."""

    def open_guest(self, guest: Guest) -> None:
        """Start accepting connections for a guest."""
        ...

    async def close_guest(self, guest: Guest, why: str) -> None:
        """End a guest's connections with a reason, and accept no more."""
        ...


# The order of a change that survives a restart: take the turn, check the state, write to disk, change memory, publish,
# leave the turn. A refusal at any step leaves nothing changed. A change that memory may still refuse (a guest, a sink)
# is made first and unmade if it can't be written: unmaking always succeeds, while on a full disk a row that was written
# could not be deleted again. What takes long (moving the streams of a removed sink) is done after the turn, and
# finished in any case, since the disk already says so.
class Worker:
    """The guests of one process."""

    def __init__(self, runtime: Path, state: Path, token: str, servers: Servers) -> None:
        """Open the database; ConfigError if another daemon holds it or it can't be read."""
        self._servers = servers
        self.ids, self.registry, self.guests = Ids(), Registry(), dict[str, Guest]()
        self._later, self._asking = TimerRunner(), TimerRunner()
        self.driver = TimerDriver(
            worked_ns, now_ns, lambda: self._cycles.rearm(), lambda *failed: self.diagnosis.cycle_failed(*failed)
        )
        around = Surroundings(now_ns, wall_ns, run_delay_ns, lambda: self.driver.computed_ns, is_stopped)
        self.diagnosis = Diagnosis(around, self.ids.take, self.guests.values, self._incident_changed, self._later.rearm)
        self.report = self.diagnosis.report
        with ExitStack() as undo:
            self.store = Store(state)
            undo.callback(self.store.close)
            self.writer = StoreWriter(self.store, self.diagnosis.not_kept)
            tokens = TokenPublisher(self.registry, self.ids.take)
            self.access = Access(self.writer, token, tokens.changed, self._forget)
            undo.pop_all()
        self.listeners = Listeners()
        self._cycles = TimerRunner(observer=self.diagnosis)
        self._memories: dict[str, Memory] = {}
        self.budgets = Budgets(self.guests)
        self.principal_turns = PrincipalTurns(self.guests, self.report)
        self.doors = KeptDoors(self.writer, self.attach, self.guests)
        self.claims = Claims()
        self.ducking = Ducking(lambda: (guest.graph for guest in self.guests.values()))
        self.sessions: dict[Session, None] = {}
        self.prompts = Prompts(self.ids.take, self._prompt_changed, self._asking.rearm)
        self._rules = GrantPublisher(self.registry, self.ids.take)
        self.flight = FlightRecorder()
        self._common = Common(self.ids, self.driver, runtime, self.listeners, self.prompts, self.diagnosis)
        self.forbidden = 0
        """Authenticated requests that were refused for lack of rights."""

    async def start(self, guests: tuple[GuestConfig, ...]) -> None:
        """Start the configured guests, then the stored ones."""
        loop = asyncio.get_running_loop()
        self._cycles.drive(self.driver, loop, exact=True)
        self._asking.drive(self.prompts, loop)
        self._later.drive(self.diagnosis, loop)
        for guest in guests:
            await self._start_guest(guest)
        for name, options in (await self.writer.write(self.store.guests)).items():
            if name not in self.guests:
                await self._bring_back(name, options)

    async def second(self) -> None:
        """Periodic work, once a second. Guests are sampled in between cycles of sound; idle ones are left alone."""
        now = now_ns()
        self.diagnosis.second(now)
        self.registry.second()
        stretch = Stretch()
        for guest in self.active():
            self.flight.note(guest, now)
            guest.screens.second(now)
            guest.viewers.second()
            if stretch.over():
                await asyncio.sleep(0)

    # Most of a thousand guests play and show nothing, and are not even looked at.
    def active(self) -> list[Guest]:
        """The guests in which anything plays, is shown or is watched."""
        names = self._common.watched.union(self.driver.running)
        return [guest for name in names if (guest := self.guests.get(name)) is not None]

    async def end_changes(self) -> None:
        """The daemon is stopping: finish the changes that have begun, and refuse everything from now on."""
        await self.writer.end()

    async def stop(self, why: str) -> None:
        """Notify listeners and clients, and stop every guest. Nothing can be made any more: see `end_changes`."""
        await self.end_changes()
        for guest in list(self.guests.values()):
            guest.bye(why)
            await self._end(guest, why)

    def close(self) -> None:
        """Stop the timers and close the database. Called once nothing can connect any more."""
        self._common.encoders.close()
        self.access.close()
        for timer in (self._cycles, self._asking, self._later):
            timer.stop()
        self.writer.close()

    # -- guests ------------------------------------------------------------------------------

    def guest(self, name: str) -> Guest:
        """A guest by name; NotFound if there is none."""
        self._demand_open()
        found = self.guests.get(name)
        if found is None:
            raise missing_guest(name, self.guests)
        return found

    def visible(self, principal: Principal) -> list[Guest]:
        """The guests that `principal` may see."""
        self._demand_open()
        return [guest for guest in self.guests.values() if principal.may(Right.SEE, guest.name)]

    def _demand_open(self) -> None:
        if self.writer.turn.ended:
            raise Stopping

    # A command may wait for its body, for its principal's share and for the turn, and meanwhile a token may be revoked
    # or a guest removed. A guest's own programs have their rights by the guest itself and not by its name, since a
    # later guest of that name is another one.
    def current(self, principal: Principal) -> Principal:
        """A principal with the rights that it has now; RightsError if they have ended since it was authenticated."""
        self._demand_open()
        kind, _, name = principal.key.partition("/")
        if kind != "guest":
            return self.access.current(principal)
        guest = self.guests.get(name)
        if principal.guests and (guest is None or guest.admission.principal is not principal):
            raise RightsError(f"guest {name} was removed")
        return principal

    @asynccontextmanager
    async def _turn(self, guest: Guest) -> AsyncIterator[None]:
        """Serialize a change to a guest; NotFound if the guest was removed while waiting."""
        async with self.writer.turn:
            if self.guests.get(guest.name) is not guest:
                raise NotFound(f"guest {guest.name} was removed")
            yield

    async def add_guest(self, name: str, options: dict[str, Any]) -> Guest:
        """Create a guest and open its sockets. On failure nothing of it is left."""
        checked_guest_name(name)
        config = added_guest(name, options)
        async with self.writer.turn:
            if name in self.guests:
                raise GraphError(f"guest {name} already exists")
            if len(self.guests) >= GUESTS_MAX:
                raise GraphError(f"there are {GUESTS_MAX} guests already, the maximum; remove one")
            guest = await self._start_guest(config)
            try:
                await self.writer.write(self.store.keep_guest, name, {"rate": config.rate, "channels": config.channels})
            except BaseException:
                await self._unmake(guest)
                raise
            return guest

    async def _bring_back(self, name: str, options: dict[str, Any]) -> None:
        """Restore a stored guest. One that fails must not prevent the others from starting."""
        try:
            await self._start_guest(added_guest(name, options))
        except MillraceError as error:
            log.error("guest %s could not be restored: %s", name, error)
            self.diagnosis.left_out(name, str(error))

    # A guest's state is restored before its sockets are opened: the first program that connects must meet the rules,
    # the levels and the sinks of before, or it could record in the moment in which its denial had not been read yet.
    # What was recorded of a removed guest of that name stays for the owner to see until then, and is forgotten here.
    async def _start_guest(self, config: GuestConfig) -> Guest:
        """Create a guest and open its sockets. On failure nothing of it is left."""
        kept = await self.writer.write(self.store.guest, config.name)
        self.diagnosis.forget(config.name)
        memory = Memory(self.writer, config.name)
        guest = Guest(config, self._common, memory)
        await memory.streams.load()
        self._memories[config.name] = memory
        restore(guest, kept)
        try:
            await guest.start()
            self._servers.open_guest(guest)
            self.guests[guest.name] = guest
            self._publish(guest)
            self.doors.open_all(guest, kept.doors)
        except BaseException:
            await self._unmake(guest)
            raise
        return guest

    async def _unmake(self, guest: Guest) -> None:
        self.guests.pop(guest.name, None)
        await self._stop_guest(guest, "the guest could not be started")

    @property
    def trouble(self) -> str:
        """Why changes can't be saved; empty if they can."""
        return self.store.trouble

    def quiet(self) -> bool:
        """Whether no guest is running."""
        return not any(guest.graph.running for guest in self.guests.values())

    def counters(self, refused: int) -> Counters:
        """Daemon-wide counters; `refused` is the number of refused requests."""
        return Counters(
            self.driver.cycles, refused, len(self.registry), sum(1 for _ in self.prompts),
            self.policy() is not None, bool(self.store.trouble),
        )  # fmt: skip

    def policy(self) -> PolicyView | None:
        """Which session manager is in charge, if any."""
        principal = self.claims.holder("policy")
        if principal is None:
            return None
        return PolicyView(principal.name, principal.subject.identity.pid)

    # -- connections and changes -------------------------------------------------------------

    async def _stop_guest(self, guest: Guest, why: str) -> None:
        await self._servers.close_guest(guest, why)
        await self._end(guest, why)
        self.registry.drop_guest(guest.name)
        self._rules.forget(guest.name)
        self.flight.forget(guest.name)

    async def _end(self, guest: Guest, why: str) -> None:
        memory = self._memories.pop(guest.name, None)
        if memory is not None:
            memory.end()
        await guest.stop(why)

    async def learn(self, guest: Guest, key: str, text: str | None) -> None:
        """Store what a session manager remembers about a guest's group of streams."""
        async with self._turn(guest):
            await self._memories[guest.name].streams.learn(key, text)

    def _incident_changed(self, change: str, incident: Incident) -> None:
        if change == "remove":
            self.registry.drop(incident.number)
        else:
            self.registry.put(incident.number, "incident", incident.guest, incident.view)

    def _forget(self, key: str) -> None:
        """A principal is gone."""
        self.principal_turns.forget(key)
        self.budgets.forget(key)

    def release(self, session: Session) -> None:
        """A connection has closed: release its claims and attenuations."""
        self.sessions.pop(session, None)
        self.claims.release(session)
        self.ducking.release(session)

    def duck(self, session: Session, found: Found, db: float) -> None:
        """Attenuate a stream for as long as the connection lasts."""
        if not isinstance(found.thing, Stream):
            raise ConfigError(f"{printable(found.key)}: only streams can be attenuated")
        checked_number(db, "db", -96, 0)
        self.ducking.duck(session, found.guest.graph, found.thing, db)

    def _prompt_changed(self, change: str, prompt: Prompt) -> None:
        if change == "new":
            self.registry.put(prompt.id, "request", prompt.guest, prompt.view)
        else:
            self.registry.drop(prompt.id)

    def _publish(self, guest: Guest) -> None:
        """Publish a guest's objects, now and whenever they change."""
        self.registry.put(guest.id, "guest", guest.name, lambda: guest_summary(guest))
        self._rules.publish(guest.name, guest.admission.grants)
        guest.watch(Publisher(self.registry, guest))

    # First the rule is on disk and in force, then whatever it forbids is ended. The other way round, a recorder that
    # was ended could be started again in between.
    async def grant(self, guest: Guest, what: Permission, program: str, verdict: Verdict | None) -> None:
        """Set or delete a rule; what it now forbids ends at once."""
        async with self._turn(guest):
            guest.admission.grants.demand_room(what, program)
            await self.writer.write(self.store.keep_grant, guest.name, what, program, verdict)
            guest.admission.grants.set(what, program, verdict)
            self._rules.publish(guest.name, guest.admission.grants)
        guest.admission.enforce()
        for session in list(self.sessions):
            session.end_forbidden(guest.name)

    # With `always` the rule comes first: if it can't be saved, nothing is decided, and the person sees the error
    # while the program still waits. Making the rule may already answer this request (`Admission.enforce`); deciding
    # it again has no effect.
    async def decide(self, prompt: Prompt, allow: bool, always: bool, by: str) -> None:
        """Answer a request, for this connection or, with `always`, by a rule for its program."""
        names = prompt.subject.identity.names
        if always and not names:
            raise GraphError("the program can't be identified: answer without --always")
        if always:
            verdict = Verdict.ALLOW if allow else Verdict.DENY
            await self.grant(self.guest(prompt.guest), prompt.what, names[0], verdict)
        log.info("guest %s: %s was %s %s by %s", prompt.guest, prompt.subject.identity,
                 "granted" if allow else "denied", prompt.what.value, by)  # fmt: skip
        self.prompts.decide(prompt, allow)

    async def add_sink(self, guest: Guest, name: str, description: str) -> Sink:
        """Add a sink that survives restarts."""
        async with self._turn(guest):
            verbs.demand_sink_name(guest, name)
            sink = guest.graph.add_sink(name, description or name)
            try:
                await self.writer.write(self.store.keep_sink, guest.name, name, sink.description)
            except BaseException:
                guest.graph.remove_sink(sink)
                raise
            return sink

    async def remove_sink(self, guest: Guest, name: str) -> None:
        """Remove a sink; what plays there moves to the default sink."""
        async with self._turn(guest):
            sink = verbs.removable(guest, name)
            await self.writer.write(self.store.keep_sink, guest.name, sink.name, None)
            steps = guest.graph.leave(sink)
            next(steps, None)
        # Moving thousands of streams takes a while, so it is done outside the turn: other changes need not wait.
        self.writer.turn.leave()
        try:
            await with_pauses(steps)
        finally:
            # Finish even if the requester has gone (cancellation): the removal is already on disk.
            guest.graph.remove_sink(sink)

    async def set(self, found: Found, settings: dict[str, str]) -> None:
        """Change a listener's or viewer's settings, or a level. Levels of sinks and sources survive restarts."""
        guest, thing, _ = found
        if isinstance(thing, ListenerSession | ViewerSession):
            verbs.configure(guest, thing, settings)
            return
        gains, mute = verbs.parse_level(thing, settings)
        if isinstance(thing, Sink):
            async with self._turn(guest):
                level = (gains or thing.gains, thing.mute if mute is None else mute)
                await self.writer.write(self.store.keep_level, guest.name, thing.kind, thing.name, level)
                guest.devices.learn((thing.kind, thing.name), level)
                # A sink made by a module may have gone during the write, which needs no turn. Its level is stored, and
                # in force for the next of that name, as if the sink had gone a moment later.
                if thing not in guest.graph.mixes():
                    return
        verbs.set_level(guest, thing, gains, mute)

    def attach(self, guest: Guest, spec: DoorSpec, demand_place: DemandPlace = anywhere) -> AttachedMachine:
        """Attach a machine to a guest, until the daemon stops."""
        return attach(self.ids.take(), guest, spec, demand_place)

    # The rows go first, as in every change. Rights to the guest end with it, in the same transaction: a token or a
    # rule that stayed behind would be valid for the next guest of that name. It leaves `guests` before anything of it
    # is stopped, so that no command can find it while its clients are being sent away.
    async def remove_guest(self, name: str) -> None:
        """Remove a guest, notifying its clients and listeners."""
        async with self.writer.turn:
            guest = self.guest(name)
            await self.writer.write(self.store.remove_guest, name)
            del self.guests[name]
            self.access.forget_guest(name)
            await self._stop_guest(guest, "the guest was removed")
