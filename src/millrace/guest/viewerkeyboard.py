"""The keyboard and pointer of one viewer: what it types and points at, and what it is told of who has them."""

from __future__ import annotations

from millrace.budget import Account
from millrace.errors import BudgetError, ConfigError, MillraceError, RightsError
from millrace.graph.screen import Screen
from millrace.graph.seat import Watcher
from millrace.guest.hands import Hands
from millrace.guest.home import Home
from millrace.guest.viewerblame import ViewerBlame
from millrace.guest.viewersending import Sending
from millrace.pixels.rects import Size
from millrace.rights.model import Right
from millrace.units import HostNs
from millrace.wire.peer.messages import Fault
from millrace.wire.peer.pictures import Key, KeyboardHeld, Pointer, SizeWish, Text, ToViewer
from millrace.wire.peer.viewing import ViewServer


class ViewerKeyboard:
    """Who has it is decided in `guest.viewers` alone. It refers to no session: see daemon/collector.py."""

    def __init__(
        self, home: Home, who: Watcher, wire: ViewServer, sending: Sending, account: Account, blame: ViewerBlame
    ) -> None:
        self.hands = Hands(home.turns, account)
        self._home, self._who, self._wire, self._sending, self._blame = home, who, wire, sending, blame
        self._told: tuple[bool, str] | None = None
        """Whether it has the keyboard, and who has, as it was told."""
        self._refused = False
        """It was told that it has no keyboard."""

    @property
    def held(self) -> bool:
        """Whether it has the keyboard of its guest."""
        return self._home.screens.seat.who is self._who

    @property
    def allowed(self) -> bool:
        """Whether it may take the keyboard."""
        return self._who.principal.may(Right.TYPE, self._home.name)

    def control(
        self, event: Key | Pointer | SizeWish | Text, screen: Screen | None, size: Size, now_ns: HostNs
    ) -> None:
        """Pass on to its screen what it types and points at, if it has the keyboard. `size` is that of its pictures."""
        if screen is None or screen.ended:
            return
        try:
            self.hands.control(event, self._who, screen, size)
            self._blame.typed(event, screen, self.hands.waiting > 0, now_ns)
        except RightsError as error:
            # Once for a pointer that moves a hundred times a second.
            if not self._refused:
                self._refused = True
                self.refuse(error)
        except (ConfigError, BudgetError) as error:
            self.refuse(error)

    def refuse(self, error: MillraceError) -> None:
        """Tell it why not."""
        self._send(Fault.of(error))

    def release(self, screen: Screen | None) -> None:
        """Release what it holds down; called while it still has the keyboard."""
        if self.held and screen is not None and not screen.ended:
            self.hands.release(screen.controlled(self._who, "typing"))
        self.hands.forget()

    def tell(self, holder: str) -> None:
        """Tell it who has the keyboard, if that has changed and there is room."""
        told = self.held, holder
        if told != self._told and self._sending.open:
            self._told, self._refused = told, False
            self._send(KeyboardHeld(*told))

    def _send(self, message: ToViewer) -> None:
        self._wire.send_message(message)
        self._sending.flush()
