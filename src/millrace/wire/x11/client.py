"""A client of an X display that sees what it shows and types into it, sans-IO.

X Window System Protocol, X Version 11; DAMAGE tells what changed, MIT-SHM copies it into memory that is shared by a
descriptor, XFIXES tells the cursor, XTEST makes input.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from millrace.dsp.convert import Buffer
from millrace.errors import PeerLost, RemoteProtocolError
from millrace.media.clip import ClipText
from millrace.pixels.rects import Damage, Rect, Size
from millrace.units import NS_PER_S, HostNs
from millrace.wire.chunk import Chunk
from millrace.wire.contract import AnswerDue
from millrace.wire.x11 import requests
from millrace.wire.x11.events import Captured, Ready, Resized, X11Event
from millrace.wire.x11.input import X11Input
from millrace.wire.x11.looks import Looks
from millrace.wire.x11.numbered import PACKET, Numbered
from millrace.wire.x11.randr import Wish
from millrace.wire.x11.requests import DAMAGE, EXTENSIONS, FIXES, SHM, TEST
from millrace.wire.x11.said import Said, no_more, weakly
from millrace.wire.x11.selections import KINDS, Selections
from millrace.wire.x11.setup import Description, check_size, possible, read_description, refusal, setup_request
from millrace.wire.x11.unread import HEAD, Unread

ANSWER_NS = 10 * NS_PER_S
PIXEL = 4
SETUP_MAX = 256 * 1024
AT_ONCE = 8
"""Messages of the server that are processed in one call of `receive`."""
_ERROR, _REPLY, _CONFIGURE = 0, 1, 22


# The server answers in order. When something is damaged and somebody watches, three things are asked for at once: to
# forget the damage, and copies of the damaged rectangles. What is painted after that comes as new damage, and what was
# told before the server came to forget it is kept for the next time: so nothing is missed, and nothing is polled.
#
# The copies are painted before the next ones are asked for, as the server then writes into the memory again. So whoever
# paints them says when that is done, and nothing is processed meanwhile.
#
# Each size takes memory and a descriptor. So a size is told when the server has taken the memory of the one before, and
# of those that it had in between only the last counts.
class X11Client(X11Input, AnswerDue):
    """One connection. `cookie` is empty where the server needs none."""

    def __init__(self, cookie: bytes, now_ns: HostNs) -> None:
        self._events: list[X11Event] = []
        super().__init__(self._events.append)
        self._answer_by_ns: HostNs | None = now_ns + ANSWER_NS
        self._buffer = Unread()
        self._requests = Numbered(setup_request(cookie))
        self._description: Description | None = None
        self._majors: dict[bytes, int] = {}
        self._first_events: dict[bytes, int] = {}
        self._unknown = len(EXTENSIONS)
        """Extensions whose version was not told yet."""
        self._numbers = self._damage_id = 0
        self._segment = self._memory_bytes = 0
        self._attached_at: int | None = None
        """The request that gave the server memory, until it has come so far."""
        self._damage = Damage()
        self._copying: list[tuple[Rect, int]] = []
        self._copies_due = 0
        self._painting = False
        self._size = self._next_size = Size(0, 0)
        """That of the memory, and the one that the server has said last."""
        self._attaching = False
        """The size was told, and the server has not taken its memory yet."""
        self._looks = Looks(self._events.append)
        self._interval_ns: HostNs | None = None
        self._copied_ns: HostNs = now_ns
        self._now_ns = now_ns
        self._due_ns: HostNs | None = None
        self._wish: Wish | None = None
        """The newest that was asked for, and the size that is wished for after that."""
        self._wish_after: Size | None = None
        self.selections = Selections()

    # -- in --------------------------------------------------------------------------------------

    def receive(self, data: Buffer, now_ns: HostNs) -> None:
        """Take bytes; RemoteProtocolError ends the connection. While `unfinished`, it must be called again."""
        self._now_ns = max(self._now_ns, now_ns)
        self._buffer.add(data)
        for _ in range(AT_ONCE):
            part = self._buffer.take(self._sizes, wait=self._painting)
            if part is None:
                break
            (self._let_in if self._description is None else self._packet)(part)
        self._keys.received(now_ns)
        self._copy(now_ns)
        self._requests.check()

    @property
    def unfinished(self) -> bool:
        """It has messages that it can process: it stopped so that others may go on."""
        return self._buffer.more and not self._painting

    @property
    def partial_bytes(self) -> int:
        """Bytes received of messages that are still incomplete, or were not processed, and of a text."""
        return len(self._buffer) + self.selections.held_bytes

    def _sizes(self, head: bytearray) -> tuple[int, int]:
        """See `Sizes`."""
        if self._description is not None:
            return self._requests.sizes(head)
        return HEAD + 4 * int.from_bytes(head[6:8], "little"), SETUP_MAX

    def _let_in(self, part: bytes) -> None:
        if part[0] != 1:
            raise refusal(part[:8], part[8:])
        self._description = read_description(part[8:])
        self._size = self._next_size = self._description.size
        for name in EXTENSIONS:
            self._say([Said(requests.query_extension(name), weakly(self._has, name))])

    def _packet(self, part: bytes) -> None:
        kind = part[0] & 0x7F
        if kind == _REPLY:
            asked = self._requests.answered(int.from_bytes(part[2:4], "little"))
            if asked is None or asked.then is None:
                raise RemoteProtocolError("the X server sent a reply to no request")
            self._buffer.pass_over(PACKET + 4 * int.from_bytes(part[4:8], "little") - len(part))
            self._say(asked.then(part))
            self._next_wish()
        elif kind == _ERROR:
            self._refused(part)
            self._next_wish()
        elif kind == _CONFIGURE:
            self._configured(part)
        elif self._begun:
            self._happened(kind, part)

    @property
    def _root(self) -> int:
        return self._description.root if self._description is not None and self._begun else 0

    # Nothing is asked to be told before `_begin`.
    @property
    def _begun(self) -> bool:
        return self._answer_by_ns is None

    def _happened(self, kind: int, part: bytes) -> None:
        """An event other than of the size."""
        if kind == self._first_events[DAMAGE]:
            self._damage.add(Rect(*struct.unpack_from("<hhHH", part, 16)).common(self._whole))
        elif kind in KINDS:
            self._say(self.selections.event(part))
        elif kind == self._first_events[FIXES]:
            self._say(self.selections.owned(part))
        elif kind == self._first_events[FIXES] + 1:
            self._say(self._looks.changed())
        else:
            self._say(self._keys.event(kind, part))

    def _refused(self, part: bytes) -> None:
        """An error takes the place of an answer."""
        code, number, minor, major = struct.unpack_from("<xBH4xHB", part)
        asked = self._requests.answered(number)
        if asked is not None and asked.refused is not None:
            self._say(asked.refused(part))
        elif asked is not None or number == self._attached_at:
            raise RemoteProtocolError(f"the X server refused request {major}.{minor} with error {code}")

    def _has(self, name: bytes, part: bytes) -> Sequence[Said]:
        present, major, first = struct.unpack_from("<BBB", part, 8)
        if not present and name == TEST:
            return self._told()
        if not present:
            raise RemoteProtocolError(f"this X server lacks the extension {name.decode()}, which is needed")
        self._majors[name], self._first_events[name] = major, first
        return [Said(requests.query_version(name, major), weakly(self._knows, name))]

    def _knows(self, name: bytes, part: bytes) -> Sequence[Said]:
        if name == SHM and struct.unpack_from("<HH", part, 8) < (1, 2):
            raise RemoteProtocolError("this X server is too old: its MIT-SHM takes no descriptors (1.2, of 2013)")
        return self._told()

    def _told(self) -> Sequence[Said]:
        self._unknown -= 1
        if not self._unknown:
            self._begin()
        return ()

    def _begin(self) -> None:
        assert self._description is not None
        self._answer_by_ns = None
        self._size = self._next_size
        root, majors = self._description.root, self._majors
        self._send(requests.watch_size(root))
        self._watch_damage()
        self._send(requests.watch_cursor(majors[FIXES], root))
        self._say(self._looks.begin(majors[FIXES], root))
        self._events += [Ready(self._description.vendor), Resized(self._size)]
        self._attaching = True

    # A root window has other memory after a change of its size, of which servers (TigerVNC) tell no damage to those who
    # began before.
    def _watch_damage(self) -> None:
        assert self._description is not None
        major, before = self._majors[DAMAGE], self._damage_id
        self._damage_id = self._number()
        self._send(requests.watch_damage(major, self._damage_id, self._description.root))
        if before:
            self._send(requests.end_damage(major, before))

    def _number(self) -> int:
        """A resource number that was not used yet."""
        assert self._description is not None
        self._numbers += 1
        return self._description.base + self._numbers

    @property
    def _whole(self) -> Rect:
        return Rect(0, 0, self._size.width, self._size.height)

    def _configured(self, part: bytes) -> None:
        window, width, height = struct.unpack_from("<8xI8xHH", part)
        assert self._description is not None
        if window == self._description.root:
            self._next_size = check_size(width, height)
            if self._begun:
                self._tell_size()

    # What is being copied goes to the memory before, and is not shown.
    def _tell_size(self) -> None:
        if self._next_size == self._size or self._attaching:
            return
        self._size, self._attaching = self._next_size, True
        self._damage, self._copying, self._memory_bytes = Damage(), [], 0
        self._watch_damage()
        self._events.append(Resized(self._size))

    def _attached(self, part: bytes) -> Sequence[Said]:
        self._attaching, self._attached_at = False, None
        self._tell_size()
        return no_more(part)

    # -- copies ----------------------------------------------------------------------------------

    def send_memory(self, fd: int, size: int) -> None:
        """Give the server memory for a whole screen; its descriptor is closed once it is sent."""
        if self._segment:
            self._send(requests.detach_memory(self._majors[SHM], self._segment))
        self._segment, self._memory_bytes = self._number(), size
        attach = requests.attach_memory(self._majors[SHM], self._segment)
        self._attached_at = self._requests.send(attach, (fd,))
        # Any answer says that the server has come so far.
        self._say([Said(requests.get_focus(), weakly(self._attached))])
        self._damage = Damage([self._whole])

    def send_watch(self, interval_ns: HostNs | None) -> None:
        """Copy what changed at most this often from now on, or not at all."""
        self._interval_ns, self._due_ns = interval_ns, None
        self._copy(self._now_ns)

    @property
    def behind(self) -> bool:
        """Whether something was painted that is not copied yet."""
        return self._copies_due > 0 or self._painting or bool(self._damage)

    # The interval changes as readers come, go and change their minds, so what was copied last counts on.
    def _copy(self, now_ns: HostNs) -> None:
        """Have what is damaged copied, if that is due."""
        if self._interval_ns is None or not self._segment or self._copies_due or not self._damage or self._painting:
            return
        self._due_ns = self._copied_ns + self._interval_ns
        if self._due_ns <= now_ns or not self._interval_ns:
            self._send_copies(now_ns)

    def _send_copies(self, now_ns: HostNs) -> None:
        assert self._description is not None
        self._due_ns, self._copied_ns = None, now_ns
        if self._whole.area * PIXEL > self._memory_bytes or self._next_size != self._size:
            return
        rects = [rect for rect in (rect.common(self._whole) for rect in self._damage.take()) if rect.area]
        if sum(rect.area for rect in rects) > self._whole.area:
            rects = [self._whole]
        self._send(requests.forget_damage(self._majors[DAMAGE], self._damage_id))
        self._copying, offset = [], 0
        for rect in rects:
            self._copying.append((rect, offset))
            image = requests.get_image(self._majors[SHM], self._description.root, rect, self._segment, offset)
            self._say([Said(image, weakly(self._image), weakly(self._no_image))])
            offset += rect.area * PIXEL
        self._copies_due = len(self._copying)

    def _image(self, part: bytes) -> Sequence[Said]:
        self._copies_due -= 1
        if self._copies_due == 0 and self._copying:
            self._events.append(Captured(tuple(self._copying)))
            self._painting = True
        return no_more(part)

    # The screen has become smaller meanwhile.
    def _no_image(self, part: bytes) -> Sequence[Said]:
        self._damage.add(self._whole)
        return self._image(part)

    def painted(self, now_ns: HostNs) -> None:
        """What was captured last is painted: the server may write into the memory again."""
        self._painting = False
        self._copy(now_ns)

    def next_timeout(self) -> HostNs | None:
        """See `Timed`."""
        if self._answer_by_ns is not None:
            return self._answer_by_ns
        return min((due for due in (self._due_ns, self._keys.due_ns(self._now_ns)) if due is not None), default=None)

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Timed`."""
        self._now_ns = max(self._now_ns, now_ns)
        super().handle_timeout(now_ns)
        self._say(self._keys.handle_timeout(now_ns))
        if self._keys.awaits:
            # What answers that and does not tell its layout does not hang.
            self.send_check()
        if self._due_ns is not None and now_ns >= self._due_ns:
            self._send_copies(now_ns)

    # -- another size ----------------------------------------------------------------------------

    def send_size(self, size: Size) -> None:
        """Ask for another size, of a server that has RandR; it may refuse. The newest waits for the one on its way."""
        if possible(size.width, size.height) and self._begun:
            self._wish_after = size
            self._next_wish()

    def _next_wish(self) -> None:
        """Ask for the size that waits, if the server has answered all about the one before."""
        if self._wish_after is None or (self._wish is not None and not self._wish.over):
            return
        assert self._description is not None
        size, self._wish_after = self._wish_after, None
        self._wish = Wish(self._description.root, self._next_size, size)
        self._say(self._wish.begin())

    # -- the clipboard ---------------------------------------------------------------------------

    clip_eager = False

    def send_clip_watch(self) -> None:
        """Be told of the clipboard from now on, once we are let in."""
        assert self._description is not None
        self._say(self.selections.begin(self._majors[FIXES], self._description.root, self._number()))

    def send_clip_offer(self, there: bool) -> None:
        """See `ClipWire`."""
        if self.selections.ready:
            self._say(self.selections.offer(there))

    def send_clip_request(self) -> None:
        """See `ClipWire`."""
        self._say(self.selections.fetch(self._number()))

    def send_clip_text(self, text: ClipText | None) -> None:
        """See `ClipWire`."""
        self._say(self.selections.supply(text))

    # -- out -------------------------------------------------------------------------------------

    def _say(self, said: Iterable[Said]) -> None:
        for one in said:
            self._requests.say(one)

    def _send(self, request: bytes) -> None:
        self._requests.send(request)

    def events(self) -> list[X11Event]:
        """The events since the last call."""
        out = self._events.copy()
        self._events.clear()
        return out

    def data_to_send(self) -> list[Chunk]:
        """See `Sender`."""
        return self._requests.data_to_send()

    def _overdue(self) -> PeerLost:
        return PeerLost("the X server does not answer; it may be stopped, or this is not an X server")
