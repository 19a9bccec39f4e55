"""The clipboard of a VNC server in its guest."""

from __future__ import annotations

from collections.abc import Callable

from millrace.errors import BudgetError
from millrace.graph.clipboard import Clipboard
from millrace.graph.screens import Screens
from millrace.wire.vnc.client import VncClient
from millrace.wire.vnc.cuttext import CutEvent, CutOffered, CutWanted


# A server without the extension sends each text as it is copied, and must be sent one before it is pasted there. What
# it sends is kept, so that no viewer is sent what it did not ask for. Such servers (x11vnc) may also send back what
# they were given.
class VncClipboard:
    """A `ClipboardSource`, from when the server has let us in until the session ends."""

    def __init__(self, screens: Screens, wire: VncClient, door: str, wake: Callable[[], None]) -> None:
        self._screens, self._wire, self._wake = screens, wire, wake
        self._kept: str | None = None
        self._refused = self._given = ""
        self._clipboard: Clipboard = screens.open_clipboard(self, door)

    def receive(self, event: CutEvent) -> None:
        """What the server says of its clipboard."""
        if isinstance(event, CutOffered):
            self._offered(event)
        elif isinstance(event, CutWanted):
            self._clipboard.ask(self._give)
        elif event.refused:
            self._clipboard.refuse(event.refused)
        else:
            self._clipboard.supply(event.text)

    def _offered(self, event: CutOffered) -> None:
        if event.text is not None and event.text == self._given:
            return
        self._keep(event.text)
        self._refused, self._given = self._refused or event.refused, ""
        if event.there:
            self._clipboard.copied()
        else:
            self._clipboard.emptied()

    def _keep(self, text: str | None) -> None:
        self._kept, self._refused = text, ""
        try:
            self._clipboard.keep(0 if text is None else len(text.encode()))
        except BudgetError as error:
            self._kept, self._refused = None, str(error)
            self._clipboard.keep(0)

    def _give(self, text: str | None) -> None:
        if text is not None:
            self._given = text
            self._wire.send_cut_text(text)
            self._wake()

    # -- as a source -----------------------------------------------------------------------------

    def clip_offered(self) -> None:
        """See `ClipboardSource`."""
        self._keep(None)
        if self._wire.cut.extended:
            self._wire.send_cut_offer(True)
            self._wake()
        else:
            self._clipboard.ask(self._give)

    def clip_withdrawn(self) -> None:
        """See `ClipboardSource`."""
        self._wire.send_cut_offer(False)
        self._wake()

    def clip_wanted(self) -> None:
        """See `ClipboardSource`."""
        if self._refused:
            self._clipboard.refuse(self._refused)
        elif self._kept is not None:
            self._clipboard.supply(self._kept)
        else:
            self._wire.send_cut_request()
            self._wake()

    def close(self) -> None:
        """The session has ended."""
        self._screens.close_clipboard(self._clipboard)
