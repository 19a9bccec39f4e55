"""The client of QEMU's D-Bus display (docs/interop/dbus-display, ui/dbus-display1.xml of QEMU), sans-IO.

It finds the machine, registers listeners for its sound and its screens, and sends keys and the pointer. What the
listeners receive over their own connections is in `audio.py` and `display.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

from millrace.dsp.convert import Buffer
from millrace.errors import PeerLost
from millrace.text import LABEL_MAX, printable
from millrace.units import NS_PER_S, HostNs
from millrace.wire.chunk import Chunk
from millrace.wire.contract import AnswerDue
from millrace.wire.qemu.clipboard import MESSAGE_MAX, QemuClipboard
from millrace.wire.qemu.dbus import CALL, ERROR, PROPERTIES, SIGNAL, DBusWire, Message
from millrace.wire.qemu.values import Writer

AUDIO_PATH = "/org/qemu/Display1/Audio"
AUDIO = "org.qemu.Display1.Audio"
VM_PATH, VM = "/org/qemu/Display1/VM", "org.qemu.Display1.VM"
CONSOLE_PATH, CONSOLE = "/org/qemu/Display1/Console_", "org.qemu.Display1.Console"
KEYBOARD, MOUSE = "org.qemu.Display1.Keyboard", "org.qemu.Display1.Mouse"
BUS, BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
QEMU_NAME = "org.qemu"
ANSWER_NS = 10 * NS_PER_S
CONSOLES_MAX = 16
"""Consoles of one machine that are asked about; a card with several heads has one for each."""
NUMBER_MAX = 999_999_999
"""Of a console, as `console_number` reads it."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The virtual machine that answered, and the numbers of its consoles."""

    name: str
    uuid: str
    consoles: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Console:
    """A console; one that is not `graphic` is a terminal of QEMU's own."""

    number: int
    label: str
    head: int
    graphic: bool


@dataclass(frozen=True, slots=True)
class PointerKind:
    """Whether a console takes positions of the pointer (a tablet), or movements (a mouse)."""

    number: int
    absolute: bool


@dataclass(frozen=True, slots=True)
class ConsoleLights:
    """The lights of a console's keyboard, as in `LightsTold` (qapi: dbus-display1.xml, `Modifiers`)."""

    number: int
    on: int


@dataclass(frozen=True, slots=True)
class ConsoleSize:
    """The size of what a console shows. It comes by another way than the pictures, so before or after them."""

    number: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Registered:
    """QEMU has accepted a listener: 'Out', 'In', or 'Console_' and a number."""

    kind: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """QEMU refused a request; `what` is a listener as in `Registered`, or the name of another request."""

    what: str
    error: str
    text: str


@dataclass(frozen=True, slots=True)
class NotThere:
    """No machine on this bus, or none with that name; `names` are the ones found."""

    names: tuple[str, ...]


ClientEvent: TypeAlias = Machine | Console | ConsoleSize | PointerKind | ConsoleLights | Registered | Refusal | NotThere


def console_path(number: int) -> str:
    """The object of a console."""
    return f"{CONSOLE_PATH}{number}"


def console_number(text: str) -> int | None:
    """The number in a console's path, in `Registered.kind` or in `Refusal.what`; None if it is about something else."""
    match = re.fullmatch(r"(?:/org/qemu/Display1/Console_|Console_|org\.qemu\.Display1\.\w+ )(\d{1,9})", text, re.ASCII)
    return int(match[1]) if match else None


def _label(found: dict[str, Any], name: str) -> str:
    """A property that is shown, cut; empty if it is not text. Showing other values may take long."""
    value = found.get(name)
    return value[:LABEL_MAX] if isinstance(value, str) else ""


