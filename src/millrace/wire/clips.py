"""What a machine says of its clipboard, whichever protocol it speaks. No contents show in logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class ClipOffered:
    """A program of the machine has copied a text, or there is none any more.

    `text` is None if it must be asked for; `refused` says why it is not to be had.
    """

    there: bool
    text: str | None = None
    refused: str = ""

    def __repr__(self) -> str:
        return f"ClipOffered({self.there}, refused={self.refused!r})"


@dataclass(frozen=True, slots=True)
class ClipWanted:
    """The machine asks for the text that it was offered."""


@dataclass(frozen=True, slots=True)
class ClipSupplied:
    """The text that the machine was asked for, or a sentence why it is not to be had."""

    text: str = ""
    refused: str = ""

    def __repr__(self) -> str:
        return f"ClipSupplied(refused={self.refused!r})"


ClipEvent: TypeAlias = ClipOffered | ClipWanted | ClipSupplied


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

    def send_clip_text(self, text: str | None) -> None:
        """Hand over the text that was asked for; None: it is not to be had."""
        ...


class ClipSession(ClipWire, Protocol):
    """The same, of a machine that may share its clipboard only at times."""

    @property
    def clip_there(self) -> bool:
        """Whether it does now."""
        ...

    def events(self) -> list[ClipEvent]:
        """What it has said since the last call."""
        ...
