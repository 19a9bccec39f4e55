"""The clipboard of QEMU's D-Bus display (org.qemu.Display1.Clipboard in ui/dbus-display1.xml of QEMU).

Both sides serve the same interface, and each calls the other: Grab says that there is something to paste, Request asks
for it. QEMU passes it between its guest's agent (spice-vdagent, by `-chardev qemu-vdagent,clipboard=on`), its VNC
server and this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from millrace.errors import ConfigError
from millrace.media.clip import CLIP_BYTES_MAX, PIECE_BYTES, ClipReader, ClipText
from millrace.wire.clips import ClipEvent, ClipGiving, ClipOffered, ClipSupplied, ClipWanted
from millrace.wire.qemu.dbus import CALL, ERROR, PROPERTIES, UNKNOWN_METHOD, DBusWire, Message
from millrace.wire.qemu.values import NO_PROPERTIES, Writer

PATH, INTERFACE = "/org/qemu/Display1/Clipboard", "org.qemu.Display1.Clipboard"
MESSAGE_MAX = CLIP_BYTES_MAX + 64 * 1024
"""A message with a text."""
ASKS_MAX = 2
"""Requests of QEMU that may wait for our text."""
_OFFER, _REQUEST = "offer", "Request"
_CLIPBOARD = 0
"""The selection; the others are X11's PRIMARY and SECONDARY."""
_TEXT = "text/plain;charset=utf-8"
_FAILED = "org.freedesktop.DBus.Error.Failed"


