"""The client's side of RFB, with QEMU's sound, sans-IO.

RFC 6143 for RFB 3.8; "rfbproto" (the community's RFB specification) for the rest. Numbers are big-endian, samples
little-endian.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator

from millrace.dsp.convert import Buffer
from millrace.errors import PeerLost, RemoteProtocolError
from millrace.media.clip import ClipText
from millrace.pixels.rects import Point, Size
from millrace.units import NS_PER_S, HostNs
from millrace.wire.clips import ClipGiving, ClipOffered, ClipSupplied
from millrace.wire.keys import CODE_MAX, KEYS
from millrace.wire.keysyms import meant
from millrace.wire.vnc import messages
from millrace.wire.vnc.cuttext import CUT_BYTES_MAX, CutText
from millrace.wire.vnc.keyboard import Keyboard
from millrace.wire.vnc.login import Respond, Step, VncLogin
from millrace.wire.vnc.messages import (
    AudioBegin,
    AudioData,
    AudioEnd,
    CursorShape,
    Encoding,
    Ready,
    SoundOffered,
    Update,
    VncEvent,
)
from millrace.wire.vnc.pictures import Parse, Pictures
from millrace.wire.vnc.work import PART_WORK, WORK_MAX, Work

DATA_MAX, DATA_AT_ONCE = 1024 * 1024, 64 * 1024
"""Sound in one message: as a whole, and in one step."""
SKIPPED_MAX, SKIPPED_AT_ONCE = 64 * 1024 * 1024, 64 * 1024
"""A text that is too long is skipped, so that the session goes on: as a whole, and in one step."""
ANSWER_NS = 10 * NS_PER_S
RATE_MAX = 48_000
BYTES_PER_WORK = 4
EVENT_BYTES = 200
RELATIVE_ORIGIN, CAPS_LOCK = 0x7FFF, meant(0, "CapsLock")
LOCKS = frozenset({CAPS_LOCK, 0xFF7F, 0xFF14})
"""Keysyms of the keys that are locks, which are not held."""


# Sound and picture are asked for as encodings; a server that does not know one ignores it. QEMU confirms sound with an
# empty rectangle of that encoding, for which no update need be requested.
#
# While somebody watches, exactly one request is outstanding: the next one goes out as soon as an update begins to
# arrive (or `interval` after the one before), so that the server has it when it has painted again. Without one it sends
# no picture at all. What has changed meanwhile the server remembers. When somebody begins to watch, one pixel is asked
# for besides, changed or not: so the server answers at once, with what has changed, if anything has.
class VncClient(VncLogin):
    """One connection. `rate` and `channels` are requested from QEMU, which converts.

    `pictures` are the encodings to ask for; none: sound only. With `tls` it logs in inside TLS or not at all.
    """

    def __init__(
        self, rate: int, channels: int, password: str, respond: Respond, now_ns: HostNs,
        pictures: tuple[Encoding, ...] = (), tls: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(password, respond, tls)
        self.rate, self.channels = min(rate, RATE_MAX), min(channels, 2)
        self.sound = False
        """Whether the server has said that it has sound."""
        self._encodings = pictures
        self._answer_by_ns: HostNs | None = now_ns + ANSWER_NS
        """When the login must be done."""
        self.work = Work()
        """What this step has cost, which whoever takes the events adds to."""
        self.painting = False
        """Set by whoever takes the events, while one of them takes more steps."""
        self._waiting_events: deque[tuple[VncEvent, int]] = deque()
        self._waiting_bytes = self._taken_bytes = 0
        self._screen = Pictures(self.work)
        self._parse: Parse | None = None
        self._interval_ns: HostNs | None = None
        self._asked_ns: HostNs = now_ns
        self._due_ns: HostNs | None = None
        self._waiting = False
        """A picture was asked for and has not begun to arrive."""
        self._whole = True
        """The next one asked for must be whole."""
        self._let_in = False
        self._keyboard = Keyboard()
        self._codeless: set[int] = set()
        """Keys that are down by their keysyms alone, as the server did not take codes then."""
        self._at, self._buttons = Point(0, 0), 0
        self.cut = CutText(self.work)
        self.giving = ClipGiving()
        """The text that is made into a message."""
        self._unread = 0
        """Bytes that are skipped, or of sound, and still to come."""

    # -- in --------------------------------------------------------------------------------------

    def receive(self, data: Buffer, now_ns: HostNs) -> None:
        """Take bytes; RemoteProtocolError ends the connection. While `unfinished`, it must be called again."""
        if self._paused and not self._shaking:
            raise RemoteProtocolError("this VNC server sent data before the TLS handshake")
        buffer, work = self._buffer, self.work
        buffer += data
        work.spent = 0
        self._give()
        while len(buffer) >= self._need and not (self._paused or self.painting) and work.spent < WORK_MAX:
            with memoryview(buffer) as view:
                part = bytes(view[: self._need])
            del buffer[: self._need]
            try:
                self._step(self, part)
            except RemoteProtocolError as error:
                raise self._screen.doubted(error) from None
            work.spent += PART_WORK + len(part) // BYTES_PER_WORK
        if self._events:
            self._keep_events()
        self._ask(now_ns)

    @property
    def trouble(self) -> str:
        """Why there is no picture, as far as that is known; empty if it is not, or if there is one."""
        return self._screen.trouble

    @property
    def unfinished(self) -> bool:
        """It has more to do with what it has received, or is to send: it stopped so that others may go on."""
        return self.painting or self.giving.due or (len(self._buffer) >= self._need and not self._paused)

    @property
    def partial_bytes(self) -> int:
        """Bytes received of a message that is still incomplete, and what was made of it and is not painted yet."""
        made = self._screen.held_bytes + self.cut.held_bytes
        return len(self._buffer) + made + self._waiting_bytes + self._taken_bytes

    # What waits stays charged until it is done with. `_events` is what the login's part adds to.
    def _keep_events(self) -> None:
        events, self._events = self._events, []
        for event in events:
            held = _held_bytes(event)
            self._waiting_events.append((event, held))
            self._waiting_bytes += held

    def take(self) -> VncEvent | None:
        """The next event; what the one before held is free again."""
        if self._events:
            self._keep_events()
        event, self._taken_bytes = self._waiting_events.popleft() if self._waiting_events else (None, 0)
        self._waiting_bytes -= self._taken_bytes
        return event

    @property
    def waiting(self) -> bool:
        """Whether there are events to be taken."""
        return bool(self._waiting_events or self._events)

    def _entered(self, width: int, height: int) -> None:
        self._answer_by_ns, self._let_in = None, True
        self._events.append(Ready(self.name))
        listed: tuple[int, ...] = (Encoding.AUDIO,)
        if self._encodings:
            self._out += messages.SET_PIXEL_FORMAT
            listed = (*self._encodings, *messages.PSEUDO, Encoding.AUDIO)
            self._screen.asked, self._screen.own_bits = True, self.own_bits
            self._screen.resize(width, height)
            self._screen.tell_size()
            self._take_events()
        self._out += messages.set_encodings(listed)
        self._then(1, VncClient._message)

    def _take_events(self) -> None:
        for event in self._screen.events():
            if isinstance(event, SoundOffered):
                self._offered()
            else:
                self._whole |= isinstance(event, messages.Resized)
                self._events.append(event)

    # This pseudo-rectangle announces sound: set the format, then enable it.
    def _offered(self) -> None:
        if not self.sound:
            self.sound = True
            self._out += messages.enable_sound(self.channels, self.rate)
            self._events.append(SoundOffered())

    # -- messages --------------------------------------------------------------------------------

    def _message(self, part: bytes) -> None:
        if part[0] == 0:
            self._waiting = False
            self._begin(self._screen.update())
            return
        following: dict[int, tuple[int, Step]] = {
            1: (5, VncClient._colours), 3: (7, VncClient._cut_text), 255: (3, VncClient._audio),
        }  # fmt: skip
        # Bell, which has no body.
        if part[0] == 2:
            return
        if part[0] not in following:
            raise RemoteProtocolError(f"unexpected VNC message type {part[0]}")
        self._then(*following[part[0]])

    def _begin(self, parse: Parse) -> None:
        self._parse = parse
        self._then(next(parse), VncClient._go_on)

    def _go_on(self, part: bytes) -> None:
        assert self._parse is not None
        try:
            self._need = self._parse.send(part)
        except StopIteration:
            self._parse = None
            self._then(1, VncClient._message)
        self._take_events()

    def _colours(self, part: bytes) -> None:
        self._skip(6 * struct.unpack(">3xH", part)[0])

    # The size is negative in the extended clipboard format.
    def _cut_text(self, part: bytes) -> None:
        size = struct.unpack(">3xi", part)[0]
        if abs(size) > CUT_BYTES_MAX:
            self._events.append(self.cut.too_long(abs(size)))
            self._skip(abs(size))
            return
        self._begin(self._cut(abs(size), size < 0))

    def _cut(self, size: int, extended: bool) -> Parse:
        event, answer = yield from self.cut.read(size, extended)
        self._out += answer
        if event is not None:
            self._events.append(event)

    def _skip(self, size: int) -> None:
        if size > SKIPPED_MAX:
            raise RemoteProtocolError(f"VNC message too long: {size} bytes")
        self._unread = size
        self._skipped(b"")

    def _skipped(self, part: bytes) -> None:
        self._more(part, SKIPPED_AT_ONCE, VncClient._skipped)

    def _more(self, part: bytes, at_once: int, step: Step) -> None:
        """A part of a message came, and the rest of it comes in pieces."""
        self._unread -= len(part)
        self._then(*(min(self._unread, at_once), step) if self._unread else (1, VncClient._message))

    def _audio(self, part: bytes) -> None:
        kind, operation = struct.unpack(">BH", part)
        if kind != 1 or operation > 2:
            raise RemoteProtocolError(f"unexpected QEMU message type {kind}/{operation}")
        if operation == 2:
            self._then(4, VncClient._data_size)
            return
        self._events.append(AudioBegin() if operation == 1 else AudioEnd())
        self._then(1, VncClient._message)

    def _data_size(self, part: bytes) -> None:
        size = struct.unpack(">I", part)[0]
        if size > DATA_MAX:
            raise RemoteProtocolError(f"VNC audio message too long: {size} bytes; {DATA_MAX} at most")
        self._unread = size
        self._data(b"")

    def _data(self, part: bytes) -> None:
        if part:
            self._events.append(AudioData(part))
        self._more(part, DATA_AT_ONCE, VncClient._data)

    # -- asking for pictures ---------------------------------------------------------------------

    def send_watch(self, interval_ns: HostNs | None) -> None:
        """Ask for a picture at most this often from now on, or for none."""
        begins = self._interval_ns is None and interval_ns is not None and self._let_in and not self._whole
        self._interval_ns, self._due_ns = interval_ns, None
        if begins and not self._waiting:
            self._send_ask(self._asked_ns)
        if begins:
            self._out += messages.ask_for(Size(1, 1), whole=True)
        self._ask(self._asked_ns)

    def send_whole(self) -> None:
        """Ask for all of the screen again."""
        self._whole = True
        self._ask(self._asked_ns)

    def _ask(self, now_ns: HostNs) -> None:
        """Ask for the next picture if it is due."""
        size = self._screen.size
        if self._interval_ns is None or not self._let_in or not (size.width and size.height):
            return
        if self._whole:
            self._send_ask(now_ns)
        elif not self._waiting:
            self._due_ns = self._asked_ns + self._interval_ns
            if self._due_ns <= now_ns or not self._interval_ns:
                self._send_ask(now_ns)

    def _send_ask(self, now_ns: HostNs) -> None:
        self._out += messages.ask_for(self._screen.size, self._whole)
        self._whole, self._waiting, self._asked_ns, self._due_ns = False, True, now_ns, None

    def next_timeout(self) -> HostNs | None:
        """See `Timed`."""
        return self._due_ns if self._answer_by_ns is None else self._answer_by_ns

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Timed`."""
        super().handle_timeout(now_ns)
        if self._due_ns is not None and now_ns >= self._due_ns:
            self._send_ask(now_ns)

    # -- input -----------------------------------------------------------------------------------

    @property
    def relative(self) -> bool:
        """Whether the server takes the pointer's movement, and no position."""
        return self._screen.relative

    def send_key(self, code: int, down: bool, meaning: str = "") -> None:
        """Press or release the key with this scan code, as QEMU numbers it; or with 0, one for a character.

        `meaning`: what it means to the viewer; empty: a US keyboard is assumed.
        """
        if not self._let_in or not 0 <= code <= CODE_MAX:
            return
        for stroke in self._keyboard.strokes(code, down, meaning, self._screen.leds):
            if stroke.keysym == CAPS_LOCK and self._hides_locks:
                continue
            # TigerVNC ignores one without a code. And it releases a key only as it was pressed, which may have been
            # before it told that it takes codes.
            if self._screen.extended_keys and stroke.code and stroke.code not in self._codeless:
                self._out += messages.extended_key_event(*stroke)
            elif stroke.keysym:
                self._out += messages.key_event(stroke.keysym, stroke.down)
                (self._codeless.add if stroke.down else self._codeless.discard)(stroke.code)

    # It would make capitals of the letters that it is told, which are capitals already (x11vnc).
    @property
    def _hides_locks(self) -> bool:
        """Whether the server goes by symbols, and does not tell whether caps lock is on."""
        return not self.is_qemu and self._screen.leds is None

    def send_pointer(self, at: Point, buttons: int, relative: bool) -> Point:
        """Move the pointer to, or by, `at`, with these buttons down; returns where it should be then."""
        size = self._screen.size
        if not self._let_in or not size.width or not size.height:
            return self._at
        x, y = (self._at.x + at.x, self._at.y + at.y) if relative else (at.x, at.y)
        now = Point(min(max(x, 0), size.width - 1), min(max(y, 0), size.height - 1))
        by, self._at = (at if relative else Point(now.x - self._at.x, now.y - self._at.y)), now
        if self._screen.relative:
            now = Point(*(min(max(RELATIVE_ORIGIN + way, 0), 0xFFFF) for way in (by.x, by.y)))
        self._out += messages.pointer_event(_mask(buttons), now.x, now.y)
        self._buttons = buttons
        return self._at

    def send_end(self) -> None:
        """Release what was pressed, the last key first: the connection is about to be closed."""
        for code in self._keyboard.pressed:
            self.send_key(code, False)
        if self._buttons:
            self.send_pointer(Point(0, 0) if self._screen.relative else self._at, 0, self._screen.relative)

    # Some servers (x11vnc) leave down what a viewer held that has gone.
    def send_release(self) -> None:
        """Release every key, such as a daemon may have left that did not end by itself; to QEMU nothing."""
        if self._let_in and not self.is_qemu:
            for key in KEYS:
                if key.keysym not in LOCKS:
                    self._out += messages.key_event(key.keysym, False)

    def send_size(self, size: Size) -> None:
        """Ask for another size, of a server that can be asked."""
        if self._screen.head is not None and size.width > 0 < size.height:
            self._out += messages.set_desktop_size(size, *self._screen.head)

    # -- the clipboard ---------------------------------------------------------------------------

    @property
    def clip_eager(self) -> bool:
        """See `ClipWire`: a server without the extension, or that can't be told."""
        return not self.cut.asks

    def send_clip_offer(self, there: bool) -> None:
        """See `ClipWire`."""
        if self._let_in and self.cut.asks:
            self._out += self.cut.offer(there)

    def send_clip_request(self) -> None:
        """See `ClipWire`."""
        if self._let_in and self.cut.extended:
            self._out += self.cut.request()

    # No answer says that there is none, so the server's program waits in vain.
    def send_clip_text(self, text: ClipText | None) -> None:
        """See `ClipWire`."""
        if text is not None:
            self.giving.begin(text, self._provided(text))

    def _provided(self, text: ClipText) -> Iterator[None]:
        made = yield from self.cut.provide(text)
        self._out += made

    def _give(self) -> None:
        while self.giving.due and not self.work.over:
            self._events += self.giving.step()

    # -- out -------------------------------------------------------------------------------------

    def events(self) -> list[VncEvent]:
        """All events that wait."""
        out = []
        while (event := self.take()) is not None:
            out.append(event)
        return out

    def data_to_send(self) -> bytes:
        """See `Sender`."""
        out, self._out = bytes(self._out), bytearray()
        return out

    def _overdue(self) -> PeerLost:
        # A VNC server speaks first, and others (SPICE, HTTP) wait for their client.
        silent = self._step is VncLogin._version and not self._buffer
        other = ", or this is not a VNC server" if silent else ""
        return PeerLost(f"the VNC server does not answer; it may be stopped{other}")


# RFB's first five buttons are those of `ScreenSource.pointer`. Its sixth and seventh are a wheel that turns sideways;
# the eighth goes back, and the one that goes forward needs an extension.
def _mask(buttons: int) -> int:
    return buttons & 0x1F | (buttons & 0x180) >> 2 | (buttons & 0x20) << 2


def _held_bytes(event: VncEvent) -> int:
    """What an event takes in memory."""
    if isinstance(event, Update):
        return EVENT_BYTES + event.held_bytes
    if isinstance(event, AudioData):
        return EVENT_BYTES + len(event.payload)
    if isinstance(event, CursorShape):
        return EVENT_BYTES + len(event.pixels)
    text = event.text if isinstance(event, ClipOffered | ClipSupplied) else None
    return EVENT_BYTES + (0 if text is None else text.held_bytes)
