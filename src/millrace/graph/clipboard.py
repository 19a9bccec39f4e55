"""The clipboard of a machine, between its door and the viewers of its screens. Text only, fetched when it is pasted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from millrace.budget import CONNECTIONS, Account
from millrace.graph.seat import Seat, Watcher
from millrace.media.clip import CLIP_BYTES_MAX
from millrace.rights.model import Right

ASKS_MAX = 16
"""Programs of a machine that may wait for a viewer's text at the same time."""

Answer = Callable[[str | None], None]
"""Is called once: with the text, or with None if there is none to be had."""


class ClipboardSource(Protocol):
    """A machine's clipboard, as its door sees it. What is asked of it here it answers by the verbs of `Clipboard`."""

    def clip_offered(self) -> None:
        """A viewer has text for the machine: whoever pastes there is to be given what `Clipboard.ask` brings."""
        ...

    def clip_withdrawn(self) -> None:
        """The viewer's text is no longer to be had."""
        ...

    def clip_wanted(self) -> None:
        """A viewer pastes the machine's text: `Clipboard.supply` it, or `refuse`."""
        ...


class ClipboardViewer(Protocol):
    """A viewer's side of the clipboard."""

    @property
    def who(self) -> Watcher:
        """Whose it is."""
        ...

    def clip_changed(self) -> None:
        """The machine has another text, or none."""
        ...

    def clip_wanted(self) -> None:
        """The machine pastes what this viewer offered: `Clipboard.answer`."""
        ...

    def clip_supplied(self, text: str) -> None:
        """The text that it has fetched."""
        ...

    def clip_refused(self, why: str) -> None:
        """What it has fetched is not to be had."""
        ...


# The rules:
#
# - Viewers without the right to the clipboard do not join, so they are not told even that something was copied.
# - Contents move only when somebody pastes. Then they pass through, and are not kept here.
# - A text is the machine's or one viewer's. What a viewer offers is told to no other viewer; it is the machine's to
#   paste. Whoever offers has the keyboard: otherwise it could change what somebody else is about to paste.
# - A door does not report what a viewer's own text led to (`copied`), or both sides would copy it for ever.
class Clipboard:
    """One machine's clipboard. `account` is charged for what its door has to keep."""

    def __init__(self, guest: str, source: ClipboardSource, seat: Seat, account: Account) -> None:
        self._guest, self._source, self._seat, self._account = guest, source, seat, account
        self.serial = 0
        """Counts the machine's texts."""
        self.there = False
        """Whether the machine has one."""
        self.closed = False
        self._viewers: list[ClipboardViewer] = []
        self._holder: ClipboardViewer | None = None
        self._asks: list[Answer] = []
        self._fetching: list[ClipboardViewer] = []

    # -- the machine's side ----------------------------------------------------------------------

    def copied(self) -> None:
        """A program of the machine has copied a text."""
        self._end_offer()
        self.serial += 1
        self._changed(True)

    def emptied(self) -> None:
        """The machine has no text any more."""
        if self.there:
            self._changed(False)

    def _changed(self, there: bool) -> None:
        self.there = there
        self.refuse("the machine has copied something else meanwhile")
        for viewer in list(self._viewers):
            viewer.clip_changed()

    def supply(self, text: str) -> None:
        """The machine's text, which viewers have fetched."""
        fetching, self._fetching = self._fetching, []
        for viewer in fetching:
            viewer.clip_supplied(text)

    def refuse(self, why: str) -> None:
        """The machine's text is not to be had: a sentence."""
        fetching, self._fetching = self._fetching, []
        for viewer in fetching:
            viewer.clip_refused(why)

    def ask(self, answer: Answer) -> None:
        """The machine pastes what a viewer has offered."""
        if self._holder is None or len(self._asks) >= ASKS_MAX:
            answer(None)
            return
        self._asks.append(answer)
        if len(self._asks) == 1:
            self._holder.clip_wanted()

    def keep(self, size: int) -> None:
        """Its door keeps so many bytes, because the machine sends what nobody has fetched; BudgetError without room."""
        assert size <= CLIP_BYTES_MAX
        self._account.hold("text", size, CONNECTIONS)

    def close(self) -> None:
        """The machine is gone."""
        self.closed = True
        self._end_offer()
        self.refuse("the machine is gone")
        self._account.close()

    # -- the viewers' side -----------------------------------------------------------------------

    def join(self, viewer: ClipboardViewer) -> None:
        """Tell a viewer of the machine's texts from now on; RightsError unless it may know."""
        viewer.who.principal.demand(Right.CLIPBOARD, self._guest)
        self._viewers.append(viewer)

    def leave(self, viewer: ClipboardViewer) -> None:
        """A viewer is gone, and with it what it offered."""
        if viewer in self._viewers:
            self.withdraw(viewer)
            self._viewers.remove(viewer)
        self.give_up(viewer)

    def offer(self, viewer: ClipboardViewer) -> None:
        """A viewer has copied a text; RightsError unless it may paste it into the machine."""
        viewer.who.principal.demand(Right.CLIPBOARD, self._guest)
        self._seat.demand(viewer.who, "pasting")
        self._end_offer()
        self._holder = viewer
        self._source.clip_offered()
        if self.there:
            self._changed(False)

    def withdraw(self, viewer: ClipboardViewer) -> None:
        """A viewer has no text any more."""
        if self._holder is viewer:
            self._end_offer()
            if not self.closed:
                self._source.clip_withdrawn()

    def answer(self, viewer: ClipboardViewer, text: str | None) -> None:
        """What a viewer has offered, or None if it does not give it."""
        if self._holder is viewer:
            self._answer(text)

    def fetch(self, viewer: ClipboardViewer) -> None:
        """A viewer pastes the machine's text; RightsError unless it may have it."""
        viewer.who.principal.demand(Right.CLIPBOARD, self._guest)
        if not self.there or self.closed:
            viewer.clip_refused("there is no text on the machine's clipboard")
        elif viewer not in self._fetching:
            self._fetching.append(viewer)
            if len(self._fetching) == 1:
                self._source.clip_wanted()

    def give_up(self, viewer: ClipboardViewer) -> None:
        """A viewer waits no longer for what it has fetched."""
        if viewer in self._fetching:
            self._fetching.remove(viewer)

    def _end_offer(self) -> None:
        self._holder = None
        self._answer(None)

    def _answer(self, text: str | None) -> None:
        asks, self._asks = self._asks, []
        for answer in asks:
            answer(text)
