"""The clipboard of a machine in its guest, for every door whose wire can speak of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from millrace.doors.machine import PlayingDoor
from millrace.doors.pushed import PushedStream
from millrace.errors import BudgetError
from millrace.graph.clipboard import Clipboard
from millrace.graph.screens import Screens
from millrace.units import HostNs
from millrace.wire.clips import ClipEvent, ClipOffered, ClipSession, ClipWanted, ClipWire


# Some machines send each text as it is copied, and must be sent one before it is pasted there. What such a machine
# sends is kept, so that no viewer is sent what it did not ask for. Some of them (x11vnc) send back what they were
# given.
class MachineClipboard:
    """A `ClipboardSource`. It exists as long as the machine's clipboard can be reached."""

    def __init__(self, screens: Screens, wire: ClipWire, door: str, wake: Callable[[], None]) -> None:
        """`wake` is called when the wire has something to send."""
        self._screens, self._wire, self._wake = screens, wire, wake
        self._kept: str | None = None
        self._refused = self._given = ""
        self._clipboard: Clipboard = screens.open_clipboard(self, door)

    def receive(self, event: ClipEvent) -> None:
        """What the machine says of its clipboard."""
        if isinstance(event, ClipOffered):
            self._offered(event)
        elif isinstance(event, ClipWanted):
            self._clipboard.ask(self._give)
        elif event.refused:
            self._clipboard.refuse(event.refused)
        else:
            self._clipboard.supply(event.text)

    def _offered(self, event: ClipOffered) -> None:
        if event.text is not None and event.text in (self._given, _in_latin_1(self._given)):
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
        if text is not None and self._wire.clip_eager:
            self._given = text
        self._wire.send_clip_text(text)
        self._wake()

    # -- as a source -----------------------------------------------------------------------------

    def clip_offered(self) -> None:
        """See `ClipboardSource`."""
        self._keep(None)
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
        elif self._kept is not None:
            self._clipboard.supply(self._kept)
        else:
            self._wire.send_clip_request()
            self._wake()

    def close(self) -> None:
        """It can't be reached any more. Called once."""
        self._screens.close_clipboard(self._clipboard)
        # It has this as its source: a cycle, which only a full collection would free (daemon/collector.py).
        del self._clipboard


def _in_latin_1(text: str) -> str:
    """What is left of it at a machine that has only these characters."""
    return text.encode("latin-1", "replace").decode("latin-1")


class ClipboardDoor(PlayingDoor):
    """A door without sound, for a machine whose clipboard may come and go while it is attached."""

    streams: Sequence[PushedStream] = ()

    def __init__(self, screens: Screens, wire: ClipSession, door: str, wake: Callable[[], None]) -> None:
        self._screens, self._wire, self._door, self._wake = screens, wire, door, wake
        self._clipboard: MachineClipboard | None = None

    def receive(self, now_ns: HostNs) -> None:
        """See `MachineDoor`."""
        if not self._wire.clip_there:
            self.close()
        elif self._clipboard is None:
            self._clipboard = MachineClipboard(self._screens, self._wire, self._door, self._wake)
        for event in self._wire.events():
            if self._clipboard is not None:
                self._clipboard.receive(event)

    def close(self) -> None:
        """See `MachineDoor`."""
        clipboard, self._clipboard = self._clipboard, None
        if clipboard is not None:
            clipboard.close()
