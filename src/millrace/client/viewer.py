"""The viewer as a library: connect, decode, show in time with the sound, acknowledge, reconnect.

viewer = Viewer("ws://127.0.0.1:8642/default", window, ViewerOptions(), listener)
await viewer.run()
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import aiohttp

from millrace.client import dialler, endpoint
from millrace.client.canvas import CODECS, FORMATS, Canvas, Decoder
from millrace.client.faces import Face
from millrace.client.figures import Figures
from millrace.client.incoming import Decoded, Incoming, Whole, is_quick
from millrace.client.notices import Notice, NoticeLimiter, unnoticed
from millrace.client.options import ListenerOptions
from millrace.client.ownsound import NoSound, OwnSound
from millrace.client.steps import Step, Undecodable, step_bytes
from millrace.errors import ConfigError, GraphError, PeerLost
from millrace.io.clock import now_ns
from millrace.io.messages import MessageRunner
from millrace.pixels.rects import Point, Size
from millrace.playout.presentation import Presentation, Waiting
from millrace.text import printable, quoted, well_formed
from millrace.units import NS_PER_MS, NS_PER_S, HostNs
from millrace.wire.peer.clips import Clip, ClipboardState, Paste
from millrace.wire.peer.messages import Bye, Configured, Fault, Trouble
from millrace.wire.peer.overlays import OVERLAY_CODECS
from millrace.wire.peer.pictures import (
    BUTTONS,
    BUTTONS_FIRST,
    SCREEN_SUBPROTOCOL,
    ChangeView,
    CursorChanged,
    FromViewer,
    Gone,
    Hidden,
    Key,
    KeyboardHeld,
    ModeChanged,
    Part,
    Piece,
    Pointer,
    Refresh,
    Screens,
    SizeWish,
    TakeKeyboard,
    Taken,
    Text,
    Watch,
    Watching,
)
from millrace.wire.peer.viewing import ViewClient, ViewerEvent

LEAD_MAX_NS: HostNs = 30 * NS_PER_MS
TICK_S, LATE_NS = 0.1, 150 * NS_PER_MS
"""A timer of its own, and by how much it is late if this program did not run."""
SMOOTHING = 0.1


@dataclass
class ViewerOptions(ListenerOptions):
    """A viewer's options; `settings` are those of pictures."""

    screen: str | None = None
    """Its key, screen/N; None for the first."""
    keyboard: bool = False
    """Take the keyboard if nobody has it."""
    wait_for_screen: bool = True
    """Whether to wait for a screen if the guest has none, instead of failing."""

    def __post_init__(self) -> None:
        """See `ListenerOptions`."""
        super().__post_init__()
        well_formed(self.screen or "", "screen")


