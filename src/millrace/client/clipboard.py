"""A viewer's own clipboard and that of the machine it sees, kept the same while the user works there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from millrace.absent import nothing
from millrace.errors import ConfigError
from millrace.media.clip import check_size, clip_text
from millrace.text import printable
from millrace.wire.peer.clips import Clip, ClipboardState, Copied, Paste
from millrace.wire.peer.viewing import ViewClient

ClipboardEvent: TypeAlias = ClipboardState | Paste | Clip


# What the user copied here is offered only while the window has both the focus and the keyboard: from then on any
# program of the machine may read it. What was put here for the machine is not offered to it again, nor the other way.
class SharedClipboard:
    """`read` and `write` are of the clipboard here; `note` is told a sentence if a text can't be passed on."""

    def __init__(self, read: Callable[[], str], write: Callable[[str], None], note: Callable[[str], None]) -> None:
        self._read, self._write, self._note = read, write, note
        self._focused = self._mine = False
        self._last = ""
        """The text that both have, as far as is known."""
        self._wire: ViewClient | None = None
        self._flush: Callable[[], None] = nothing
        self.end()

    def begin(self, wire: ViewClient, flush: Callable[[], None]) -> None:
        """A connection begins."""
        self.end()
        self._wire, self._flush = wire, flush

    def end(self) -> None:
        """It has ended: forget what belongs to it."""
        self._wire, self._flush = None, nothing
        self._state = ClipboardState(there=False)
        self._wants: str | None = None
        """The text that was here when the machine got one that was not fetched yet."""
        self._fetches = 0
        """The number of the machine's text that is on its way, and not out of date."""
        self._number, self._text = 0, ""

    def take(self, event: ClipboardEvent) -> None:
        """What the daemon says of the clipboard."""
        if isinstance(event, ClipboardState):
            before, self._state = self._state, event
            if event.number != before.number:
                self._wants = self._read() if event.number > 0 else None
            self._meet(offer=event.there and not before.there)
        elif isinstance(event, Paste):
            self._give(event.number)
        elif event.text is None:
            self._note(printable(event.why))
        else:
            self._put(event.number, event.text.whole())

    # -- the user --------------------------------------------------------------------------------

    def focus(self, focused: bool) -> None:
        """The window has the focus, or has lost it."""
        self._focused = focused
        self._meet(offer=True)

    def keyboard(self, mine: bool) -> None:
        """The viewer has the keyboard, or has lost it."""
        self._mine = mine
        self._meet(offer=True)

    def copied(self) -> None:
        """Something was copied here."""
        self._meet(offer=True)

    def _meet(self, offer: bool) -> None:
        wire = self._wire
        if wire is None or not (self._focused and self._mine and self._state.there):
            return
        wants, self._wants = self._wants, None
        if wants is not None and wants == self._read():
            self._fetches = self._state.number
            wire.send_paste(self._fetches)
        elif offer or wants is not None:
            self._offer(wire)
        self._flush()

    def _offer(self, wire: ViewClient) -> None:
        text = self._read()
        if not text or text == self._last:
            return
        self._last, self._fetches = text, 0
        try:
            check_size(len(text.encode()))
        except ConfigError as error:
            self._note(str(error))
            return
        self._number, self._text = self._number + 1, text
        wire.send_message(Copied(self._number))

    def _give(self, number: int) -> None:
        if self._wire is None:
            return
        had = number == self._number
        self._wire.send_clip(
            Clip(number, clip_text(self._text.encode())) if had else Clip(number, None, "it was replaced")
        )
        self._flush()

    def _put(self, number: int, text: str) -> None:
        if number == self._state.number == self._fetches:
            self._last = text
            self._write(text)
