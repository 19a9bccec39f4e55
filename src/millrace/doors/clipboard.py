"""The clipboard of a machine in its guest, for every door whose wire can speak of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from millrace.absent import never
from millrace.doors.machine import PlayingDoor
from millrace.doors.pushed import PushedStream
from millrace.errors import BudgetError
from millrace.graph.clipboard import Clipboard
from millrace.graph.screens import Screens
from millrace.media.clip import ClipText
from millrace.units import HostNs
from millrace.wire.clips import ClipEvent, ClipGiven, ClipOffered, ClipSession, ClipWanted, ClipWire


# Some machines send each text as it is copied, and must be sent one before it is pasted there. What such a machine
# sends is kept, so that no viewer is sent what it did not ask for.
class MachineClipboard:
    """A `ClipboardSource`. It exists as long as the machine's clipboard can be reached."""

    def __init__(self, screens: Screens, wire: ClipWire, door: str, wake: Callable[[], None]) -> None:
        """`wake` is called when the wire has something to send."""
        self._screens, self._wire, self._wake = screens, wire, wake
        self._refused = ""
        self._clipboard: Clipboard = screens.open_clipboard(self, door)

    def receive(self, event: ClipEvent) -> None:
        """What the machine says of its clipboard."""
        if isinstance(event, ClipOffered):
            self._offered(event)
        elif isinstance(event, ClipWanted):
            self._clipboard.ask(self._give)
        elif isinstance(event, ClipGiven):
            self._clipboard.given(event.text)
        elif event.refused:
            self._clipboard.refuse(event.refused)
        else:
            self._clipboard.supply(event.text)

    def _offered(self, event: ClipOffered) -> None:
        self._refused = event.refused
        try:
            self._clipboard.keep(event.text)
        except BudgetError as error:
            self._refused = str(error)
        if event.there:
            self._clipboard.copied()
        else:
            self._clipboard.emptied()

    def _give(self, text: ClipText | None) -> None:
        self._wire.send_clip_text(text)
        self._wake()

    # -- as a source -----------------------------------------------------------------------------

    def clip_offered(self) -> None:
        """See `ClipboardSource`."""
        self._clipboard.keep(None)
        self._refused = ""
        if self._wire.clip_eager:
            self._clipboard.ask(self._give)
        else:
            self._wire.send_clip_offer(True)
            self._wake()

    def clip_withdrawn(self) -> None:
        """See `ClipboardSource`."""
        self._wire.send_clip_offer(False)
        self._wake()

    def clip_wanted(self) -> None:
        """See `ClipboardSource`."""
        if self._refused:
            self._clipboard.refuse(self._refused)
        elif self._clipboard.kept is not None:
            self._clipboard.supply(self._clipboard.kept)
        else:
            self._wire.send_clip_request()
            self._wake()

    def close(self) -> None:
        """It can't be reached any more. Called once."""
        self._screens.close_clipboard(self._clipboard)
        # It has this as its source: a cycle, which only a full collection would free (daemon/collector.py).
        del self._clipboard


class ClipboardDoor(PlayingDoor):
    """A door without sound, for a machine whose clipboard may come and go while it is attached."""

    streams: Sequence[PushedStream] = ()

    def __init__(
        self, screens: Screens, wire: ClipSession, door: str, wake: Callable[[], None],
        full: Callable[[], bool] = never,
    ) -> None:  # fmt: skip
        """`full` says whether the machine leaves unread what it was sent."""
        wire.giving.open(full)
        self._screens, self._wire, self._door, self._wake = screens, wire, door, wake
        self._clipboard: MachineClipboard | None = None

    def receive(self, now_ns: HostNs) -> None:
        """See `MachineDoor`."""
        if not self._wire.clip_there:
            self._close_clipboard()
        elif self._clipboard is None:
            self._clipboard = MachineClipboard(self._screens, self._wire, self._door, self._wake)
        for event in self._wire.events():
            if self._clipboard is not None:
                self._clipboard.receive(event)

    def close(self) -> None:
        """See `MachineDoor`."""
        self._close_clipboard()
        self._wire.giving.close()

    def _close_clipboard(self) -> None:
        clipboard, self._clipboard = self._clipboard, None
        if clipboard is not None:
            clipboard.close()