class Viewer:
    """One viewer of one screen of a guest, in time with `sound` if there is any."""

    def __init__(
        self,
        url: str,
        face: Face,
        options: ViewerOptions | None = None,
        sound: OwnSound | None = None,
        on_event: Notice = unnoticed,
    ) -> None:
        if not endpoint.is_listeners(url):
            raise ConfigError(f"{quoted(url)}: viewers connect to ws://HOST:PORT/GUEST or wss://HOST:PORT/GUEST")
        self.url, self.face, self.options = url, face, options or ViewerOptions()
        self.canvas, self.figures = Canvas(), Figures()
        self.watching: Watching | None = None
        self.cursor: CursorChanged | None = None
        self.keyboard = KeyboardHeld(False)
        self.relative = False
        """The machine takes movements of the pointer, not positions."""
        self.connections = 0
        self.clipboard = face.clipboard
        """Shared with the machine; None: not at all."""
        self.on_event = on_event
        self._sound: OwnSound = sound or NoSound()
        self._dialler = dialler.Dialler(url, self.options, (SCREEN_SUBPROTOCOL,), "/screen", "watch")
        self._notices = NoticeLimiter()
        self.ended = ""
        """Why the daemon has ended the session for good."""
        self._paired: int | None = None
        """The listener that the daemon was told of."""
        self.lost: PeerLost | None = None
        """Why there is no connection."""
        self.trouble = ""
        """Why what is shown is out of date, or nothing is shown; empty if neither."""
        self._stopping = asyncio.Event()
        self._pool = ThreadPoolExecutor(1, "decoder")
        self._wire: ViewClient | None = None
        self._runner: MessageRunner | None = None
        self._timer: asyncio.Handle | None = None
        self._begin()

    def _begin(self) -> None:
        """Forget what belongs to a connection."""
        self._decoder = Decoder()
        self._presentation: Presentation[Decoded] = Presentation()
        self._incoming = Incoming()
        self._broken = False
        self._generation: int | None = None

    # -- running -------------------------------------------------------------------------------

    def stop(self) -> None:
        """Make `run` return soon."""
        self._stopping.set()

    async def run(self) -> None:
        """Show until `stop`, or until the daemon ends the session for good. Reconnects by itself.

        Raises RightsError if access is denied, GraphError if there is no such guest or screen, OutputLost if the face
        takes no more, and RemoteProtocolError if the other side is not Millrace.
        """
        tries = 0
        try:
            while not self._stopping.is_set() and not self.ended:
                before = self.connections
                try:
                    async with self._dialler.connected() as websocket:
                        await self._talk(websocket)
                except (TimeoutError, aiohttp.ClientError, OSError, PeerLost) as error:
                    self._lost(error, first=self.connections != before or tries == 0)
                tries = 0 if self.connections != before else tries + 1
                if not self.ended:
                    await dialler.pause(self._stopping, tries)
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _lost(self, error: Exception, first: bool) -> None:
        self.lost = endpoint.given_up(self.url, self.options, error, self.connections > 0)
        if not self.options.reconnect:
            raise self.lost from None
        why = endpoint.hindrance(self.options, self.url, error)
        self._old(why)
        if first:
            self.on_event(*endpoint.setback(self.url, self.options, error, self.connections > 0))

    async def _talk(self, websocket: aiohttp.ClientWebSocketResponse) -> None:
        self._begin()
        wire = self._wire = ViewClient(self._watch(), now_ns())
        lost = asyncio.Event()
        runner = self._runner = MessageRunner(wire, partial(dialler.write, websocket), lambda error: lost.set())
        if self.clipboard is not None:
            self.clipboard.begin(wire, runner.flush)
        closings = [dialler.closing(websocket, due) for due in (self._stopping, lost)]
        try:
            async with asyncio.TaskGroup() as group:
                works = (runner.run(), self._decoding(), self._ticking(), *closings)
                tasks = [group.create_task(work) for work in works]
                try:
                    await self._read(websocket, wire, runner)
                finally:
                    for task in tasks:
                        task.cancel()
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            self._wire = self._runner = None
            self._disarm()
            if self.clipboard is not None:
                self.clipboard.end()
        if not self._stopping.is_set() and not self.ended:
            raise PeerLost("the connection ended")

    async def _read(self, websocket: aiohttp.ClientWebSocketResponse, wire: ViewClient, runner: MessageRunner) -> None:
        async for message in websocket:
            if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                break
            wire.receive(message.data, now_ns())
            for event in wire.events():
                self._take(event)
            runner.flush()

    # The daemon can't tell a viewer that is stopped from one that does not read.
    async def _ticking(self) -> None:
        """Tell the daemon when this program did not get to run: somewhere between the last tick and the next."""
        last_ns = now_ns()
        while True:
            await asyncio.sleep(TICK_S)
            now, due_ns = now_ns(), last_ns + round(TICK_S * NS_PER_S)
            if now - due_ns > LATE_NS and self._wire is not None:
                at_ns = self._wire.on_daemons_clock((last_ns + due_ns) // 2)
                evidence = {"late_ms": round((now - due_ns) / NS_PER_MS, 1)}
                self._say(Trouble("froze", "viewer", "not run", at_ns, evidence))
            last_ns = now

    def _watch(self) -> Watch:
        options, self._paired = self.options, self._sound.number
        return Watch(
            name=options.name, screen=options.screen, codecs=list(CODECS), formats=list(FORMATS),
            overlays=list(OVERLAY_CODECS), settings=options.settings, listener=self._paired, keyboard=options.keyboard,
        )  # fmt: skip

    # -- incoming --------------------------------------------------------------------------------

    def _take(self, event: ViewerEvent) -> None:
        if isinstance(event, Piece):
            self._incoming.put_piece(event, now_ns())
        elif isinstance(event, ModeChanged | CursorChanged):
            # In order with the pictures, which may wait to be decoded.
            self._incoming.put_change(event)
        elif isinstance(event, Watching):
            self._joined(event)
        elif isinstance(event, KeyboardHeld):
            self.keyboard = event
            self.face.keyboard(event)
            self._notices(self.on_event, "keyboard", "yours" if event.mine else event.who or "nobody's")
        elif isinstance(event, Configured):
            self._notices(self.on_event, "settings", ", ".join(f"{k}={v}" for k, v in event.settings.items()))
        elif isinstance(event, Gone):
            self._old(printable(event.why))
            self._notices(self.on_event, "gone", event.why)
        elif isinstance(event, Screens):
            listed = ", ".join(f"{one.key} {one.label}" for one in event.screens)
            self._notices(self.on_event, "screens", listed or "none")
        elif isinstance(event, ClipboardState | Paste | Clip):
            if self.clipboard is not None:
                self.clipboard.take(event)
        elif isinstance(event, Fault):
            self._fault(event)
        elif isinstance(event, Bye):
            self._bye(event)

    def _joined(self, watching: Watching) -> None:
        self.watching, self.lost = watching, None
        self.connections += 1
        if watching.screen is None:
            why = f": {printable(watching.why, 1000)}" if watching.why else "; attach one: `millrace attach --help`"
            self._old(f"guest {watching.guest} has no screen{why}")
            if not self.options.wait_for_screen:
                raise GraphError(self.trouble)
        if self._sound.number != self._paired:
            # Its sound was connected after this viewer had asked, and before it was answered.
            self.hear(self._sound.number)
        what = f"{watching.screen} {watching.label}".strip() if watching.screen else f"no screen: {self.trouble}"
        self.on_event("joined", f"viewer/{watching.viewer} sees {watching.guest}, {what}")

    def _fault(self, fault: Fault) -> None:
        if fault.fatal:
            raise endpoint.ending(fault.code, fault.message)
        self._notices(self.on_event, "error", fault.message)

    def _bye(self, bye: Bye) -> None:
        if not bye.again:
            # Not rate-limited: the user must see why it ended.
            self.ended = printable(bye.reason) or "no reason given"
            self.on_event("ended", self.ended)
            self.stop()

    # -- decoding --------------------------------------------------------------------------------

    async def _decoding(self) -> None:
        """Decode what arrives, one picture after the other, outside the loop."""
        while True:
            item = await self._incoming.take()
            if isinstance(item, ModeChanged):
                self._set_mode(item)
            elif isinstance(item, CursorChanged):
                self._set_cursor(item)
            else:
                await self._decode(item)
            self._incoming.done(item)

    async def _decode(self, whole: Whole) -> None:
        piece, began = whole.last, now_ns()
        if piece.key:
            self._broken = False
        steps: list[Step] = []
        if not self._broken:
            try:
                steps = await self._steps(whole.parts)
            except Undecodable as error:
                self._broken = True
                self.figures.refreshes += 1
                self._say(Refresh(str(error)))
        now = now_ns()
        if not piece.serial:
            # Shapes of cursors, which no picture waits for.
            self.canvas.apply(steps)
            return
        self.figures.decoded(now - began)
        picture = Decoded(piece, steps, whole.arrived_ns, now)
        self._presentation.push(picture, piece.painted_ns, now, step_bytes(steps))
        self._present()
        if len(self._presentation):
            # It waits for its sound, and the next one may come meanwhile.
            self._say(Taken(piece.serial, len(self._presentation)))

    # Small rectangles take less time than two changes of thread, on a busy machine much less.
    async def _steps(self, parts: tuple[Part, ...]) -> list[Step]:
        if is_quick(parts):
            return self._decoder.steps(parts)
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._decoder.steps, parts)

    def _set_mode(self, mode: ModeChanged) -> None:
        self.relative, before = mode.relative, self._generation
        self._generation = mode.generation
        if before == mode.generation:
            return
        size = Size(mode.width, mode.height)
        self._show(self._presentation.due(now_ns(), None))
        self._decoder.resize(size)
        self.canvas.resize(size)
        self._broken = False
        self._old("")
        self.face.resized(self.canvas)

    def _old(self, why: str) -> None:
        """What is shown is out of date, for this reason; empty: no longer."""
        self.trouble = why
        self.face.old(why)

    def _set_cursor(self, cursor: CursorChanged) -> None:
        self.cursor = cursor
        self.face.cursor(self.canvas, cursor)

    # -- showing ---------------------------------------------------------------------------------

    def daemon_ns(self) -> HostNs:
        """The time on the daemon's clock; 0 while that is not known."""
        return 0 if self._wire is None else self._wire.on_daemons_clock(now_ns())

    def _present(self) -> None:
        """Show what is due, and come back for the rest."""
        self._disarm()
        now = now_ns()
        heard = None if self._sound.picture_first else self._sound.heard_ns(now)
        self._show(self._presentation.due(now, heard))
        due = self._presentation.next_timeout(now, heard)
        if due is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0, due - now_ns()) / NS_PER_S, self._present)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _show(self, pictures: list[Waiting[Decoded]]) -> None:
        if not pictures:
            return
        began = now_ns()
        changed = [rect for one in pictures for rect in self.canvas.apply(one.picture.steps)]
        if changed:
            self.face.draw(self.canvas, changed, pictures[-1].painted_ns)
        now = now_ns()
        if self._sound.heard_ns(now) is not None:
            lead = self._presentation.lead_ns
            self._presentation.lead_ns = round(min(LEAD_MAX_NS, lead + SMOOTHING * (now - began - lead)))
        for one in pictures:
            self._acknowledge(one, began, now, one is pictures[-1])

    def _acknowledge(self, one: Waiting[Decoded], began: HostNs, now: HostNs, drawn: bool) -> None:
        heard, picture = self._sound.heard_ns(now), one.picture
        skew = None if heard is None else heard - one.painted_ns
        wire = self._wire
        if wire is None or self._runner is None:
            return
        offset = wire.keepalive.clock.offset_ns(now)
        self.figures.shown(drawn, None if offset is None else now + offset - one.painted_ns, skew)
        if drawn:
            times = (picture.decoded_ns, now, skew, len(self._presentation), picture.arrived_ns, began)
            wire.send_shown(picture.piece.serial, *times)
        else:
            wire.send_shown(picture.piece.serial, picture.decoded_ns, 0, None, len(self._presentation))
        self._runner.flush()

    # -- outgoing --------------------------------------------------------------------------------

    def _say(self, message: FromViewer) -> None:
        if self._wire is not None and self._runner is not None and self.watching is not None:
            self._wire.send_message(message)
            self._runner.flush()

    def configure(self, changes: dict[str, str]) -> None:
        """Change settings while watching."""
        self.options.settings.update(changes)
        self._say(ChangeView(changes))

    def key(self, code: int, down: bool, meaning: str = "", locks: int | None = None) -> None:
        """Press or release a key, by its XT scan code. `meaning` and `locks`: see `Key`."""
        self._say(Key(code, down, meaning, locks))

    def pointer(self, at: Point, buttons: int, relative: bool = False) -> None:
        """Move the pointer, with these buttons down; those that the daemon does not know are left out."""
        known = BUTTONS_FIRST if self.watching is None else self.watching.buttons
        self._say(Pointer(at.x, at.y, buttons & (1 << min(known, BUTTONS)) - 1, relative))

    def type_text(self, text: str) -> None:
        """Type characters that an input method composed."""
        self._say(Text(text))

    def wish_size(self, size: Size) -> None:
        """Wish for another size of the screen."""
        self._say(SizeWish(size.width, size.height))

    def hide(self, hidden: bool) -> None:
        """Nobody sees the picture, or somebody does again."""
        self._say(Hidden(hidden))

    def hear(self, listener: int | None) -> None:
        """The viewer's sound is that of this listener from now on."""
        if self._wire is not None and self.watching is not None:
            # Otherwise it is told with the request to watch, or when that is answered.
            self._paired = listener
            self._say(ChangeView(listener=listener))

    def take_keyboard(self, take: bool = True) -> None:
        """Take the keyboard and the pointer, or give them up."""
        self._say(TakeKeyboard(take))
