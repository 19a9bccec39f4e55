"""A guest's machine: connects to it, and reconnects whenever the connection is lost."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

from millrace.budget import ENDED, MACHINES
from millrace.doors.machine import MachineDoor
from millrace.doors.pushed import PushedStream
from millrace.errors import MillraceError, PeerLost, RemoteProtocolError, bare
from millrace.guest.home import Home, MachineView
from millrace.guest.machines.address import DoorSpec
from millrace.guest.machines.losses import Losses
from millrace.guest.machines.refit import Fitted, Refit
from millrace.guest.machines.retries import Retries, said
from millrace.guest.machines.whereabouts import Whereabouts, of_spec
from millrace.io.clock import now_ns
from millrace.symptoms import Symptom
from millrace.units import HostNs

log = logging.getLogger("millrace.attach")
SESSION_BYTES = 32 * 1024
REAL_TIME_PERCENT = (99.0, 101.0)
SLOW_TICK_PERCENT = (97.0, 99.5)


DemandPlace: TypeAlias = Callable[["AttachedMachine"], None]


def anywhere(machine: AttachedMachine) -> None:
    """A `DemandPlace` for a machine that may be attached wherever it is."""


class Displaced(PeerLost):
    """Another viewer holds a connection that the machine's server grants to only one at a time."""


