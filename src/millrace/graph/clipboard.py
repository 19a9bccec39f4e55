"""The clipboard of a machine, between its door and the viewers of its screens. Text only, fetched when it is pasted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from millrace.budget import UNREAD, Account
from millrace.errors import BudgetError
from millrace.graph.seat import Seat, Watcher
from millrace.media.clip import ClipText
from millrace.rights.model import Right

Answer = Callable[[ClipText | None], None]
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
        """The machine has another text, or none. It is not told again before it has called `Clipboard.look`."""
        ...

    def clip_wanted(self) -> None:
        """The machine pastes what this viewer offered: `Clipboard.answer`."""
        ...

    def clip_supplied(self, text: ClipText) -> None:
        """The text that it has fetched. It calls `Clipboard.sent` once it has no more of it to send."""
        ...

    def clip_refused(self, why: str) -> None:
        """What it has fetched is not to be had."""
        ...


# The rules:
#
# - Viewers without the right to the clipboard do not join, so they are not told even that something was copied.
# - Contents move only when somebody pastes. Then they pass through; what is kept here is only what the machine has sent
#   unasked.
# - A text is charged before it is held, and once, however many hold it: until the machine has been given it, and each
#   viewer that has fetched it was sent it. Viewers are sent it in turns (guest/clips.py), as they may be many.
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
        self._looked: dict[ClipboardViewer, None] = {}
        """The viewers that know the newest state. A machine may copy thousands of texts before they are told."""
        self._holder: ClipboardViewer | None = None
        self._asked: Answer | None = None
        self._fetching: list[ClipboardViewer] = []
        self.kept: ClipText | None = None
        """What the machine has sent unasked: nobody has fetched it."""
        self._giving: ClipText | None = None
        """What the machine is being given."""
        self._sending: dict[ClipboardViewer, ClipText] = {}
        """What each viewer is being sent."""

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
        looked, self._looked = self._looked, {}
        for viewer in looked:
            viewer.clip_changed()

    def supply(self, text: ClipText) -> None:
        """The machine's text, which viewers have fetched."""
        before = self._sending
        self._sending = before | dict.fromkeys(self._fetching, text)
        try:
            self._charge()
        except BudgetError as error:
            self._sending = before
            self.refuse(str(error))
            return
        fetching, self._fetching = self._fetching, []
        for viewer in fetching:
            viewer.clip_supplied(text)

    def refuse(self, why: str) -> None:
        """The machine's text is not to be had: a sentence."""
        fetching, self._fetching = self._fetching, []
        for viewer in fetching:
            viewer.clip_refused(why)

    def ask(self, answer: Answer) -> None:
        """The machine pastes what a viewer has offered. It asks for it once, and not again before it is answered."""
        if self._holder is None or self._asked is not None:
            answer(None)
            return
        self._asked = answer
        self._holder.clip_wanted()

    def given(self, text: ClipText) -> None:
        """The machine has been given this text, or is not given it any more."""
        if self._giving is text:
            self._giving = None
            self._charge()

    def keep(self, text: ClipText | None) -> None:
        """Keep what the machine has sent unasked; BudgetError without room, and nothing is kept then."""
        self.kept = text
        try:
            self._charge()
        except BudgetError:
            self.keep(None)
            raise

    def _charge(self) -> None:
        """Charge what is held; BudgetError if that is more than before, and there is no room."""
        held = {id(text): text for text in (self.kept, self._giving, *self._sending.values()) if text is not None}
        self._account.hold("texts", sum(text.held_bytes for text in held.values()), UNREAD)
        if self.closed and not self._sending:
            self._account.close()

    def close(self) -> None:
        """The machine is gone. What viewers are still being sent stays charged until they have left it."""
        self.closed = True
        self._end_offer()
        self.refuse("the machine is gone")
        self.kept = self._giving = None
        self._charge()

    # -- the viewers' side -----------------------------------------------------------------------

    def join(self, viewer: ClipboardViewer) -> None:
        """Tell a viewer of the machine's texts from now on; RightsError unless it may know."""
        viewer.who.principal.demand(Right.CLIPBOARD, self._guest)
        self._looked[viewer] = None

    def look(self, viewer: ClipboardViewer) -> int:
        """The serial of the machine's text; a viewer that has joined looks at it, and at whether it is there."""
        self._looked[viewer] = None
        return self.serial

    def leave(self, viewer: ClipboardViewer) -> None:
        """A viewer is gone, and with it what it offered."""
        self.withdraw(viewer)
        self._looked.pop(viewer, None)
        self.give_up(viewer)
        self.sent(viewer)

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

    def answer(self, viewer: ClipboardViewer, text: ClipText | None) -> None:
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

    def sends(self, viewer: ClipboardViewer) -> bool:
        """Whether a viewer is being sent a text of this machine."""
        return viewer in self._sending

    def sent(self, viewer: ClipboardViewer) -> None:
        """A viewer holds nothing any more of what it was supplied with."""
        if self._sending.pop(viewer, None) is not None:
            self._charge()

    def _end_offer(self) -> None:
        self._holder = None
        self._answer(None)

    # The machine holds one text at a time: a newer one takes the place of what it was not given yet.
    def _answer(self, text: ClipText | None) -> None:
        answer, self._asked = self._asked, None
        if answer is None:
            return
        before = self._giving
        try:
            self._giving = before if text is None else text
            self._charge()
        except BudgetError:
            self._giving, text = before, None
        answer(text)