# Candidates on a bus are asked one after another and not all at once, so the first that fits is the one used, and its
# answer is the only one waited for. One that answers with an error is not a machine and is passed over; peer to peer
# there is no other candidate, and an error is reported. A machine that is stopped answers nothing, so there is a
# deadline until it has answered about the playback listener, which is always registered first.
#
# Input is a call like any other: QEMU answers each, and an error (a position for a mouse) is not news to anybody. Their
# number is what tells that QEMU does not keep up, so that the door can join movements instead of queueing them.
class DisplayClient(AnswerDue):
    """Finds the machine, registers listeners, and sends input.

    On a bus, several machines may queue for the same bus name, so each is asked for its VM name; `vm` selects
    one. A peer-to-peer connection has only one. After `Machine`, call `send_register` and `send_describe`.
    """

    def __init__(self, uid: int, on_bus: bool, now_ns: HostNs, vm: str | None = None) -> None:
        self._answer_by_ns = now_ns + ANSWER_NS
        """When the machine must have answered about the 'Out' listener, or, if there is to be no sound, a console."""
        self._wire = DBusWire(uid, MESSAGE_MAX)
        self.clipboard = QemuClipboard(self._wire)
        self._vm = vm
        self._on_bus = on_bus
        self._destination: str | None = None
        self._pending: dict[int, tuple[str, str | None]] = {}
        self._candidates: list[str] = []
        self._names: list[str] = []
        self._events: list[ClientEvent] = []
        self._sizes: dict[int, tuple[int, int]] = {}
        """By console, of those that were asked about: nothing is told of others."""
        self.unanswered = 0
        """Input that QEMU has not processed yet, in calls."""
        if on_bus:
            self._ask("hello", BUS_PATH, BUS, "Hello", destination=BUS)
            owners = Writer().text("s", QEMU_NAME).bytes()
            self._ask("owners", BUS_PATH, BUS, "ListQueuedOwners", "s", owners, destination=BUS)
        else:
            self._ask_machine(None)

    def _ask(
        self, what: str, path: str, interface: str, member: str, signature: str = "", body: bytes = b"",
        destination: str | None = None, fds: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        serial = self._wire.send_call(path, interface, member, signature, body, destination, fds)
        self._pending[serial] = (what, destination)

    def _ask_machine(self, destination: str | None) -> None:
        body = Writer().text("s", VM).bytes()
        self._ask("machine", VM_PATH, PROPERTIES, "GetAll", "s", body, destination)

    # -- listeners -------------------------------------------------------------------------------

    def send_register(self, kind: str, fd: int) -> None:
        """Register a listener: `fd`, one end of a socket pair, goes along with the message; `kind` is Out or In."""
        # On the wire a descriptor is its index among those sent with the message.
        body = Writer().number("h", 0).bytes()
        self._ask(kind, AUDIO_PATH, AUDIO, f"Register{kind}Listener", "h", body, self._destination, (fd,))

    def send_register_screen(self, console: int, fd: int) -> None:
        """Register a listener for what a console shows, as `send_register` does for sound."""
        body = Writer().number("h", 0).bytes()
        what, path = f"Console_{console}", console_path(console)
        self._ask(what, path, CONSOLE, "RegisterListener", "h", body, self._destination, (fd,))

    def send_describe(self, console: int) -> None:
        """Ask what a console is, its pointer and its lights; `Console`, `PointerKind` and `ConsoleLights` answer."""
        self._sizes[console] = 0, 0
        for interface in (CONSOLE, MOUSE, KEYBOARD):
            body = Writer().text("s", interface).bytes()
            self._ask(f"{interface} {console}", console_path(console), PROPERTIES, "GetAll", "s", body,
                      self._destination)  # fmt: skip

    def send_register_clipboard(self) -> None:
        """Take part in QEMU's clipboard, if it has one; `clipboard.clip_there` says when it has accepted that."""
        self.clipboard.send_register(self._destination)

    # -- input -----------------------------------------------------------------------------------

    def _input(self, console: int, interface: str, member: str, signature: str, *values: int) -> None:
        body = Writer()
        for code, value in zip(signature, values, strict=True):
            body.number(code, value)
        self.unanswered += 1
        self._ask("input", console_path(console), interface, member, signature, body.bytes(), self._destination)

    def send_key(self, console: int, code: int, down: bool) -> None:
        """Press or release a key, by its XT number; extended ones with 0x80."""
        self._input(console, KEYBOARD, "Press" if down else "Release", "u", code)

    def send_button(self, console: int, button: int, down: bool) -> None:
        """Press or release a button: 0 left, 1 middle, 2 right, 3 and 4 a notch of the wheel up and down, 5, 6."""
        self._input(console, MOUSE, "Press" if down else "Release", "u", button)

    def send_position(self, console: int, x: int, y: int) -> None:
        """Put the pointer somewhere; QEMU refuses it without a tablet, and outside of the screen."""
        self._input(console, MOUSE, "SetAbsPosition", "uu", x, y)

    def send_movement(self, console: int, dx: int, dy: int) -> None:
        """Move the pointer; QEMU refuses it with a tablet."""
        self._input(console, MOUSE, "RelMotion", "ii", dx, dy)

    def send_size(self, console: int, width: int, height: int) -> None:
        """Tell the guest the size of the window, which some guests follow. Millimetres and position are unknown."""
        self._input(console, CONSOLE, "SetUIInfo", "qqiiuu", 0, 0, 0, 0, width, height)

    # -- in --------------------------------------------------------------------------------------

    # Each call takes one message, which may have `VALUES_MAX` values.
    def receive(self, data: Buffer, now_ns: HostNs) -> None:
        """Take bytes; RemoteProtocolError ends the connection. While `unfinished`, it must be called again."""
        self._wire.receive(data, now_ns)
        self.clipboard.go_on()
        message = None if self.clipboard.reading else self._wire.take()
        if message is not None:
            self._said(message)
        self._wire.forget()

    @property
    def unfinished(self) -> bool:
        """It has messages that it can process: it stopped so that others may go on."""
        return self._wire.waiting or self.clipboard.unfinished

    def _said(self, message: Message) -> None:
        if self.clipboard.took(message):
            return
        if message.kind == CALL:
            self._wire.send_error(message, "org.freedesktop.DBus.Error.UnknownObject", "nothing is served here")
            return
        if message.kind == SIGNAL:
            self._signalled(message)
            return
        pending = self._pending.pop(message.reply_to, None) if message.reply_to is not None else None
        if pending is not None:
            self._answered(*pending, message)

    def _signalled(self, message: Message) -> None:
        number = console_number(message.path)
        if number is None or number not in self._sizes:
            return
        if message.interface != PROPERTIES or message.signature != "sa{sv}as":
            return
        interface, changed, _ = message.values()
        if interface == MOUSE:
            self._pointer(number, changed)
        elif interface == KEYBOARD:
            self._lights(number, changed)
        elif interface == CONSOLE:
            self._sized(number, changed)

    def _sized(self, number: int, found: dict[str, Any]) -> None:
        """Note what is known of a size; QEMU names only what has changed."""
        before = self._sizes[number]
        width, height = found.get("Width", before[0]), found.get("Height", before[1])
        if isinstance(width, int) and isinstance(height, int) and (width, height) != before:
            self._sizes[number] = width, height
            self._events.append(ConsoleSize(number, width, height))

    def _pointer(self, number: int, found: dict[str, Any]) -> None:
        absolute = found.get("IsAbsolute")
        if isinstance(absolute, int):
            self._events.append(PointerKind(number, bool(absolute)))

    def _lights(self, number: int, found: dict[str, Any]) -> None:
        on = found.get("Modifiers")
        if isinstance(on, int):
            self._events.append(ConsoleLights(number, on))

    def _answered(self, what: str, destination: str | None, message: Message) -> None:
        if what == "Out" or console_number(what) is not None:
            self._answer_by_ns = None
        if what == "input":
            self.unanswered -= 1
        elif what == "owners":
            self._candidates = [] if message.kind == ERROR else [str(n) for n in message.values("as")[0]]
            self._next_candidate()
        elif what == "machine" and destination is not None and message.kind == ERROR:
            self._next_candidate()
        elif what == "signals":
            return
        elif message.kind == ERROR:
            text = message.values()[0] if message.signature.startswith("s") else ""
            self._events.append(Refusal(what, printable(message.error), printable(text)))
        elif what == "machine":
            self._machine(destination, message)
        elif " " in what:
            self._described(what, message)
        elif what != "hello":
            self._events.append(Registered(what))

    def _described(self, what: str, message: Message) -> None:
        interface, _, number = what.partition(" ")
        found = message.values("a{sv}")[0]
        if interface == MOUSE:
            self._pointer(int(number), found)
            return
        if interface == KEYBOARD:
            self._lights(int(number), found)
            return
        self._sized(int(number), found)
        label, head = _label(found, "Label"), found.get("Head", 0)
        graphic = found.get("Type") == "Graphic"
        self._events.append(Console(int(number), label, head if isinstance(head, int) else 0, graphic))

    def _machine(self, destination: str | None, message: Message) -> None:
        found = message.values("a{sv}")[0]
        name, uuid = _label(found, "Name"), _label(found, "UUID")
        if destination is not None and self._vm not in (None, name, uuid):
            self._names.append(name)
            self._next_candidate()
            return
        self._destination = destination
        if self._on_bus:
            self._watch_signals(destination)
        ids = found.get("ConsoleIDs", [])
        listed = ids if isinstance(ids, list) else []
        numbers = dict.fromkeys(n for n in listed if isinstance(n, int) and 0 <= n <= NUMBER_MAX)
        self._events.append(Machine(name, uuid, tuple(numbers)[:CONSOLES_MAX]))

    def _watch_signals(self, destination: str | None) -> None:
        rule = f"type='signal',sender='{destination}',interface='{PROPERTIES}',member='PropertiesChanged'"
        self._ask("signals", BUS_PATH, BUS, "AddMatch", "s", Writer().text("s", rule).bytes(), destination=BUS)

    def _next_candidate(self) -> None:
        if self._candidates:
            self._ask_machine(self._candidates.pop(0))
        else:
            self._events.append(NotThere(tuple(self._names)))

    @property
    def partial_bytes(self) -> int:
        """Bytes received of messages that are still incomplete, or were not processed, and of a text."""
        return self._wire.partial_bytes + self.clipboard.held_bytes

    def events(self) -> list[ClientEvent]:
        """The events since the last call."""
        out, self._events = self._events, []
        return out

    def _overdue(self) -> PeerLost:
        return PeerLost("QEMU does not answer on D-Bus; it may be stopped")

    def data_to_send(self) -> list[Chunk]:
        """See `Sender`."""
        return self._wire.data_to_send()
