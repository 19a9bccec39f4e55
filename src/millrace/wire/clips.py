"""What a machine says of its clipboard, and how it is given a text, whichever protocol it speaks.

No contents show in logs: see `ClipText`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

import msgspec

from millrace.absent import never
from millrace.media.clip import ClipText


class ClipOffered(msgspec.Struct, frozen=True):
    """A program of the machine has copied a text, or there is none any more.

    `text` is None if it must be asked for; `refused` says why it is not to be had.
    """

    there: bool
    text: ClipText | None = None
    refused: str = ""


class ClipWanted(msgspec.Struct, frozen=True):
    """The machine asks for the text that it was offered."""


class ClipSupplied(msgspec.Struct, frozen=True):
    """The text that the machine was asked for, or a sentence why it is not to be had."""

    text: ClipText = ClipText()
    refused: str = ""


class ClipGiven(msgspec.Struct, frozen=True):
    """The wire holds this text for the machine no longer: it is handed over, or nobody waits for it any more."""

    text: ClipText


ClipEvent: TypeAlias = ClipOffered | ClipWanted | ClipSupplied | ClipGiven


# A text of a megabyte is neither made into a message in one step, nor queued behind others for a machine that does not
# read: it waits here, as it is, and so does nothing but the newest one.
class ClipGiving:
    """The text that a machine is given next, or now: a step at a time, as its connection has room."""

    def __init__(self) -> None:
        self._full: Callable[[], bool] = never
        self._text: ClipText | None = None
        self._steps: Iterator[None] = iter(())

    @property
    def begun(self) -> bool:
        """Whether there is one that is not handed over."""
        return self._text is not None

    @property
    def due(self) -> bool:
        """Whether a step can be taken."""
        return self._text is not None and not self._full()

    def begin(self, text: ClipText, steps: Iterator[None]) -> None:
        """Hand over this text, by these steps, and nothing more of the one before."""
        self._text, self._steps = text, steps

    def step(self) -> list[ClipEvent]:
        """Take a step; returns the event that it was the last one, if it was."""
        return [] if next(self._steps, self) is not self else self.drop()

    def drop(self) -> list[ClipEvent]:
        """Hand over no more of it."""
        text, self._text, self._steps = self._text, None, iter(())
        return [] if text is None else [ClipGiven(text)]

    def open(self, full: Callable[[], bool]) -> None:
        """`full` says whether the machine leaves so much unread that it is to be sent nothing more."""
        self._full = full

    def close(self) -> None:
        """The connection is over. `full` refers to it, and it to this: a cycle (daemon/collector.py)."""
        self._full = never
        self.drop()


class ClipWire(Protocol):
    """The clipboard's part of a connection to a machine."""

    @property
    def clip_eager(self) -> bool:
        """Whether a text must be sent before the machine asks for it, because it can't ask."""
        ...

    def send_clip_offer(self, there: bool) -> None:
        """Say whether there is a text for the machine."""
        ...

    def send_clip_request(self) -> None:
        """Ask for the machine's text."""
        ...

    def send_clip_text(self, text: ClipText | None) -> None:
        """Hand over the text that was asked for, in place of any other; None: it is not to be had.

        It is held until `ClipGiven`, or until another text takes its place.
        """
        ...


class ClipSession(ClipWire, Protocol):
    """The same, of a machine that may share its clipboard only at times."""

    giving: ClipGiving
    """What it is given."""

    @property
    def clip_there(self) -> bool:
        """Whether it does now."""
        ...

    def events(self) -> list[ClipEvent]:
        """What it has said since the last call."""
        ...
