"""One viewer and the clipboard of the machine that it sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from millrace.budget import VIEWERS, Account
from millrace.errors import ConfigError, GraphError, RightsError
from millrace.graph.clipboard import Clipboard
from millrace.graph.screens import Listed
from millrace.graph.seat import Watcher
from millrace.guest.home import Home
from millrace.guest.viewersending import Sending
from millrace.media.clip import CLIP_BYTES_MAX, ClipText
from millrace.rights.model import Right
from millrace.units import NS_PER_S, HostNs
from millrace.wire.peer.clips import Clip, ClipboardState, Copied, Paste, pack_clip
from millrace.wire.peer.messages import Fault
from millrace.wire.peer.viewing import ViewServer

FETCH_NS = 10 * NS_PER_S
"""How long a viewer waits for a machine's text: the program that has it may be stopped."""


# The right is asked for wherever text passes, by `Clipboard`. Here it decides whether the viewer is told anything.
#
# A text that is copied may be fetched by hundreds of viewers at once. So what each is sent waits for its guest's turns,
# and goes a piece at a time, as its connection has room; nothing of it waits anywhere else.
class ViewerClip:
    """A `ClipboardViewer`, and a `Worker` of its guest's turns. `later` has `tell` called soon."""

    first = False

    def __init__(
        self, guest: Home, who: Watcher, wire: ViewServer, account: Account, sending: Sending,
        later: Callable[[], None],
    ) -> None:  # fmt: skip
        self._guest, self._who, self._wire, self._account, self._sending = guest, who, wire, account, sending
        self._later = later
        self._messages: Iterator[bytes] | None = None
        """What is left of the answer that it is being sent."""
        self._clipboard: Clipboard | None = None
        self._told = ClipboardState(there=False)
        self._number = self._fetched = 0
        """Of the machine's text, and of the one that was fetched last."""
        self._serial = 0
        """Of that text, as the machine's clipboard counts."""
        self._offered = 0
        """Of the viewer's own."""
        self._waits = False
        self._waits_since_ns: HostNs | None = None

    @property
    def who(self) -> Watcher:
        """See `ClipboardViewer`."""
        return self._who

    @property
    def allowed(self) -> bool:
        """Whether the viewer may use the machine's clipboard."""
        return self._who.principal.may(Right.CLIPBOARD, self._guest.name)

    def see(self, listed: Listed | None) -> None:
        """The viewer sees this screen, whose machine may have a clipboard."""
        clipboard = None if listed is None else self._guest.screens.clipboard_of(listed.door)
        if not self.allowed or clipboard is self._clipboard:
            return
        self.leave()
        self._clipboard = clipboard
        if clipboard is not None:
            clipboard.join(self)
            # What is there counts as one that was copied now.
            self._serial = clipboard.serial - clipboard.there
        self._later()

    def leave(self) -> None:
        """The viewer has left that machine."""
        clipboard, self._clipboard = self._clipboard, None
        if clipboard is not None:
            self._drop(clipboard)
            clipboard.leave(self)
        self._account.hold("pasting", 0, VIEWERS)

    def tick(self, now_ns: HostNs) -> None:
        """About once a second: a machine that does not answer is waited for no longer."""
        if not self._waits or self._clipboard is None:
            return
        self._waits_since_ns = self._waits_since_ns or now_ns
        if now_ns - self._waits_since_ns >= FETCH_NS:
            self._clipboard.give_up(self)
            self.clip_refused("the machine does not provide its text; the program that has it may be stopped")

    # -- from the viewer -------------------------------------------------------------------------

    def handle(self, event: Copied | Paste | Clip) -> None:
        """What the viewer says of its clipboard or of the machine's; it is told what is wrong with it."""
        try:
            if isinstance(event, Copied):
                self._copied(event.number)
            elif isinstance(event, Paste):
                self._fetch(event.number)
            else:
                self._answer(event)
        except (ConfigError, GraphError, RightsError) as error:
            self._wire.send_message(Fault.of(error))
            self._sending.flush()

    def _copied(self, number: int) -> None:
        if self._clipboard is None or self._clipboard.closed:
            self._who.principal.demand(Right.CLIPBOARD, self._guest.name)
            if number:
                raise ConfigError("the clipboard of this machine can't be reached")
        elif number:
            self._offer(self._clipboard, number)
        else:
            self._clipboard.withdraw(self)

    # Some machines need the text at once. What was offered before stays if this is refused.
    def _offer(self, clipboard: Clipboard, number: int) -> None:
        before, self._offered = self._offered, number
        try:
            clipboard.offer(self)
        except RightsError:
            self._offered = before
            raise

    def _fetch(self, number: int) -> None:
        self._fetched = number
        self._look()
        if self._clipboard is not None:
            self._drop(self._clipboard)
        if self._clipboard is not None and number == self._number:
            self._waits, self._waits_since_ns = True, None
            self._clipboard.fetch(self)
        else:
            self._who.principal.demand(Right.CLIPBOARD, self._guest.name)
            self.clip_refused("the machine has copied something else meanwhile")

    def _answer(self, clip: Clip) -> None:
        self._account.hold("pasting", 0, VIEWERS)
        if self._clipboard is not None:
            self._clipboard.answer(self, clip.text)
        if clip.broken:
            raise ConfigError(clip.why)

    # -- from the machine ------------------------------------------------------------------------

    def clip_changed(self) -> None:
        """See `ClipboardViewer`."""
        self._later()

    def _look(self) -> None:
        """Count the texts that the machine has copied since the viewer was told."""
        if self._clipboard is not None:
            before, self._serial = self._serial, self._clipboard.look(self)
            self._number += self._serial - before

    @property
    def _there(self) -> bool:
        return self._clipboard is not None and self._clipboard.there

    def tell(self) -> None:
        """Tell the viewer what it can paste, if that has changed."""
        self._look()
        state = ClipboardState(self._clipboard is not None, self._number if self._there else 0)
        if state != self._told:
            self._told = state
            self._wire.send_message(state)
            self._sending.flush()

    # What arrives is charged as a whole before it is asked for.
    def clip_wanted(self) -> None:
        """See `ClipboardViewer`."""
        assert self._clipboard is not None
        if not self._account.fits("pasting", CLIP_BYTES_MAX, VIEWERS):
            self._clipboard.answer(self, None)
            return
        self._wire.send_paste(self._offered)
        self._sending.flush()

    def clip_supplied(self, text: ClipText) -> None:
        """See `ClipboardViewer`."""
        self._send(Clip(self._fetched, text))

    def clip_refused(self, why: str) -> None:
        """See `ClipboardViewer`."""
        self._send(Clip(self._fetched, None, why))

    def _send(self, clip: Clip) -> None:
        self._waits, self._messages = False, pack_clip(clip)
        self._guest.turns.wait(self)

    def _drop(self, clipboard: Clipboard) -> None:
        """Send nothing more of a text; a refusal is sent in any case."""
        if clipboard.sends(self):
            self._messages = None
            clipboard.sent(self)

    def go_on(self) -> None:
        """Its connection may have room again."""
        if self._messages is not None and self._sending.open:
            self._guest.turns.wait(self)

    def work(self) -> bool:
        """See `Worker`: send what is left, as far as there is room."""
        while self._messages is not None and self._sending.open:
            message = next(self._messages, None)
            if message is None:
                self._messages = None
                if self._clipboard is not None:
                    self._clipboard.sent(self)
                return True
            self._wire.send_packed(message)
            self._sending.flush()
            if self._guest.turns.over():
                return self._messages is None
        return True
