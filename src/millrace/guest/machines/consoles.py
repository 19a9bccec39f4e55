"""The screens of a machine over QEMU's D-Bus interface."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Protocol

from millrace.doors.machine import MachineDoor
from millrace.doors.qemu.input import ConsoleInput
from millrace.doors.qemu.screen import QemuScreen
from millrace.errors import GraphError, PeerLost
from millrace.guest.home import Home
from millrace.guest.machines.paced import Paced
from millrace.guest.machines.refit import Refit
from millrace.io.clock import now_ns
from millrace.io.fdstream import FdStream
from millrace.io.later import Later
from millrace.io.settled import Settled
from millrace.io.sharedpicture import shared_picture
from millrace.pixels.rects import Size
from millrace.symptoms import TEXT_MAX, Evidence, Symptom
from millrace.text import printable
from millrace.wire.qemu.client import Console, ConsoleLights, ConsoleSize, DisplayClient, PointerKind, Refusal
from millrace.wire.qemu.display import ScreenPeer

log = logging.getLogger("millrace.attach")
Lost = Callable[[Exception], None]
SETTLED_S = 0.1
"""By how much the size of a console may come before the pictures of that size."""
AGAIN_FIRST_S, AGAIN_MAX_S = 2.0, 120.0
"""Backoff before a console is watched again, because its picture was wrong or had no room."""


class Owner(Protocol):
    """The machine whose screens these are."""

    guest: Home
    doors: list[MachineDoor]

    @property
    def key(self) -> str:
        """Its name for users and the API."""
        ...

    @property
    def label(self) -> str:
        """The guest and the door, for the log."""
        ...

    def screen_stream(
        self, sock: socket.socket, peer: ScreenPeer, after: Callable[[], None], lost: Lost, busy: Callable[[], bool]
    ) -> FdStream:  # fmt: skip
        """A connection of the session that receives pictures; while its screen is `busy` it receives no more."""
        ...


class Shown:
    """A console that is shown: its screen, and what that is to do later."""

    def __init__(self, door: QemuScreen, flush: Callable[[], None], changed: Callable[[], None]) -> None:
        """`flush` is called when input was given to the client, `changed` when the screen's trouble is another one."""
        self.door, self._flush, self._refit = door, flush, Refit(door, changed)
        self._settled, self._sized = Settled(door.publish), Later(door.settle_size)
        self._paced = Paced(door.control.room)

    def received(self) -> None:
        """QEMU has sent something, or the screen goes on with it."""
        self.door.receive(now_ns())
        self._refit.look()
        if self.door.due:
            self._settled.came()

    def set_size(self, size: Size) -> None:
        """QEMU says its size."""
        self.door.set_size(size)
        self._sized.begin(SETTLED_S)

    def typed(self) -> None:
        """Keys were sent; the pointer was, or waits."""
        self._flush()
        self._paced.go_on()

    def answered(self) -> None:
        """QEMU has processed input."""
        self.door.control.send_motion()
        self._paced.relieved()

    def close(self) -> None:
        """It is shown no more."""
        try:
            self.door.close()
        finally:
            for later in (self._settled, self._sized, self._paced, self._refit):
                later.close()