# A grab has a serial, by which QEMU and its guest's agent tell which of two grabs at the same time was the last: one
# below the highest seen is void. QEMU calls Register when these numbers begin again.
#
# QEMU's main loop, and so the guest, waits while QEMU asks for the properties of our object, which it does before it
# answers our Register: so that is answered as soon as it is received.
#
# QEMU may leave our calls unanswered. So one offer and one request is on its way at a time, and only the newest waits.
class QemuClipboard:
    """A `ClipSession`, over the connection of a `DisplayClient`."""

    clip_eager = False

    def __init__(self, wire: DBusWire) -> None:
        self._wire = wire
        self._destination: str | None = None
        self.clip_there = False
        """Whether QEMU has accepted us. It takes one at a time."""
        self.giving = ClipGiving()
        self._serial = 0
        self._calls: dict[int, str] = {}
        """What is on its way: Register, an offer (Grab, Release), Request."""
        self._wish: bool | None = None
        """What is to be offered when the offer on its way is answered."""
        self._again = False
        """The text that is on its way is to be requested again: it is an older one."""
        self._asks: list[Message] = []
        self._reading: tuple[memoryview, int, ClipReader] | None = None
        """A text that has come, how much of it was read, and as what."""
        self._events: list[ClipEvent] = []

    def events(self) -> list[ClipEvent]:
        """The events since the last call."""
        out, self._events = self._events, []
        return out

    @property
    def held_bytes(self) -> int:
        """Memory of a text that has come and is being read."""
        return 0 if self._reading is None else len(self._reading[0]) + self._reading[2].held_bytes

    # -- out -------------------------------------------------------------------------------------

    def send_register(self, destination: str | None) -> None:
        """Take part in QEMU's clipboard. `destination` is QEMU's own name on a bus."""
        self._destination = destination
        self._call("Register")

    def _call(self, member: str, signature: str = "", body: bytes = b"", what: str = "") -> None:
        serial = self._wire.send_call(PATH, INTERFACE, member, signature, body, self._destination)
        self._calls[serial] = what or member

    def send_clip_offer(self, there: bool) -> None:
        """See `ClipWire`."""
        self._wish = there
        self._offer()

    def _offer(self) -> None:
        there, on_its_way = self._wish, _OFFER in self._calls.values()
        if there is None or on_its_way:
            return
        self._wish = None
        if not there:
            self._call("Release", "u", Writer().number("u", _CLIPBOARD).bytes(), _OFFER)
            return
        self._serial += 1
        body = Writer().number("u", _CLIPBOARD).number("u", self._serial).bytes()
        self._call("Grab", "uuas", body + _mimes(), _OFFER)

    def send_clip_request(self) -> None:
        """See `ClipWire`."""
        self._again = _REQUEST in self._calls.values() or self._reading is not None
        if not self._again:
            self._call(_REQUEST, "uas", Writer().number("u", _CLIPBOARD).bytes() + _mimes())

    def send_clip_text(self, text: ClipText | None) -> None:
        """See `ClipWire`."""
        asks, self._asks = self._asks, []
        if text is not None:
            self.giving.begin(text, self._replies(asks, text))
            return
        for ask in asks:
            self._wire.send_error(ask, _FAILED, "there is no text")

    def _replies(self, asks: list[Message], text: ClipText) -> Iterator[None]:
        head = Writer().text("s", _TEXT).number("u", text.size).bytes()
        for ask in asks:
            yield from self._wire.send_reply_in_parts(ask, "say", head, text.pieces, text.size)

    # -- in --------------------------------------------------------------------------------------

    @property
    def unfinished(self) -> bool:
        """Whether `go_on` has something to do."""
        return self._reading is not None or self.giving.due

    @property
    def reading(self) -> bool:
        """Whether a text is being read. No message is taken before that is done."""
        return self._reading is not None

    def go_on(self) -> None:
        """Read, or hand over, the next piece of a text."""
        if self._reading is not None:
            self._read(*self._reading)
        elif self.giving.due:
            self._events += self.giving.step()
            if not self.giving.begun and self._asks:
                self._events.append(ClipWanted())

    def took(self, message: Message) -> bool:
        """Take a message, if it is about the clipboard; RemoteProtocolError for one that is wrong."""
        if message.kind == CALL:
            if message.path != PATH or (self._destination is not None and message.sender != self._destination):
                return False
            self._called(message)
            return True
        what = self._calls.pop(message.reply_to, None) if message.reply_to is not None else None
        if what is not None:
            self._answered(what, message)
        return what is not None

    def _called(self, message: Message) -> None:
        if message.interface == PROPERTIES:
            self._wire.send_reply(message, "a{sv}", NO_PROPERTIES)
        elif message.member == "Request":
            self._asked(message)
        elif message.member in ("Register", "Unregister", "Grab", "Release"):
            self._wire.send_reply(message)
            self._told(message)
        else:
            self._wire.send_error(message, UNKNOWN_METHOD, f"{message.member} is not supported")

    def _told(self, message: Message) -> None:
        if message.member == "Register":
            self._serial = 0
        elif message.member == "Grab":
            selection, serial, mimes = message.values("uuas")
            if selection == _CLIPBOARD and serial >= self._serial:
                self._serial = serial
                self._events.append(ClipOffered(any(mime.startswith("text/plain") for mime in mimes)))
        elif message.member == "Unregister" or message.values("u")[0] == _CLIPBOARD:
            self._events.append(ClipOffered(False))

    # While one is answered, another waits: it is to be given the newest text, which may be another one by then.
    def _asked(self, message: Message) -> None:
        selection, mimes = message.values("uas")
        if selection != _CLIPBOARD or _TEXT not in mimes or len(self._asks) >= ASKS_MAX:
            self._wire.send_error(message, _FAILED, "there is no such text")
            return
        # Its body may be long, and is not needed for the answer.
        self._asks.append(replace(message, body=b""))
        if len(self._asks) == 1 and not self.giving.begun:
            self._events.append(ClipWanted())

    def _answered(self, what: str, message: Message) -> None:
        if what == "Register":
            self.clip_there = message.kind != ERROR
        elif what == _OFFER:
            self._offer()
        elif self._again:
            self.send_clip_request()
        else:
            self._supplied(message)

    def _supplied(self, message: Message) -> None:
        if message.kind == ERROR:
            self._events.append(ClipSupplied(refused="the machine does not provide its text"))
            return
        mime, data = message.text_and_bytes()
        if not mime.startswith("text/plain"):
            self._events.append(ClipSupplied(refused="the machine's clipboard holds no text"))
            return
        self._reading = data, 0, ClipReader()

    def _read(self, data: memoryview, at: int, reader: ClipReader) -> None:
        end = min(at + PIECE_BYTES, len(data))
        self._reading = data, end, reader
        try:
            reader.add(data[at:end], end == len(data))
            supplied = None if end < len(data) else ClipSupplied(reader.text())
        except ConfigError as error:
            supplied = ClipSupplied(refused=str(error))
        if supplied is None:
            return
        self._reading = None
        if self._again:
            self.send_clip_request()
        else:
            self._events.append(supplied)


def _mimes() -> bytes:
    """An array of the one type that is understood."""
    name = Writer().text("s", _TEXT).bytes()
    return Writer().number("u", len(name)).bytes() + name
