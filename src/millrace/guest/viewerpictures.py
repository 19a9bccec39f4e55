"""The pictures of one viewer: the newest is kept until its turn, and counts until it has arrived and was seen."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from millrace.budget import VIEWERS, Account
from millrace.errors import BudgetError
from millrace.graph.screen import Screen
from millrace.guest.cursor import SentCursor
from millrace.guest.viewerblame import ViewerBlame
from millrace.guest.viewersending import Sending
from millrace.guest.viewervideos import ViewerVideos
from millrace.outlets.encoded import EncodedPicture, cut_pieces
from millrace.outlets.pictureflow import PictureFlow
from millrace.outlets.picturetimes import PictureTimes, ViewerTimes
from millrace.outlets.queue import Passed
from millrace.pixels.rects import Size
from millrace.units import NS_PER_S, HostNs
from millrace.wire.peer.messages import Fault
from millrace.wire.peer.pictures import Shown, Taken, pack_parts
from millrace.wire.peer.viewing import ViewServer

SLACK, SLACK_BYTES = 64, 4 * 1024
"""TLS adds less than this part to large messages, and these bytes to all small ones that may be on their way (RFC 8446,
section 5.2: 22 for each): what the kernel counts is a little more than what was written."""
SHORT_NS: HostNs = 5 * NS_PER_S
"""There is room for pictures again if none was refused for so long: where memory is short, some have room and some have
not."""


class _End(NamedTuple):
    """A picture, and how many bytes had been written with it since the beginning of the connection."""

    serial: int
    at: int


# When an acknowledgement is here, the kernel knows that the bytes of its picture have arrived: a segment acknowledges
# what its sender had received, and that is processed before its data (RFC 9293, section 3.10.7.4). So one that comes
# before is false. It counts when they have arrived: whoever sends it is sent no more than whoever sends none. What the
# transport and the kernel hold is counted and charged, whatever was acknowledged.
class ViewerPictures:
    """What a viewer is sent of its screen."""

    def __init__(
        self, wire: ViewServer, sending: Sending, blame: ViewerBlame, account: Account, times: PictureTimes,
        videos: ViewerVideos, clock: Callable[[], HostNs],
    ) -> None:  # fmt: skip
        self.flow, self.times, self.videos = PictureFlow(), times, videos
        self.sent = 0
        """Pictures sent."""
        self.early = 0
        """Pictures that were acknowledged before they can have arrived."""
        self.size = Size(1, 1)
        """Of the pictures sent."""
        self._wire, self._sending, self._blame, self._account, self._clock = wire, sending, blame, account, clock
        self._cursor = SentCursor()
        self._sized = False
        """Its pictures were announced."""
        self._mode: Size | None = None
        """What the pictures have to be announced as."""
        self._next: EncodedPicture | None = None
        """The picture that waits for its turn, or is being sent."""
        self._ends: deque[_End] = deque()
        self._passed: Passed | None = None
        self._looked_at = 0
        """What had been written and had arrived when that was last asked, which is a system call; and how many bytes
        had been sent then."""
        self._has = 0
        """The newest picture that has arrived at the viewer's machine."""
        self._claimed = 0
        """The newest that was acknowledged too early."""
        self.sparing = False
        """There was no room for the last picture: the next is to be small."""
        self._waits = False
        """It is sent nothing more until there may be room."""
        self._short_ns: HostNs | None = None
        """When there last was no room, if it was told that there is none."""

    # -- what is to be sent ----------------------------------------------------------------------

    @property
    def due(self) -> bool:
        """Whether there is something to `send`, and room for it."""
        return (self._mode is not None or self._next is not None) and self._sending.open

    def frames_due(self, rtt_ns: HostNs | None) -> bool:
        """Whether frames of videos wait, and can be sent as a picture of their own."""
        return self.videos.due and self._sized and self.ready(rtt_ns)

    def ready(self, rtt_ns: HostNs | None) -> bool:
        """Whether another picture can be sent."""
        if self._next is not None or self._waits or not self._sending.open:
            return False
        if self._sending.bytes != self._looked_at or self._waiting > self.flow.bytes_on_way:
            self._look()
        return self.flow.ready(rtt_ns, self._waiting)

    def resized(self, size: Size) -> None:
        """What was not sent yet is void, and pictures have this size from now on."""
        self._next, self._mode = None, size
        self._charge()

    def push(self, picture: EncodedPicture) -> bool:
        """The newest picture; False if it can't be sent."""
        if self._sending.closed:
            return False
        self._next = picture
        if not self._charge():
            self._next = None
            return False
        return True

    def drop(self) -> None:
        """It has no encoder any more: what was not sent is void."""
        self._next = self._mode = None
        self._charge()

    def screen_gone(self) -> None:
        """The pointer of the next screen is another one."""
        self._cursor = SentCursor()

    # A picture of several pieces is sent in as many steps. Between two of them it may become void.
    def send(self, relative: bool) -> Iterator[None]:
        """Send what is due. `relative`: the machine's pointer takes movements."""
        if self._mode is not None:
            self.size, self._mode = self._mode, None
            self.times.begin(self._clock())
            self._cursor.again()
            self.videos.told_anew()
            self._sized = True
            self._wire.send_mode(self.size.width, self.size.height, relative)
            self._sending.flush()
        now_ns = self._clock()
        picture = self._next = self._with_frames(self._next, now_ns)
        if picture is None:
            return
        serial, pieces = 0, list(cut_pieces(picture.parts))
        for at, parts in enumerate(pieces, 1):
            last = at == len(pieces)
            serial = self._wire.send_piece(pack_parts(parts), last, picture.key, picture.painted_ns)
            self._sending.flush(begun=True)
            if not last:
                yield
                if self._next is not picture or self._sending.closed:
                    self.videos.lost()
                    return
        self._note(picture, serial, now_ns)

    # The list of overlays is that of a picture of the encoder, whose pixels fit it. Frames without room are left out:
    # then the videos are decoded for this viewer.
    def _with_frames(self, picture: EncodedPicture | None, now_ns: HostNs) -> EncodedPicture | None:
        """The next picture with the frames of videos that wait; those alone if there is none."""
        frames, seen_ns = self.videos.take(now_ns) if self._sized else ([], 0)
        size = (picture.size if picture else 0) + sum(len(part.data) for part in frames)
        if frames and not self._account.fits("sending", self._on_way() + size, VIEWERS):
            self.videos.lost()
            frames = []
        if not frames and picture is None:
            return None
        places = self.videos.places(None if picture is None else picture.overlays, self.size)
        if places is not None:
            frames.append(places)
        picture = picture or EncodedPicture(0, 0, (), False, 0)
        size = picture.size + sum(len(part.data) for part in frames)
        return picture._replace(parts=(*picture.parts, *frames), size=size, painted_ns=max(picture.painted_ns, seen_ns))

    def _note(self, picture: EncodedPicture, serial: int, now_ns: HostNs) -> None:
        """All of it was sent."""
        self._next = None
        self.sparing = False
        self.sent += 1
        self.flow.sent(serial, picture.size, now_ns)
        self.times.sent(serial, picture, now_ns)
        self._look()
        passed = self._passed
        self._blame.sent(serial, now_ns, passed)
        if passed is not None:
            self._ends.append(_End(serial, passed.written))
        else:
            self._has = serial
        self._charge()

    # -- the pointer -----------------------------------------------------------------------------

    def cursor_due(self, screen: Screen) -> HostNs | None:
        """When the pointer can be sent; None if it is as it was."""
        due_ns = self._cursor.due(screen)
        return due_ns if due_ns is not None and not self._waits and self._sending.open else None

    def send_cursor(self, screen: Screen, now_ns: HostNs) -> None:
        """Send the pointer, if it is time and there is room."""
        due_ns = self.cursor_due(screen)
        if due_ns is None or now_ns < due_ns:
            return
        shape = self._cursor.bytes(screen)
        if self._charge(shape):
            self._cursor.send(screen, self.size, self._wire, now_ns)
            self._sending.flush()
        if shape:
            # It is on its way now.
            self._look()
            self._charge()

    # -- what was acknowledged -------------------------------------------------------------------

    def acknowledged(self, event: Shown | Taken, rtt_ns: HostNs | None, now_ns: HostNs) -> None:
        """The viewer says that it has a picture, and when it had."""
        if event.serial > self._arrived():
            self.early += 1
            self._claimed = max(self._claimed, event.serial)
            return
        arrived_ns = decoded_ns = now_ns
        if isinstance(event, Shown):
            told = ViewerTimes(event.arrived_ns, event.decoded_ns, event.drawing_ns, event.drawn_ns)
            arrived_ns, decoded_ns = told.arrival_ns(rtt_ns or 0, now_ns), told.decoding_ns(rtt_ns or 0, now_ns)
            sent_ns = self.times.drawn(event.serial, told, event.skew_ns, now_ns)
            if sent_ns is not None and event.skew_ns is not None:
                self._blame.seen(event.skew_ns, sent_ns, now_ns)
        self.flow.acknowledged(event.serial, arrived_ns, rtt_ns, decoded_ns, now_ns)
        self._charge_anew()

    def settle(self, rtt_ns: HostNs | None, now_ns: HostNs) -> None:
        """Count what was acknowledged too early and has arrived since, and charge what waits now."""
        serial = min(self._claimed, self._arrived())
        if serial:
            self.flow.acknowledged(serial, now_ns, rtt_ns)
        self._claimed = 0 if serial == self._claimed else self._claimed
        self._charge_anew()
        if self._short_ns is not None and now_ns - self._short_ns >= SHORT_NS and self._sending.open:
            self._short_ns = None
            self._say(Fault("room", "there is room for the pictures again"))

    def _arrived(self) -> int:
        """The newest picture of which all bytes can have arrived at the viewer's machine, by the kernel's count."""
        self._look()
        passed = self._passed
        known = 0 if passed is None else passed.arrived + (passed.written - passed.arrived) // SLACK + SLACK_BYTES
        while self._ends and (passed is None or not passed.exact or self._ends[0].at <= known):
            self._has = self._ends.popleft().serial
        return self._has

    def _look(self) -> None:
        """Ask what has arrived."""
        self._passed, self._looked_at = self._sending.passed, self._sending.bytes

    @property
    def _waiting(self) -> int:
        """Bytes that were written and had not arrived when that was last asked."""
        return 0 if self._passed is None else max(0, self._passed.written - self._passed.arrived)

    def _charge_anew(self) -> None:
        """There may be room now: what had none is tried again."""
        self._waits = False
        self._charge()

    def _on_way(self) -> int:
        """Bytes on their way."""
        return max(self.flow.bytes_on_way, self._waiting)

    # What is on its way already can't be taken back, nor what its encoder was told is sent: nothing is added to that
    # until it has arrived, or has room.
    def _charge(self, more: int = 0) -> bool:
        """Hold what is on its way to the viewer, the picture that is next, and so many bytes.

        False without room for all of it: the viewer is told so once, until that is over.
        """
        held = self._on_way() + (self._next.size if self._next else 0) + more
        try:
            self._account.hold("sending", held, VIEWERS)
        except BudgetError as error:
            self.sparing = self._waits = True
            self._tell(error)
            return False
        return True

    def _tell(self, error: BudgetError) -> None:
        told = self._short_ns is not None
        if told or self._sending.open:
            self._short_ns = self._clock()
        if not told and self._sending.open:
            self._say(Fault.of(BudgetError(f"the next picture comes when there is room: {error}")))

    def _say(self, fault: Fault) -> None:
        self._wire.send_message(fault)
        self._sending.flush()
