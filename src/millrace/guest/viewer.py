"""A viewer's session in the daemon: the picture protocol on one side, an encoder and the keyboard on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from msgspec import UNSET

from millrace.codec.picturesettings import PictureSettings, changed_picture
from millrace.errors import ConfigError, GraphError, MillraceError, RightsError
from millrace.graph.screen import Screen
from millrace.graph.screens import Listed
from millrace.graph.seat import Watcher
from millrace.guest.clips import ViewerClip
from millrace.guest.company import Company
from millrace.guest.ratelimits import ViewerLimits
from millrace.guest.viewerblame import ViewerBlame
from millrace.guest.viewerkeyboard import ViewerKeyboard
from millrace.guest.viewerpictures import ViewerPictures
from millrace.guest.viewersending import Sending
from millrace.guest.viewervideos import ViewerVideos
from millrace.outlets.encoded import EncodedPicture
from millrace.outlets.pictureflow import PictureFlow
from millrace.outlets.picturetimes import PictureTimes
from millrace.outlets.queue import Traffic, Write, unknown
from millrace.pixels.rects import Size
from millrace.rights.model import Principal
from millrace.symptoms import Evidence, Symptom, last_heard
from millrace.text import printable
from millrace.units import NS_PER_S, HostNs
from millrace.wire.peer.clips import Clip, Copied, Paste
from millrace.wire.peer.messages import Bye, Configured, Fault
from millrace.wire.peer.overlays import OVERLAY_CODECS
from millrace.wire.peer.pictures import (
    BUTTONS,
    ChangeView,
    FromViewer,
    Gone,
    Hidden,
    Key,
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
)
from millrace.wire.peer.viewing import ViewServer

NAME_MAX = 100
VIEWER_BYTES = 96 * 1024
"""Memory of a viewer: its connection, its send buffer and its state."""
HIDDEN_NS = 5 * NS_PER_S
"""A viewer that is hidden for longer leaves its encoder."""


# Messages and pictures go through `sending` in one order, which is part of the protocol: a mode precedes its pictures.
# What is told in rounds (`Viewers.tell`) is told only if there is room; until then it stays what has to be told.
class ViewerSession:
    """One connected viewer. `write` sends messages; `room` says whether the connection can take more."""

    def __init__(
        self, viewers: Company[ViewerSession], id_: int, address: str, write: Write, room: Callable[[], bool],
        now_ns: HostNs, principal: Principal, traffic: Traffic = unknown, always: bool = False,
    ) -> None:  # fmt: skip
        self.viewers, self.guest = viewers, viewers.guest
        self.id, self.address, self.principal = id_, address, principal
        self.name = address
        self.who = Watcher(self.key, principal)
        self.account = viewers.open(principal, VIEWER_BYTES, always)
        try:
            viewers.arrive(self)
        except GraphError:
            self.account.close()
            raise
        wire = self.wire = ViewServer(now_ns)
        self.sending = Sending(wire, self.account, write, room, traffic)
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
        self.shares: PictureSettings | None = None
        """The settings of the encoder that it shares now: the nearest to its own, if there is no room for those."""
        self.times = PictureTimes(now_ns, viewers.totals)
        self.limits = ViewerLimits(viewers.wholes.of(principal.key))
        self.keyboard = ViewerKeyboard(self.guest, self.who, wire, self.sending, self.account, self.blame)
        self.videos = ViewerVideos(self.guest.tracks, self.who, self.account, partial(viewers.wake, self))
        shown = self.blame, self.account, self.times, self.videos, viewers.clock
        self.pictures = ViewerPictures(wire, self.sending, *shown)
        self.clip = ViewerClip(self.guest, self.who, wire, self.account, self.sending, viewers.tell_later)
        self.refreshed = 0
        self._left = self._joined = self._any = False
        self._like = ("", "")
        """The door and the label of the screen that it saw last."""
        self._told: type[MillraceError] | None = None
        """The kind of trouble that it was told of, until it is over."""
        self._in_force = self.settings
        """The settings that it was told."""
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
    def flow(self) -> PictureFlow:
        """What is on its way."""
        return self.pictures.flow

    @property
    def screen(self) -> Screen | None:
        """The screen that it sees."""
        return None if self.listed is None else self.listed.screen

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
        due = self.wire.next_timeout(), self.limits.due_ns
        return min((ns for ns in due if ns is not None), default=None)

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Timed`; PeerLost if the peer is gone."""
        self.wire.handle_timeout(now_ns)
        if self.limits.came_due(now_ns):
            self.regroup()
        self.flush()

    def flush(self) -> None:
        """Write what is pending, as far as the connection has room."""
        self.sending.flush()
        self.clip.go_on()

    def tick(self, now_ns: HostNs) -> bool:
        """See `Ticked`. Measure, and follow the line. Raises the error that ended the pictures, if any."""
        if self.sending.error is not None:
            raise self.sending.error
        self.times.second(now_ns, self.sending.bytes)
        self.pictures.settle(self.rtt_ns, now_ns)
        self.clip.tick(now_ns)
        self.long_hidden = self.hidden and now_ns - self._hidden_ns > HIDDEN_NS
        self.blame.second(self.screen, now_ns)
        self.relieved()
        if self.regroup():
            self._told = None
        if self.shares is None:
            self.videos.leave()
        return False

    def relieved(self) -> None:
        """See `Attendee`: there may be room for what waits."""
        if not self._left:
            self.videos.retry()
            self.flush()
            self.viewers.tell(self)
            self.viewers.ready(self)

    def fault(self, error: MillraceError) -> None:
        """Tell the viewer why the session ends."""
        self.send(Fault.of(error, fatal=True))

    def stop(self, why: str) -> list[str | bytes]:
        """See `Attendee`."""
        self.viewers.leave_keyboard(self)
        self.clip.leave()
        return self.sending.stop(Bye(why, again=False))

    def closed(self) -> None:
        """The connection or its rights are gone."""
        if self._left:
            return
        self.sending.close()
        try:
            self.videos.close()
            self.viewers.leave(self)
            self.clip.leave()
        finally:
            self._left = True
            self.account.close()

    def forget(self) -> None:
        """The connection is over. It is reached through these, which keep this: a cycle (daemon/collector.py)."""
        self.sending.forget()
        self.blame.forget()
        del self.clip

    def silent(self, stage: str, cause: str, evidence: Evidence, now_ns: HostNs) -> Symptom:
        """A symptom dated back to the viewer's last message, if that is long ago."""
        return last_heard(stage, cause, self.guest.name, self.key, evidence, self.wire.keepalive.heard_ns, now_ns)

    def send(self, message: ToViewer) -> None:
        """Send a control message."""
        self.wire.send_message(message)
        self.flush()

    # -- events ----------------------------------------------------------------------------------

    def _handle(self, event: FromViewer | Clip, now_ns: HostNs) -> None:
        self.blame.told(event, now_ns)
        if isinstance(event, Watch):
            self._greet(event)
        elif isinstance(event, Shown | Taken):
            self._acknowledged(event, now_ns)
        elif isinstance(event, Key | Pointer | SizeWish | Text):
            self.keyboard.control(event, self.screen, self.pictures.size, self.viewers.clock())
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
            self.videos.lost()
            self.viewers.refresh(self)
        elif isinstance(event, Bye):
            self.closing = True

    def _hide(self, hidden: bool, now_ns: HostNs) -> None:
        self.hidden, self._hidden_ns = hidden, now_ns
        self.long_hidden = self.long_hidden and hidden
        self.flow.reset()
        if hidden:
            self.videos.hide()
        self.times.begin(now_ns)
        self.regroup()
        self.viewers.ready(self)

    def regroup(self) -> bool:
        """Share the encoder that fits now, if there is room; otherwise it is told, and goes on as before.

        Returns whether it shares that one already.
        """
        settled = False
        try:
            settled = self.viewers.regroup(self)
        except GraphError as error:
            self.tell_trouble(error)
        self._tell_settings()
        return settled

    def _tell_settings(self, again: bool = False) -> None:
        """Tell it the settings of what it is sent, if that is news, or `again`."""
        before, self._in_force = self._in_force, self.shares or self.settings
        if again or before != self._in_force:
            self.send(Configured(self._in_force.as_dict()))

    def tell_trouble(self, error: MillraceError) -> None:
        """Tell it why it sees nothing: once, though the next time other figures may be short."""
        if type(error) is not self._told:
            self._told = type(error)
            self.send(Fault.of(error))

    # What the viewer asks for is checked before Watching, which precedes everything else.
    def _greet(self, watch: Watch) -> None:
        self.name = printable(watch.name or self.principal.label, NAME_MAX) or self.address
        self.codecs, self.formats = frozenset(watch.codecs), frozenset(watch.formats)
        self.videos.codecs = frozenset(watch.overlays).intersection(OVERLAY_CODECS)
        self.settings = changed_picture(self.settings, watch.settings)
        listed = self.viewers.find(watch.screen)
        self._any, self._joined = watch.screen is None, True
        self.see(listed)
        self._pair(watch.listener)
        self.viewers.join(self)
        self._tell_settings()
        if watch.keyboard and self.keyboard.allowed and self.guest.screens.seat.who is None:
            self.viewers.take_keyboard(self)

    def see(self, listed: Listed | None) -> None:
        """Tell it which screen it sees from now on."""
        self.listed, self._in_force = listed, self.settings
        key, label, why = (listed.key, listed.label, "") if listed else (None, "", self.viewers.absence)
        self._like = (listed.door, label) if listed else self._like
        self.send(Watching(
            self.id, self.guest.name, key, label, self.settings.as_dict(), self.keyboard.allowed, self.clip.allowed,
            buttons=BUTTONS, name=self.name, why=why,
        ))  # fmt: skip
        self.tell_clip()

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
                self.send(Fault.of(error))

    def configure(self, changes: Mapping[str, str]) -> None:
        """Change settings; ConfigError says what is wrong. If it is refused, nothing has changed."""
        before, self.settings = self.settings, changed_picture(self.settings, changes)
        try:
            self.viewers.regroup(self)
        except MillraceError:
            self.settings = before
            raise
        self._tell_settings(again=True)
        self.guest.latency_changed()

    # -- the keyboard ----------------------------------------------------------------------------

    def _take(self, take: bool) -> None:
        try:
            if take:
                self.viewers.take_keyboard(self)
            else:
                self.viewers.leave_keyboard(self)
        except RightsError as error:
            self.keyboard.refuse(error)

    def release_keys(self) -> None:
        """Release what it holds down; called while it still has the keyboard."""
        self.keyboard.release(self.screen)

    def tell_keyboard(self, holder: str) -> None:
        """Tell it who has the keyboard, if that has changed."""
        if self._joined:
            self.keyboard.tell(holder)

    # -- the screen ------------------------------------------------------------------------------

    def tell_screens(self, named: list[ScreenNamed]) -> None:
        """Tell it which screens there are, if that has changed."""
        if self._joined and named != self._named and self.sending.open:
            self._named = named
            self.send(Screens(named))

    def tell_gone(self, why: str) -> None:
        """Its screen is gone: it waits for another."""
        self.listed = None
        # Its machine went, and not the viewer, which need not wait for its next encoder.
        self.limits.moves.renew()
        self.clip.see(None)
        self.keyboard.hands.forget()
        self.pictures.screen_gone()
        self.send(Gone(why))

    def tell_relative(self) -> None:
        """Whether the pointer takes movements may have changed."""
        if self.listed is not None and self.sending.open:
            self.wire.send_relative(self.listed.screen.relative)
            self.flush()

    def tell_clip(self) -> None:
        """The clipboard of its machine may have come, gone or changed."""
        self.clip.see(self.listed)
        if self.sending.open:
            self.clip.tell()

    # -- in the rounds of its group --------------------------------------------------------------

    def due_ns(self) -> HostNs | None:
        """When something is to be sent: 0 for a picture that waits, or when the pointer is due."""
        if self.pictures.due:
            return 0
        if self.listed is None or self.shares is None or self.hidden:
            return None
        return 0 if self.pictures.frames_due(self.rtt_ns) else self.pictures.cursor_due(self.listed.screen)

    def send_pictures(self, frames: bool) -> Iterator[None]:
        """Send the picture that waits for its turn, in steps; or, without one, `frames` of videos that wait."""
        if self.shares is not None and (self.pictures.due or (frames and self.due_ns() == 0)):
            yield from self.pictures.send(self.listed is not None and self.listed.screen.relative)

    def send_due(self, now_ns: HostNs) -> None:
        """Send the pointer, and ask for pictures that are late, if it is time."""
        if self.listed is not None and self.shares is not None and not self.hidden:
            self.pictures.send_cursor(self.listed.screen, now_ns)
        if self.blame.look(now_ns):
            self.flush()

    # -- pictures: see `PictureSink` -------------------------------------------------------------

    @property
    def sparing(self) -> bool:
        """See `PictureSink`."""
        return self.pictures.sparing or (self.settings.picture == "auto" and self.flow.rate is None)

    def ready(self, now_ns: HostNs) -> bool:
        """See `PictureSink`."""
        return not self.hidden and self.pictures.ready(self.rtt_ns)

    def resized(self, size: Size) -> None:
        """See `PictureSink`."""
        self.pictures.resized(size)

    def push(self, picture: EncodedPicture) -> bool:
        """See `PictureSink`."""
        return self.pictures.push(picture)

    def _acknowledged(self, event: Shown | Taken, now_ns: HostNs) -> None:
        first = self.flow.rate is None
        self.pictures.acknowledged(event, self.rtt_ns, now_ns)
        if first and self.flow.rate is not None:
            # What is sent until the next tick could take seconds on a thin line.
            self.regroup()
        self.viewers.ready(self)
