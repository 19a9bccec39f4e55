"""A viewer's session in the daemon: the picture protocol on one side, an encoder and the keyboard on the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import UNSET

from millrace.budget import LISTENERS
from millrace.codec.picturesettings import PictureSettings, changed_picture
from millrace.errors import BudgetError, ConfigError, GraphError, MillraceError, PeerLost, RightsError
from millrace.graph.screens import Listed
from millrace.graph.seat import Watcher
from millrace.guest.clips import ViewerClip
from millrace.guest.company import Company
from millrace.guest.cursor import SentCursor
from millrace.guest.hands import Hands
from millrace.guest.refreshes import Refreshes
from millrace.guest.viewerblame import ViewerBlame
from millrace.outlets.encoded import EncodedPicture, cut_pieces
from millrace.outlets.pictureflow import PictureFlow
from millrace.outlets.picturetimes import PictureTimes, ViewerTimes
from millrace.outlets.queue import Traffic, Write, unknown
from millrace.pixels.rects import Size
from millrace.rights.model import Principal, Right
from millrace.symptoms import Evidence, Symptom, last_heard
from millrace.text import printable
from millrace.units import NS_PER_S, NS_PER_US, HostNs
from millrace.wire.peer.clips import Clip, Copied, Paste
from millrace.wire.peer.messages import Bye, Configured, Fault
from millrace.wire.peer.pictures import (
    ChangeView,
    FromViewer,
    Gone,
    Hidden,
    Key,
    KeyboardHeld,
    Pointer,
    Refresh,
    ScreenNamed,
    Screens,
    Shown,
    SizeWish,
    TakeKeyboard,
    Taken,
    Text,
    ToViewer,
    Watch,
    Watching,
    pack_parts,
)
from millrace.wire.peer.viewing import ViewServer

NAME_MAX = 100
VIEWER_BYTES = 96 * 1024
"""Memory of a viewer: its connection, its send buffer and its state."""
UNSENT_MAX = 64
"""Messages that may wait because the viewer does not read; with more, it is given up."""
HIDDEN_NS = 5 * NS_PER_S
"""A viewer that is hidden for longer leaves its encoder."""


# What is written can't be dropped any more, so everything is left out before: a picture is encoded for a viewer only
# while it is `ready`, the pointer is sent in its newest state only, and other messages are few. Messages and pictures
# go through `_put` in one order, which is part of the protocol: a mode precedes its pictures.
class ViewerSession:
    """One connected viewer. `write` sends messages; `room` says whether the connection can take more."""

    def __init__(
        self, viewers: Company[ViewerSession], id_: int, address: str, write: Write, room: Callable[[], bool],
        now_ns: HostNs, principal: Principal, traffic: Traffic = unknown,
    ) -> None:  # fmt: skip
        self.viewers, self.guest = viewers, viewers.guest
        self.id, self.address, self.principal = id_, address, principal
        self.name = address
        self.who = Watcher(self.key, principal)
        self.account = self.guest.admission.budget.open("viewer", {"itself": VIEWER_BYTES}, LISTENERS)
        wire = self.wire = ViewServer(now_ns)
        self.blame = ViewerBlame(self.guest, principal, self.key, wire.keepalive, wire.send_probe, traffic)
        self.closing = False
        self.settings = PictureSettings()
        self.codecs: frozenset[str] = frozenset()
        self.formats: frozenset[str] = frozenset()
        self.listener: str | None = None
        """The key of its own sound listener."""
        self.hidden = self.long_hidden = False
        self._hidden_ns: HostNs = 0
        self.retry_ns: HostNs = 0
        """It is given no encoder before."""
        self.listed: Listed | None = None
        """The screen that it sees."""
        self.encoding = False
        """Whether it shares an encoder now."""
        self.flow, self.times, self.refreshes = PictureFlow(), PictureTimes(now_ns, viewers.totals), Refreshes()
        self.hands = Hands()
        self.clip = ViewerClip(self.guest, self.who, self.wire, self.account, self.flush)
        self.sent_bytes = self.sent_pictures = self.refreshed = 0
        self._write, self._room = write, room
        self._left = self._joined = self._any = False
        self._like = ("", "")
        """The door and the label of the screen that it saw last."""
        self._told = ""
        self._unsent: list[str | bytes] = []
        self._error: MillraceError | None = None
        self._size = Size(1, 1)
        """Of the pictures sent."""
        self._cursor = SentCursor()
        self._held: tuple[bool, str] | None = None
        self._refused = False
        """It was told that it has no keyboard."""
        self._named: list[ScreenNamed] | None = None

    @property
    def key(self) -> str:
        """Its name for users and the API."""
        return f"viewer/{self.id}"

    @property
    def rtt_ns(self) -> HostNs | None:
        """Round-trip time to the viewer."""
        return self.wire.keepalive.clock.rtt_ns

    @property
    def has_keyboard(self) -> bool:
        """Whether it has the keyboard of its guest."""
        return self.guest.screens.seat.who is self.who

    @property
    def may_type(self) -> bool:
        """Whether it may take the keyboard."""
        return self.principal.may(Right.TYPE, self.guest.name)

    @property
    def wants_pictures(self) -> bool:
        """Whether it is to be sent pictures at all."""
        return self._joined and not self._left and self.settings.picture != "off"

    # -- the connection --------------------------------------------------------------------------

    def receive(self, message: str | bytes, now_ns: HostNs) -> None:
        """Process one message, unless the session has left; RemoteProtocolError ends it."""
        if self._left:
            return
        self.wire.receive(message, now_ns)
        self.blame.received(now_ns)
        for event in self.wire.events():
            self._handle(event, now_ns)
        self.flush()

    def next_timeout(self) -> HostNs | None:
        """See `Timed`."""
        return self.wire.next_timeout()

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Timed`; PeerLost if the peer is gone."""
        self.wire.handle_timeout(now_ns)
        self.flush()

    def flush(self) -> None:
        """Write what is pending, as far as the connection has room."""
        self._unsent += self.wire.data_to_send()
        if not self._unsent or self._left:
            return
        if self._room():
            unsent, self._unsent = self._unsent, []
            self.sent_bytes += sum(map(len, unsent))
            self._write(unsent)
        elif len(self._unsent) > UNSENT_MAX:
            self._fail(PeerLost(f"the viewer left {len(self._unsent)} messages unread"))

    def tick(self, now_ns: HostNs) -> None:
        """About once a second: measure, and follow the line. Raises the error that ended the pictures, if any."""
        if self._error is not None:
            raise self._error
        self.times.second(now_ns, self.sent_bytes, self.sent_pictures)
        self.clip.tick(now_ns)
        self.long_hidden = self.hidden and now_ns - self._hidden_ns > HIDDEN_NS
        self.blame.second(self.listed.screen if self.listed else None, now_ns)
        self.flush()
        self.regroup()

    def fault(self, error: MillraceError) -> None:
        """Tell the viewer why the session ends."""
        self.send(Fault(error.listener_word, str(error), fatal=True))

    def bye(self, reason: str, again: bool) -> None:
        """Tell the viewer that the session ends."""
        self.send(Bye(reason, again))

    def closed(self) -> None:
        """The connection or its rights are gone."""
        if self._left:
            return
        try:
            self.viewers.leave(self)
            self.clip.leave()
        finally:
            self._left = True
            self.account.close()
            self._unsent.clear()

    def forget(self) -> None:
        """The connection is over. It is reached through these, which keep this: a cycle (daemon/collector.py)."""
        self._write, self._room = (lambda messages: None), (lambda: False)
        self.blame.forget()
        del self.clip

    def silent(self, stage: str, cause: str, evidence: Evidence, now_ns: HostNs) -> Symptom:
        """A symptom dated back to the viewer's last message, if that is long ago."""
        return last_heard(stage, cause, self.guest.name, self.key, evidence, self.wire.keepalive.heard_ns, now_ns)

    def send(self, message: ToViewer) -> None:
        """Send a control message."""
        self.wire.send_message(message)
        self.flush()

    def _fail(self, error: MillraceError) -> None:
        """End the session at the next tick, because of `error`; until then it is sent nothing."""
        self._error = self._error or error
        self._room = lambda: False

    # -- events ----------------------------------------------------------------------------------

    def _handle(self, event: FromViewer | Clip, now_ns: HostNs) -> None:
        self.blame.told(event, now_ns)
        if isinstance(event, Watch):
            self._greet(event)
        elif isinstance(event, Shown | Taken):
            self._acknowledged(event, now_ns)
        elif isinstance(event, Key | Pointer | SizeWish | Text):
            self._control(event)
        elif isinstance(event, TakeKeyboard):
            self._take(event.take)
        elif isinstance(event, Copied | Paste | Clip):
            self.clip.handle(event)
        elif isinstance(event, ChangeView):
            self._change(event)
        elif isinstance(event, Hidden):
            self._hide(event.hidden, now_ns)
        elif isinstance(event, Refresh):
            self.refreshed += 1
            self.viewers.refresh(self)
        elif isinstance(event, Bye):
            self.closing = True

    def _hide(self, hidden: bool, now_ns: HostNs) -> None:
        self.hidden, self._hidden_ns = hidden, now_ns
        self.long_hidden = self.long_hidden and hidden
        self.flow.reset()
        self.times.begin(now_ns)
        self.regroup()
        self.viewers.ready(self)

    def regroup(self) -> None:
        """Share the encoder that fits now, if there is room; otherwise it is told, and goes on as before."""
        try:
            self.viewers.regroup(self)
        except GraphError as error:
            self.tell_trouble(error)

    def tell_trouble(self, error: MillraceError) -> None:
        """Tell it why it sees nothing, once."""
        if str(error) != self._told:
            self._told = str(error)
            self.send(Fault(error.listener_word, self._told))

    # What the viewer asks for is checked before Watching, which precedes everything else.
    def _greet(self, watch: Watch) -> None:
        self.name = printable(watch.name, NAME_MAX) or self.address
        self.codecs, self.formats = frozenset(watch.codecs), frozenset(watch.formats)
        self.settings = changed_picture(self.settings, watch.settings)
        listed = self.viewers.find(watch.screen)
        self._any, self._joined = watch.screen is None, True
        self.see(listed)
        self._pair(watch.listener)
        self.viewers.join(self)
        if watch.keyboard and self.may_type and self.guest.screens.seat.who is None:
            self.viewers.take_keyboard(self)

    def see(self, listed: Listed | None) -> None:
        """Tell it which screen it sees from now on."""
        self.listed = listed
        key, label = (listed.key, listed.label) if listed else (None, "")
        self._like = (listed.door, label) if listed else self._like
        self.send(
            Watching(self.id, self.guest.name, key, label, self.settings.as_dict(), self.may_type, self.clip.allowed)
        )
        self.clip.see(listed)

    def accepts(self, listed: Listed) -> bool:
        """Whether a new screen takes the place of the one that it saw: after a machine has come back."""
        return self._joined and (self._any or self._like == (listed.door, listed.label))

    def _pair(self, number: int | None) -> None:
        """Its sound listener is this one: of the same guest and principal."""
        key = None if number is None else f"listener/{number}"
        if key is not None and not self.guest.has_listener(key, self.principal):
            self.send(Fault("settings", f"listener: you have no {key} in guest {self.guest.name}"))
            key = None
        self.listener = key

    def _change(self, change: ChangeView) -> None:
        if change.listener is not UNSET:
            self._pair(change.listener)
            self.guest.latency_changed()
        if change.settings:
            try:
                self.configure(change.settings)
            except (ConfigError, GraphError) as error:
                self.send(Fault(error.listener_word, str(error)))

    def configure(self, changes: Mapping[str, str]) -> PictureSettings:
        """Change settings; ConfigError says what is wrong. If it is refused, nothing has changed."""
        before, self.settings = self.settings, changed_picture(self.settings, changes)
        try:
            self.viewers.regroup(self)
        except MillraceError:
            self.settings = before
            raise
        self.send(Configured(self.settings.as_dict()))
        self.guest.latency_changed()
        return self.settings

    # -- the keyboard ----------------------------------------------------------------------------

    def _take(self, take: bool) -> None:
        try:
            if take:
                self.viewers.take_keyboard(self)
            else:
                self.viewers.leave_keyboard(self)
        except RightsError as error:
            self.send(Fault("rights", str(error)))

    def _control(self, event: Key | Pointer | SizeWish | Text) -> None:
        """Pass on what it types and points at, if it has the keyboard."""
        if self.listed is None:
            return
        try:
            self.hands.control(event, self.who, self.listed.screen, self._size)
            self.blame.typed(event, self.listed.screen, self.viewers.clock())
        except RightsError as error:
            # Once for a pointer that moves a hundred times a second.
            if not self._refused:
                self._refused = True
                self.send(Fault("rights", str(error)))
        except ConfigError as error:
            self.send(Fault("settings", str(error)))

    def release_keys(self) -> None:
        """Release what it holds down; called while it still has the keyboard."""
        if self.has_keyboard and self.listed is not None:
            self.hands.release(self.listed.screen.controlled(self.who, "typing"))
        self.hands.forget()

    def tell_keyboard(self, holder: str) -> None:
        """Tell it who has the keyboard, if that has changed."""
        held = self.has_keyboard, holder
        if self._joined and held != self._held:
            self._held, self._refused = held, False
            self.send(KeyboardHeld(*held))

    # -- the screen ------------------------------------------------------------------------------

    def tell_screens(self, named: list[ScreenNamed]) -> None:
        """Tell it which screens there are, if that has changed."""
        if self._joined and named != self._named:
            self._named = named
            self.send(Screens(named))

    def tell_gone(self, why: str) -> None:
        """Its screen is gone: it waits for another."""
        self.listed = None
        self.clip.see(None)
        self.hands.forget()
        self._cursor = SentCursor()
        self.send(Gone(why))

    def tell_relative(self) -> None:
        """Whether the pointer takes movements may have changed."""
        if self.listed is not None:
            self.wire.send_relative(self.listed.screen.relative)
            self.flush()

    def cursor_due(self) -> HostNs | None:
        """When the pointer can be sent; None if it is as it was."""
        sees = self.listed is not None and self.encoding and self._sees()
        return self._cursor.due(self.listed.screen) if sees and self.listed is not None else None

    def send_cursor(self, now_ns: HostNs) -> None:
        """Send the pointer, if it is time and there is room."""
        due_ns = self.cursor_due()
        if due_ns is not None and now_ns >= due_ns and self.listed is not None:
            self._cursor.send(self.listed.screen, self._size, self.wire, now_ns)
            self.flush()

    def _sees(self) -> bool:
        return not self.hidden and not self._unsent and self._error is None and self._room()

    # -- pictures: see `PictureSink` -------------------------------------------------------------

    @property
    def untried(self) -> bool:
        """See `PictureSink`."""
        return self.settings.picture == "auto" and self.flow.rate is None

    def ready(self, now_ns: HostNs) -> bool:
        """See `PictureSink`."""
        return self._sees() and self.flow.ready(self.rtt_ns)

    def resized(self, size: Size) -> None:
        """See `PictureSink`."""
        self._size = size
        self.times.begin(self.viewers.clock())
        self._cursor.again()
        self.wire.send_mode(size.width, size.height, self.listed is not None and self.listed.screen.relative)
        self.flush()

    def push(self, picture: EncodedPicture) -> None:
        """See `PictureSink`."""
        if self._left or self._error is not None:
            return
        if not self.account.fits("sending", self.flow.bytes_on_way + picture.size, LISTENERS):
            self._fail(BudgetError(f"guest {self.guest.name} has no memory left for this picture"))
            return
        now, serial = self.viewers.clock(), 0
        pieces = list(cut_pieces(picture.parts))
        for at, parts in enumerate(pieces, 1):
            serial = self.wire.send_piece(
                pack_parts(parts), now, at == len(pieces), picture.key, picture.painted_ns,
                picture.encode_ns // NS_PER_US, picture.wait_ns // NS_PER_US,
            )  # fmt: skip
        self.sent_pictures += 1
        self.flow.sent(serial, picture.size, now)
        self.times.sent(serial, picture, now)
        self.flush()
        self.blame.sent(serial, now)

    def _acknowledged(self, event: Shown | Taken, now_ns: HostNs) -> None:
        arrived_ns, decoded_ns, rtt_ns, first = now_ns, now_ns, self.rtt_ns, self.flow.rate is None
        if isinstance(event, Shown):
            told = ViewerTimes(event.arrived_ns, event.decoded_ns, event.drawing_ns, event.drawn_ns)
            arrived_ns, decoded_ns = told.arrival_ns(rtt_ns or 0, now_ns), told.decoding_ns(rtt_ns or 0, now_ns)
            self.times.drawn(event.serial, told, event.skew_ns, now_ns)
        self.flow.acknowledged(event.serial, arrived_ns, rtt_ns, decoded_ns)
        if first and self.flow.rate is not None:
            # What is sent until the next tick could take seconds on a thin line.
            self.regroup()
        self.account.hold("sending", self.flow.bytes_on_way, LISTENERS)
        self.viewers.ready(self)