# A door outlives its sessions. It is looked for until it is detached, whatever goes wrong, because a machine may be
# started and stopped at any time without notice: each second, or ever more seldom if it is no use (`Retries`).
# The exception is `p2p`: its connection was handed over and can't be made again, so the door goes with it.
#
# Each session has an account of its own, with a part for each of its connections. It is closed after `_gone` in any
# case, so a machine that reconnects for ever can't accumulate charges, and a guest without room for a session retries
# like one without a machine.
class AttachedMachine(ABC):
    """One door of one guest. Subclasses serve a session, which always ends with an exception."""

    slow_tick = ""
    """Hint for a machine that its default timing makes slightly slow; {} is its speed in percent."""

    def __init__(self, id_: int, guest: Home, spec: DoorSpec) -> None:
        self.id, self.guest, self.spec = id_, guest, spec
        self.state = "waiting"
        self.error = ""
        self.kept = ""
        """What opens it again when the daemon starts: the configuration, or the daemon's state; empty if nothing."""
        self.sessions = 0
        self.machine = ""
        """The machine's own name, once it has sent one."""
        self.doors: list[MachineDoor] = []
        """The doors of the current session."""
        self.place = of_spec(spec)
        """Where it is, by the address or by the newest connection."""
        self._demand_place: DemandPlace = anywhere
        self._losses = Losses()
        self._retries = Retries()
        self._attached_ns: HostNs = 0
        """When the newest session was up."""
        self._refits: list[Refit] = []
        """What looks for room for parts of the current session."""
        self._forgotten = False
        self._task: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        """Set when somebody attaches it again."""
        self._account = ENDED
        """Memory of the current session."""
        self._left: asyncio.Event | None = None
        """Set when the newest connection that has a last word is closed."""

    @property
    def key(self) -> str:
        """Its name for users and the API."""
        return f"door/{self.id}"

    @property
    def label(self) -> str:
        """The guest and the door, for the log."""
        return f"guest {self.guest.name}, {self.spec.text}"

    def start(self, demand_place: DemandPlace = anywhere) -> None:
        """Start looking for the machine. `demand_place` raises GraphError if it may not be attached where it is."""
        self._demand_place = demand_place
        # In turns: many machines whose connections end together are looked for together.
        self._task = self.guest.turns.task(self._run, self.key)

    async def stop(self, why: str) -> None:
        """Disconnect from the machine and stop looking for it; viewers of its screens are told why.

        Returns when the machine has processed what it was told last, if it does that in time.
        """
        if not self._forgotten:
            self._show("detached", why)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            # It keeps the error by which it was cancelled.
            self._task = None
        self._forget()
        if self._left is not None:
            await self._left.wait()

    def _forget(self) -> None:
        if self.spec.connection is not None:
            self.spec.connection.close()
        if not self._forgotten:
            self._forgotten = True
            self.guest.machine_changed("remove", self)

    async def _run(self) -> None:
        while True:
            before = self.sessions
            self._begin()
            try:
                # Not to connect again and again to what is another guest's.
                self._demand_place(self)
                self._account = self.guest.admission.account({"itself": SESSION_BYTES}, MACHINES)
                await self._session()
            except (MillraceError, OSError, TimeoutError, EOFError) as error:
                wait_s = self._lost(error, self.sessions > before)
            except Exception as error:
                # An internal error must end at most this session.
                log.exception("%s: session ended because of an internal error", self.label)
                wait_s = self._lost(error, self.sessions > before)
            finally:
                self._gone()
                self._account.close()
            if self.spec.kind == "p2p":
                self._forget()
                return
            await self._asked_within(wait_s)

    def _reached(self, place: Whereabouts | None) -> None:
        """A connection is made: it is known where the machine is. GraphError if it may not be attached."""
        self.place = place
        self._demand_place(self)

    # A session may consist of several connections and tasks, any of which may fail first. `ended` gets the first
    # failure, which is the one that is reported: the others usually follow from it.
    def _begin(self) -> None:
        """A session begins: have nothing of the one before."""
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.ready: asyncio.Future[None] = loop.create_future()

    def _refitted(self, part: Fitted) -> Callable[[], None]:
        """Give this part of the machine room as soon as there is some; returns what to call when it may have none."""
        refit = Refit(part, self._changed)
        self._refits.append(refit)
        return refit.look

    def _end(self, why: Exception) -> None:
        """The session ends, by this if nothing else has ended it before."""
        if not self.ended.done():
            self.ended.set_exception(why)

    def _up(self) -> None:
        """The machine has let us in."""
        if not self.ready.done():
            self.ready.set_result(None)

    async def _until_ended(self) -> None:
        """Wait for the session to be up, and then for its end, with the error that says why."""
        await asyncio.wait({self.ready, self.ended}, return_when=asyncio.FIRST_COMPLETED)
        if not self.ended.done():
            self._attached()
        await self.ended

    def failed(self, error: Exception) -> None:
        """See `Machine`."""
        if self.ended.done():
            log.error("%s: internal error after the session", self.label, exc_info=error)
        self._end(error)

    def _changed(self) -> None:
        """What is said of it has changed."""
        self.guest.machine_changed("change", self)

    def _may_wait(self) -> Callable[[int], bool]:
        """A check, for a new connection of the session, of whether so many bytes may wait for the machine to read."""
        part = object()
        return lambda size: self._account.fits(part, size, MACHINES)

    def _partial(self) -> Callable[[int], None]:
        """Books, for a new connection, the bytes of a partial message; BudgetError if they do not fit."""
        part = object()
        return lambda size: self._account.hold(part, size, MACHINES)

    async def _asked_within(self, seconds: float) -> bool:
        """Wait; True if somebody attached it again meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self._wanted.wait()
        except TimeoutError:
            return False
        self._wanted.clear()
        return True

    def _attached(self) -> None:
        """The session is up."""
        self.state, self.error = "attached", ""
        self.sessions += 1
        self._attached_ns = now_ns()
        self._changed()
        log.info("guest %s: %s attached", self.guest.name, self.spec.text)

    def _lost(self, error: Exception, up: bool) -> float:
        """A session has ended, which was `up` or was not; returns how long to wait before the next, in seconds."""
        text = str(error) or "no answer in time"
        if times := self._losses.logged(error, text, now_ns()):
            again = f" ({times} times)" if times > 1 else ""
            log.warning("guest %s: %s: %s%s", self.guest.name, self.spec.text, text, again)
        if self.state == "attached":
            self._report("broke the protocol" if isinstance(error, RemoteProtocolError) else "lost", text)
        wait_s = self._retries.after(error, now_ns() - self._attached_ns if up else None)
        more = said(wait_s) if self.spec.kind != "p2p" else ""
        self._show("displaced" if isinstance(error, Displaced) else "waiting", text + more)
        return wait_s

    def _report(self, cause: str, error: str) -> None:
        self.guest.report(Symptom("machine", cause, self.guest.name, self.key, {"error": error}))

    def _show(self, state: str, error: str) -> None:
        if state == "displaced" and self.state != state:
            self._report("displaced", error)
        self.state, self.error = state, error
        self._changed()

    @abstractmethod
    async def _session(self) -> None:
        """Find the machine and serve it until the session ends, with an error that says why."""

    # What has ended the session by an error may raise it again when it is closed. The frames of an error hold the
    # session, and what is kept of the session holds the error: a cycle, which only a full collection would free
    # (daemon/collector.py). So when a session has ended, none of its errors has frames, and none of its parts is kept.
    def _gone(self) -> None:
        """The session has ended: clean up, each part of it whatever goes wrong in another."""
        for close in self._parts():
            try:
                close()
            except Exception:
                log.exception("%s: internal error at the end of the session", self.label)
        # Retrieve the exception: there may be nobody left to await it, and asyncio would log it as never retrieved.
        if not self.ended.cancel() and not self.ended.cancelled():
            bare(self.ended.exception())

    def _parts(self) -> Iterator[Callable[[], None]]:
        """What closes each part of the session, in order. The doors come first: they may have a last word to say."""
        yield from [refit.close for refit in self._refits]
        self._refits.clear()
        yield from [door.close for door in self.doors]
        self.doors.clear()

    def retake(self, spec: DoorSpec, demand_place: DemandPlace) -> bool:
        """Attached again, perhaps with another password: retry at once. False if there is nothing to retry.

        A password or CA that is not given again keeps its value.
        """
        if self.state == "attached" or self.spec.kind == "p2p":
            return False
        before = self.spec
        if not (spec.password or spec.password_file):
            spec = replace(spec, password=before.password, password_file=before.password_file)
        self.spec = spec if spec.ca_file else replace(spec, ca_file=before.ca_file)
        self._demand_place = demand_place
        self._retries = Retries()
        # What was wrong before says nothing about the attempt that begins now.
        self._show("waiting", "")
        self._wanted.set()
        return True

    def keep(self, kept: str) -> None:
        """Note what opens it at the next start."""
        self.kept = kept
        self._changed()

    def streams(self) -> list[PushedStream]:
        """The machine's playback streams."""
        return [stream for door in self.doors for stream in door.streams]

    def hint(self) -> str:
        """Advice for the user."""
        if trouble := next((refit.trouble for refit in self._refits if refit.trouble), ""):
            return trouble
        percents = [p for s in self.streams() if s.node.active and (p := s.speed.percent(s.format.rate)) is not None]
        if not percents:
            return ""
        percent = min(percents)
        if self.slow_tick and SLOW_TICK_PERCENT[0] <= percent < SLOW_TICK_PERCENT[1]:
            return self.slow_tick.format(percent)
        if not REAL_TIME_PERCENT[0] <= percent <= REAL_TIME_PERCENT[1]:
            return f"guest is at {percent:.0f} % of real time; it may need more CPU"
        return ""

    def view(self) -> MachineView:
        """The machine as shown to clients."""
        return MachineView(
            id=self.key, door=self.spec.text, state=self.state, error=self.error,
            machine=self.machine if self.state == "attached" else "", sessions=self.sessions,
            recording=any(door.recording for door in self.doors), hint=self.hint(),
            kept=bool(self.kept),
        )  # fmt: skip