# A machine's sound and its screens are served by one session but do without each other: a QEMU without a card for
# graphics has sound only, one without `audiodev` screens only. A connection for a screen that ends takes only that
# screen with it; if QEMU itself ended, the session's first connection says so.
class Consoles:
    """Those of one session."""

    def __init__(
        self, owner: Owner, client: DisplayClient, flush: Callable[[], None], changed: Callable[[], None]
    ) -> None:
        """`flush` is called when input was given to `client`, `changed` when what `hint` says may be something else."""
        self._owner, self._client, self._flush, self._changed = owner, client, flush, changed
        self.awaited: set[int] = set()
        """Consoles of which QEMU has not said yet what they are, or whether they can be watched."""
        self.registered = 0
        """How many can be watched."""
        self.trouble = ""
        """Why one can't, for users."""
        self._screens: dict[int, Shown] = {}
        self._absolute: dict[int, bool] = {}
        self._lights: dict[int, int] = {}
        self._sizes: dict[int, Size] = {}
        self._failed: set[int] = set()
        self._wait_s, self._later = AGAIN_FIRST_S, Later(self._watch_again)

    def describe(self, numbers: tuple[int, ...]) -> None:
        """Ask QEMU about these consoles."""
        self.awaited.update(numbers)
        for number in numbers:
            self._client.send_describe(number)

    def came(self, console: Console) -> None:
        """QEMU has described one: show it, unless it is a terminal of QEMU's own."""
        if not console.graphic:
            self.awaited.discard(console.number)
            return
        try:
            self._register(console)
        except GraphError as error:
            self._fail_for_now(console.number, str(error))

    # Our end is served before the call is sent, because QEMU waits on it.
    def _register(self, console: Console) -> None:
        owner, number = self._owner, console.number
        mine, theirs = socket.socketpair()
        try:
            peer = ScreenPeer(os.getuid(), os.close)
            control = ConsoleInput(self._client, number, lambda: shown.typed())
            door = QemuScreen(
                owner.guest.screens, peer, console, owner.key, control, shared_picture, partial(self._report, number),
                lambda: stream.go_on(), owner.guest.turns.over,
            )  # fmt: skip
        except BaseException:
            mine.close()
            theirs.close()
            raise
        owner.doors.append(door)
        shown = self._screens[number] = Shown(door, self._flush, self._changed)
        stream = owner.screen_stream(
            mine, peer, shown.received, lambda why: self._ended(number, why), lambda: door.busy
        )  # fmt: skip
        if number in self._sizes:
            shown.set_size(self._sizes[number])
        if number in self._absolute:
            door.set_absolute(self._absolute[number])
        if number in self._lights:
            door.screen.lights.told(self._lights[number])
        self._client.send_register_screen(number, theirs.detach())

    def _ended(self, number: int, why: Exception) -> None:
        """The connection of one screen has ended."""
        shown = self._screens.pop(number, None)
        if shown is None:
            return
        self._remove(shown)
        self.registered -= number not in self.awaited
        if shown.door.has_room_again:
            # QEMU accepts a listener in its place once it has noticed that this one is gone.
            self.awaited.add(number)
            self._try_again(number, AGAIN_FIRST_S)
            return
        self._report(number, "lost", str(why))
        if not isinstance(why, PeerLost):
            self._fail_for_now(number, str(why))

    def _remove(self, shown: Shown) -> None:
        self._owner.doors.remove(shown.door)
        shown.close()

    def sized(self, size: ConsoleSize) -> None:
        """QEMU says the size of a console."""
        self._sizes[size.number] = Size(size.width, size.height)
        if size.number in self._screens:
            self._screens[size.number].set_size(self._sizes[size.number])

    def pointer(self, kind: PointerKind) -> None:
        """What the guest takes as its pointer has changed, or is known now."""
        self._absolute[kind.number] = kind.absolute
        if kind.number in self._screens:
            self._screens[kind.number].door.set_absolute(kind.absolute)

    def lit(self, lights: ConsoleLights) -> None:
        """QEMU says which lights of the keyboard are on."""
        self._lights[lights.number] = lights.on
        if lights.number in self._screens:
            self._screens[lights.number].door.screen.lights.told(lights.on)

    def accepted(self, number: int) -> None:
        """QEMU has accepted the listener."""
        self.awaited.discard(number)
        self.registered += number in self._screens

    def refused(self, number: int, refusal: Refusal) -> None:
        """QEMU can't say what a console is, or has refused the listener."""
        self._fail(number, f"QEMU refused: {refusal.text or refusal.error}")
        if number in self._screens:
            self._remove(self._screens.pop(number))

    def _report(self, number: int, cause: str, why: str) -> None:
        guest = self._owner.guest
        evidence: Evidence = {"why": printable(why, TEXT_MAX), "console": number}
        inferred = cause == "lost"
        guest.report(Symptom("screen", cause, guest.name, self._owner.key, evidence, inferred=inferred))

    def _fail(self, number: int, why: str) -> None:
        self.awaited.discard(number)
        self.trouble = f"no screen of console {number}: {why}"
        log.warning("%s: %s", self._owner.label, self.trouble)

    # What was wrong with a picture may not be with the next, and memory may be free again.
    def _fail_for_now(self, number: int, why: str) -> None:
        self._fail(number, why)
        if self._try_again(number, self._wait_s):
            self._wait_s = min(2 * self._wait_s, AGAIN_MAX_S)

    def _try_again(self, number: int, wait_s: float) -> bool:
        """Watch a console again after so long, or with one that waits already; whether none does."""
        self._failed.add(number)
        if begins := not self._later.begun:
            self._later.begin(wait_s)
        return begins

    def _watch_again(self) -> None:
        failed, self._failed, self.trouble = self._failed, set(), ""
        self.describe(tuple(failed))
        self._flush()

    def answered(self) -> None:
        """QEMU has processed input: send what waited for that."""
        for shown in self._screens.values():
            shown.answered()

    def hint(self) -> str:
        """What is wrong with a screen, for users."""
        return next((one.door.trouble for one in self._screens.values() if one.door.trouble), self.trouble)

    def parts(self) -> list[Callable[[], None]]:
        """What closes each of them at the end of the session."""
        screens, self._screens = self._screens, {}
        return [self._later.close, *(shown.close for shown in screens.values())]
