"""The clipboard of QEMU's D-Bus display (org.qemu.Display1.Clipboard in ui/dbus-display1.xml of QEMU).

Both sides serve the same interface, and each calls the other: Grab says that there is something to paste, Request asks
for it. QEMU passes it between its guest's agent (spice-vdagent, by `-chardev qemu-vdagent,clipboard=on`), its VNC
server and this.
"""

from __future__ import annotations

from dataclasses import replace

from millrace.errors import ConfigError
from millrace.media.clip import CLIP_BYTES_MAX, clip_text
from millrace.wire.clips import ClipEvent, ClipOffered, ClipSupplied, ClipWanted
from millrace.wire.qemu.dbus import CALL, ERROR, PROPERTIES, UNKNOWN_METHOD, DBusWire, Message
from millrace.wire.qemu.values import NO_PROPERTIES, Writer

PATH, INTERFACE = "/org/qemu/Display1/Clipboard", "org.qemu.Display1.Clipboard"
MESSAGE_MAX = CLIP_BYTES_MAX + 64 * 1024
"""A message with a text."""
ASKS_MAX = 16
_CLIPBOARD = 0
"""The selection; the others are X11's PRIMARY and SECONDARY."""
_TEXT = "text/plain;charset=utf-8"
_FAILED = "org.freedesktop.DBus.Error.Failed"


# A grab has a serial, by which QEMU and its guest's agent tell which of two grabs at the same time was the last: one
# below the highest seen is void. QEMU calls Register when these numbers begin again.
#
# QEMU's main loop, and so the guest, waits while QEMU asks for the properties of our object, which it does before it
# answers our Register: so that is answered as soon as it is received.
class QemuClipboard:
    """A `ClipSession`, over the connection of a `DisplayClient`."""

    clip_eager = False

    def __init__(self, wire: DBusWire) -> None:
        self._wire = wire
        self._destination: str | None = None
        self.clip_there = False
        """Whether QEMU has accepted us. It takes one at a time."""
        self._serial = 0
        self._calls: dict[int, str] = {}
        self._asks: list[Message] = []
        self._events: list[ClipEvent] = []

    def events(self) -> list[ClipEvent]:
        """The events since the last call."""
        out, self._events = self._events, []
        return out

    # -- out -------------------------------------------------------------------------------------

    def send_register(self, destination: str | None) -> None:
        """Take part in QEMU's clipboard. `destination` is QEMU's own name on a bus."""
        self._destination = destination
        self._call("Register")

    def _call(self, member: str, signature: str = "", body: bytes = b"") -> None:
        serial = self._wire.send_call(PATH, INTERFACE, member, signature, body, self._destination)
        self._calls[serial] = member

    def send_clip_offer(self, there: bool) -> None:
        """See `ClipWire`."""
        if not there:
            self._call("Release", "u", Writer().number("u", _CLIPBOARD).bytes())
            return
        self._serial += 1
        body = Writer().number("u", _CLIPBOARD).number("u", self._serial).bytes()
        self._call("Grab", "uuas", body + _mimes())

    def send_clip_request(self) -> None:
        """See `ClipWire`."""
        self._call("Request", "uas", Writer().number("u", _CLIPBOARD).bytes() + _mimes())

    def send_clip_text(self, text: str | None) -> None:
        """See `ClipWire`."""
        asks, self._asks = self._asks, []
        for ask in asks:
            if text is None:
                self._wire.send_error(ask, _FAILED, "there is no text")
            else:
                self._wire.send_reply(ask, "say", Writer().text("s", _TEXT).blob(text.encode()).bytes())

    # -- in --------------------------------------------------------------------------------------

    def took(self, message: Message) -> bool:
        """Take a message, if it is about the clipboard; RemoteProtocolError for one that is wrong."""
        if message.kind == CALL:
            if message.path != PATH or (self._destination is not None and message.sender != self._destination):
                return False
            self._called(message)
            return True
        member = self._calls.pop(message.reply_to, None) if message.reply_to is not None else None
        if member is not None:
            self._answered(member, message)
        return member is not None

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

    def _asked(self, message: Message) -> None:
        selection, mimes = message.values("uas")
        if selection != _CLIPBOARD or _TEXT not in mimes or len(self._asks) >= ASKS_MAX:
            self._wire.send_error(message, _FAILED, "there is no such text")
            return
        # Its body may be long, and is not needed for the answer.
        self._asks.append(replace(message, body=b""))
        if len(self._asks) == 1:
            self._events.append(ClipWanted())

    def _answered(self, member: str, message: Message) -> None:
        if member == "Register":
            self.clip_there = message.kind != ERROR
        elif member == "Request":
            self._events.append(_supplied(message))


def _supplied(message: Message) -> ClipSupplied:
    if message.kind == ERROR:
        return ClipSupplied(refused="the machine does not hand over its text")
    mime, data = message.values("say")
    try:
        if not mime.startswith("text/plain"):
            return ClipSupplied(refused="what is on the machine's clipboard is no text")
        return ClipSupplied(clip_text(data))
    except ConfigError as error:
        return ClipSupplied(refused=str(error))


def _mimes() -> bytes:
    """An array of the one type that is understood."""
    name = Writer().text("s", _TEXT).bytes()
    return Writer().number("u", len(name)).bytes() + name
