"""The daemon: composition root. It makes guests, opens sockets, and closes everything on the way out."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from millrace.control import verbs
from millrace.control.budgets import Budgets
from millrace.control.claims import Claims
from millrace.control.commands import Commands
from millrace.control.publish import Publisher
from millrace.control.registry import Registry
from millrace.control.remembered import Remembered, RememberedDevices
from millrace.control.store import KeptGuest, Store
from millrace.control.tokens import Access, new_key
from millrace.control.writer import Keeper
from millrace.daemon.config import Config, added_guest
from millrace.daemon.serving import Serving
from millrace.doors.pulse.devices import DEFAULT
from millrace.errors import ConfigError, GraphError, MillraceError
from millrace.graph.driver import TimerDriver
from millrace.graph.model import Ids, Sink, Stream
from millrace.guest.config import GuestConfig, checked_guest_name
from millrace.guest.guest import Guest
from millrace.guest.machines.address import DoorSpec
from millrace.guest.machines.attach import attach
from millrace.guest.machines.attachment import Attachment
from millrace.guest.missing import NotFound, missing, missing_guest
from millrace.io.clock import now_ns, worked_ns
from millrace.io.handover import Handover
from millrace.io.listeners import Listeners
from millrace.io.locks import FileLock
from millrace.io.paths import API_SOCKET, HANDOVER_SOCKET, KEY_FILE, NATIVE_SOCKET, RUNTIME_LOCK
from millrace.io.runner import TimerRunner
from millrace.io.sockets import bind_unix, own_secret, private_dir
from millrace.io.turns import Turns, in_steps
from millrace.observe.diagnosis import STRAIN_NS, Doctor
from millrace.observe.incidents import Incidents
from millrace.observe.views import guest_summary
from millrace.rights.grants import ANY, Permission, Verdict
from millrace.rights.model import Admits, Holder, Right
from millrace.rights.prompts import Prompt, Prompts
from millrace.server.http.app import Web
from millrace.server.native.session import NativeServer, NativeSession
from millrace.text import checked_number

log = logging.getLogger("millrace.daemon")
GUESTS_MAX = 10_000


class Daemon:
    """Everything that runs in one worker process."""

    def __init__(self, config: Config) -> None:
        """Takes what belongs to one daemon; ConfigError where another has it, and nothing of that one's is touched."""
        self.config = config
        private_dir(config.runtime)
        taken = "another daemon runs in this runtime folder: stop it, or set XDG_RUNTIME_DIR to another directory"
        self._lock = FileLock(config.runtime / RUNTIME_LOCK, taken)
        with ExitStack() as undo:
            undo.callback(self._lock.release)
            self.store = Store(config.state)
            undo.callback(self.store.close)
            self.keeper = Keeper(self.store)
            self.access = Access(self.keeper, config.token)
            undo.pop_all()
        self.ids = Ids()
        self.driver = TimerDriver(worked_ns, now_ns)
        self.turns, self.strangers = Turns(), Turns()
        """Those of connections that are nobody's yet, and of the daemon's owner."""
        self._turns: dict[str, Turns] = {}
        self.guests: dict[str, Guest] = {}
        self.budgets = Budgets(self.guests)
        self.commands = Commands(self)
        self._web: Web | None = None
        self._api_path: Path | None = None
        self._timer: TimerRunner | None = None
        self._handover: Handover | None = None
        self.prompts = Prompts(self.ids.take)
        self._prompt_timer: TimerRunner | None = None
        self.registry = Registry()
        self.claims = Claims()
        self.forbidden = 0
        """Requests of people who had not the right."""
        self._native: list[NativeServer] = []
        self.prompts.on_change = self._prompt_changed
        self.doctor = Doctor(self)
        self.listeners = Listeners()
        self.serving = Serving(config, self.listeners, self.strangers)
        self.keeper.on_trouble = self.doctor.not_kept

    async def start(self) -> None:
        """Open everything; ConfigError says what is in the way."""
        api_path = self.config.runtime / API_SOCKET
        api_socket = bind_unix(api_path)
        self._api_path = api_path
        self._timer = TimerRunner(self.driver, asyncio.get_running_loop())
        self.driver.rearm = self._timer.rearm
        self._timer.strain_ns, self._timer.on_strain = STRAIN_NS, self.doctor.strain
        self._timer.on_run = self.doctor.ran
        self.driver.failed = self.doctor.cycle_failed
        self.doctor.start()
        self._prompt_timer = TimerRunner(self.prompts, asyncio.get_running_loop())
        self.prompts.rearm = self._prompt_timer.rearm
        self._native.append(NativeServer(self, self.config.runtime / NATIVE_SOCKET, Admits.OWNER))
        for guest in self.config.guests:
            await self._start_guest(guest)
        for name, options in (await self.keeper.write(self.store.guests)).items():
            if name not in self.guests:
                await self._bring_back(name, options)
        self.access.on_end = self._forget_turns
        self.access.set_key(own_secret(self.config.runtime / KEY_FILE, new_key))
        self._web = Web(self)
        await self.serving.serve(self._web.private(), api_socket)
        self._handover = Handover(self.config.runtime / HANDOVER_SOCKET, self._take_connection, self.listeners)
        await self.serving.listen(self._web.network())

    async def stop(self) -> None:
        """Tell listeners and clients, close sockets, remove files."""
        self.doctor.stop()
        for server in self._native:
            server.close()
        for guest in self.guests.values():
            for session in guest.sessions:
                session.farewell("the daemon is stopping", again=True)
            await guest.stop()
        self.serving.close()
        self.access.close()
        await self.serving.cleanup()
        self.listeners.stop()
        if self._timer is not None:
            self._timer.stop()
        if self._prompt_timer is not None:
            self._prompt_timer.stop()
        if self._handover is not None:
            self._handover.close()
        self.keeper.close()
        if self._api_path is not None:
            self._api_path.unlink(missing_ok=True)
        self._lock.release()

    def page_link(self) -> str:
        """An address that lets a browser in once, as the owner. What is behind # stays in the browser: it is in no
        request, and in no proxy's log."""
        return f"{self.serving.page_url}#in={self.access.new_link()}"

    # -- guests ------------------------------------------------------------------------------

    def guest(self, name: str) -> Guest:
        """A guest by name, else NotFound."""
        found = self.guests.get(name)
        if found is None:
            raise missing_guest(name, self.guests)
        return found

    @asynccontextmanager
    async def _turn(self, guest: Guest) -> AsyncIterator[None]:
        """A change to a guest, while no other is made; NotFound where it was removed meanwhile."""
        async with self.keeper.turn_of(f"guest/{guest.name}"):
            if self.guests.get(guest.name) is not guest:
                raise NotFound(f"guest {guest.name} was removed")
            yield

    async def add_guest(self, name: str, options: dict[str, Any]) -> Guest:
        """Make a guest and open its sockets. Where that can't be nothing of it is left."""
        checked_guest_name(name)
        config = added_guest(name, options)
        made = {"rate": config.rate, "channels": config.channels}
        async with self.keeper.turn:
            if name in self.guests:
                raise GraphError(f"guest {name} exists already")
            if len(self.guests) >= GUESTS_MAX:
                raise GraphError(f"there are {GUESTS_MAX} guests already, the most there can be; remove one")
            # One that was kept, but could not be brought back, is not forgotten for being tried again.
            before = (await self.keeper.write(self.store.guests)).get(name)
            keep = partial(self.store.keep_guest, name)
            otherwise = partial(self.store.drop_guest, name) if before is None else partial(keep, before)
            async with self.keeper.keeping(partial(keep, made), otherwise):
                return await self._start_guest(config)

    async def _bring_back(self, name: str, options: dict[str, Any]) -> None:
        """A guest of before. One that can't be opened any more must not keep the others from starting."""
        try:
            await self._start_guest(added_guest(name, options))
        except MillraceError as error:
            log.error("guest %s is left out: %s", name, error)
            self.doctor.left_out(name, str(error))

    async def _start_guest(self, config: GuestConfig) -> Guest:
        """Make a guest and open its sockets; where that can't be nothing of it is left."""
        kept = await self.keeper.write(self.store.guest, config.name)
        guest = Guest(config, self.ids, self.driver, Path(self.config.runtime), self.listeners)
        guest.door.prompts = self.prompts
        guest.remembered = Remembered(self.keeper, config.name, guest.door.rules)
        await guest.remembered.load()
        self.doctor.look_after(guest)
        if config.rights is not None:
            guest.door.holder = Holder(f"guest/{guest.name}", config.rights, frozenset({guest.name}))
        guest.remembered_devices = RememberedDevices(self.keeper, config.name, guest.door.devices)
        self._restore(guest, kept)
        try:
            await guest.start()
            self._native.append(NativeServer(self, guest.native_path, Admits.PROGRAMS, guest))
            self.guests[guest.name] = guest
            self._publish(guest)
            for spec in config.doors:
                self.attach(guest.name, spec)
        except BaseException:
            self.guests.pop(guest.name, None)
            await self._stop_guest(guest)
            raise
        return guest

    @staticmethod
    def _restore(guest: Guest, kept: KeptGuest) -> None:
        """Its sinks, levels and rules of before; rules of the configuration stand where no others were made."""
        defaults = {(DEFAULT, kind): name for kind, name in kept.defaults.items()}
        guest.door.devices.load({**kept.levels, **defaults})
        guest.door.devices.restore_all()
        for name, description in kept.sinks:
            try:
                guest.graph.add_sink(name, description)
            except GraphError as error:
                log.warning("guest %s: its sink %s of before is left out: %s", guest.name, name, error)
        rules = [(what, ANY, verdict) for what, verdict in guest.config.grants]
        for what, program, verdict in (*rules, *kept.grants):
            guest.door.grants.set(what, program, verdict)

    def _take_connection(self, request: dict[str, Any], fd: int) -> dict[str, Any]:
        """A connection to QEMU that another program made: `millrace attach qemu --p2p`."""
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise ConfigError("that descriptor is not a socket")
        name, copy = str(request.get("guest", "default")), socket.socket(fileno=os.dup(fd))
        try:
            return self.attach(name, DoorSpec("p2p", f"fd {copy.fileno()}", connection=copy)).view()
        except BaseException:
            copy.close()
            raise

    @property
    def trouble(self) -> str:
        """Why changes are not kept."""
        return self.store.trouble

    def turns_of(self, holder: Holder) -> Turns:
        """At whose expense a holder's commands are done: a guest, however many tokens it has, a token of several, and
        the owner."""
        kind = holder.key.partition("/")[0]
        if kind != "owner" and len(holder.guests) == 1 and (name := min(holder.guests)) in self.guests:
            return self.guests[name].turns
        if kind != "token":
            return self.turns
        if holder.key not in self._turns:
            made = self._turns[holder.key] = Turns()
            made.on_wait = lambda waited_ns: self.doctor.made_to_wait("", holder.key, made, waited_ns)
        return self._turns[holder.key]

    def quiet(self) -> bool:
        """Whether nothing plays in any guest."""
        return not any(guest.graph.running for guest in self.guests.values())

    def refused(self) -> int:
        """Requests that were not let in, or not allowed."""
        return self.forbidden + (self._web.refused() if self._web is not None else 0)

    @property
    def incidents(self) -> Incidents:
        """What has gone wrong."""
        return self.doctor.incidents

    def policy(self) -> dict[str, Any] | None:
        """Which session manager is in charge, if any."""
        holder = self.claims.holder("policy")
        if not isinstance(holder, NativeSession):
            return None
        return {"name": holder.name, "pid": holder.subject.identity.pid}

    # -- native connections and the registry -------------------------------------------------

    def _native_sessions(self) -> list[NativeSession]:
        return [session for server in self._native for session in list(server.sessions)]

    async def _stop_guest(self, guest: Guest) -> None:
        for server in [s for s in self._native if s.guest is guest]:
            server.close()
            self._native.remove(server)
        await guest.stop()
        self.registry.drop_guest(guest.name)
        self.doctor.flight.forget(guest.name)

    def _forget_turns(self, key: str) -> None:
        self._turns.pop(key, None)
        self.budgets.forget(key)

    def release(self, session: NativeSession) -> None:
        """A native connection has gone, and with it what it had claimed and ducked."""
        self.claims.release(session)
        for guest in self.guests.values():
            for id_ in session.trims & guest.graph.streams.keys():
                guest.graph.set_trim(guest.graph.streams[id_], 1.0)

    def duck(self, session: NativeSession, key: str, db: float, guest: str | None) -> None:
        """Take a stream back for as long as that connection lives."""
        home = verbs.home_of(self.commands.visible(session.holder), key, guest)
        session.holder.demand(Right.CONTROL, home.name)
        _, node = verbs.find_node(self, key, home.name)
        if not isinstance(node, Stream):
            raise ConfigError(f"{key}: only streams can be turned down")
        checked_number(db, "db", -96, 0)
        home.graph.set_trim(node, 1.0 if db == 0 else 10 ** (db / 20))
        session.trims.add(node.id)

    def _prompt_changed(self, change: str, prompt: Prompt) -> None:
        if change == "new":
            self.registry.put(prompt.id, "request", prompt.guest, prompt.view)
        else:
            self.registry.drop(prompt.id)

    def _publish(self, guest: Guest) -> None:
        """A guest's objects, now and whenever they change."""
        self.registry.put(guest.id, "guest", guest.name, lambda: guest_summary(guest))
        publisher = Publisher(self.registry, guest)
        for node in guest.graph.nodes():
            publisher.node_changed("new", node)
        guest.graph.observers.append(publisher.node_changed)
        guest.door.on_client = publisher.client_changed
        guest.on_listener = publisher.listener_changed
        guest.on_door = publisher.door_changed

    async def grant(self, guest: Guest, what: Permission, program: str, verdict: Verdict | None) -> None:
        """Make or take away a rule; what may not go on ends at once."""
        async with self._turn(guest):
            guest.door.grants.demand_room(what, program)
            await self.keeper.write(self.store.keep_grant, guest.name, what, program, verdict)
            guest.door.grants.set(what, program, verdict)
        guest.door.end_forbidden()
        for session in self._native_sessions():
            session.end_forbidden(guest)

    async def decide(self, prompt: Prompt, allow: bool, always: bool, by: str) -> None:
        """Answer a request, for this client or for its program from now on."""
        names = prompt.subject.identity.names
        if always and not names:
            raise GraphError("that program can't be identified: answer without --always")
        if always:
            verdict = Verdict.ALLOW if allow else Verdict.DENY
            await self.grant(self.guest(prompt.guest), prompt.what, names[0], verdict)
        log.info("guest %s: %s was %s %s by %s", prompt.guest, prompt.subject.identity,
                 "granted" if allow else "denied", prompt.what.value, by)  # fmt: skip
        self.prompts.decide(prompt, allow)

    async def add_sink(self, guest: Guest, name: str, description: str) -> Sink:
        """Add a sink that outlives the daemon."""
        async with self._turn(guest):
            verbs.demand_sink_name(guest, name)
            keep = partial(self.store.keep_sink, guest.name, name)
            async with self.keeper.keeping(partial(keep, description or name), partial(keep, None)):
                return guest.graph.add_sink(name, description or name)

    async def remove_sink(self, guest: Guest, name: str) -> None:
        """Remove a sink: what plays there goes on at the default sink."""
        async with self._turn(guest):
            sink, _ = verbs.removable(guest, name)
            await self.keeper.write(self.store.keep_sink, guest.name, sink.name, None)
            guest.leaving.add(sink)
        # With thousands of streams that takes a while, which other guests' changes need not wait for.
        try:
            await in_steps(guest.graph.leave(sink, verbs.heir(guest, sink)))
            guest.graph.remove_sink(sink, verbs.heir(guest, sink))
        finally:
            guest.leaving.discard(sink)

    async def set(self, key: str, settings: dict[str, str], name: str) -> None:
        """Change a listener's settings, or a level; those of sinks and sources outlive the daemon."""
        if key.startswith("listener/"):
            verbs.find_listener(self, key).configure(settings)
            return
        guest, node = verbs.find_node(self, key, name)
        gains, mute = verbs.parse_level(node, settings)
        if isinstance(node, Sink):
            async with self._turn(guest):
                level = (gains or node.gains, node.mute if mute is None else mute)
                await self.keeper.write(self.store.keep_level, guest.name, node.kind, node.name, level)
                guest, node = verbs.find_node(self, key, guest.name)
                guest.door.devices.learn((node.kind, node.name), level)
        verbs.set_level(guest, node, gains, mute)

    def attach(self, name: str, spec: DoorSpec) -> Attachment:
        """Give a guest a door to its machine."""
        return attach(self.ids.take(), self.guest(name), spec)

    async def detach(self, key: str) -> None:
        """Let go of a machine."""
        for guest in self.guests.values():
            for attachment in guest.attachments:
                if attachment.key == key:
                    await attachment.stop()
                    return
        raise missing(key)

    async def remove_guest(self, name: str) -> None:
        """End a guest: its clients and listeners are told."""
        async with self.keeper.turn:
            guest = self.guest(name)
            await self.keeper.write(self.store.remove_guest, name)
            del self.guests[name]
            self.access.forget_guest(name)
            if self._web is not None:
                self._web.end_guest(guest, "the guest was removed")
            await self._stop_guest(guest)
