"""What one viewer needs of all viewers of its guest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from millrace.budget import Account
from millrace.graph.screens import Listed
from millrace.guest.home import Home
from millrace.guest.ratelimits import WholePictures
from millrace.outlets.picturetimes import StageTotals
from millrace.rights.model import Principal
from millrace.units import HostNs

Viewer = TypeVar("Viewer", contravariant=True)


class Company(Protocol[Viewer]):
    """All viewers of a guest, as one of them sees them: `Viewers` is this."""

    guest: Home
    clock: Callable[[], HostNs]
    totals: StageTotals
    """Where the time went, of all of them."""
    wholes: WholePictures

    @property
    def absence(self) -> str:
        """Why the guest has no screen, as its machines say; empty if it has none."""
        ...

    def open(self, principal: Principal, size: int, always: bool) -> Account:
        """An account for a new one of that principal; BudgetError if there is no room."""
        ...

    def arrive(self, session: Viewer) -> None:
        """It has connected; GraphError if there is no room."""
        ...

    def find(self, screen: str | None) -> Listed | None:
        """The screen that it asks for."""
        ...

    def join(self, session: Viewer) -> None:
        """It has said what it wants."""
        ...

    def leave(self, session: Viewer) -> None:
        """It has left."""
        ...

    def regroup(self, session: Viewer) -> bool:
        """What it wants may have changed. Returns whether it has the best that it can have already."""
        ...

    def ready(self, session: Viewer) -> None:
        """It may have room again."""
        ...

    def tell(self, session: Viewer) -> None:
        """Tell it the newest state of what it has not been told."""
        ...

    def tell_later(self) -> None:
        """Something has changed that is to be told."""
        ...

    def wake(self, session: Viewer) -> None:
        """Something waits for it."""
        ...

    def refresh(self, session: Viewer) -> None:
        """It needs a key picture."""
        ...

    def take_keyboard(self, session: Viewer) -> None:
        """It wants the keyboard."""
        ...

    def leave_keyboard(self, session: Viewer) -> None:
        """It gives the keyboard up."""
        ...
