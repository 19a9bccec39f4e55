"""What a picture encoder is encoding, and for which of its viewers."""

from __future__ import annotations

from millrace.graph.screen import Picture
from millrace.outlets.picturestrain import Spent
from millrace.outlets.pictureviewer import Viewer
from millrace.outlets.picturework import Lacking, Task
from millrace.units import HostNs


class Job:
    """What is being encoded, and for whom."""

    def __init__(self, picture: Picture | None, begun_ns: HostNs, viewers: list[Viewer]) -> None:
        self.picture, self.begun_ns, self.viewers = picture, begun_ns, frozenset(viewers)
        self.catching: list[tuple[Lacking, list[Viewer]]] = []
        self.key = False
        """A viewer needs a key picture. Video that begins anew for another reason has one too."""
        self.first = False
        """It is the first of its mode: its damage is not a report of the source."""
        self.task = Task(begun_ns)
        self.spent: Spent | None = None
        """On what has been done of it, before it was known that there is to be video."""

    def lacks(self, viewer: Viewer, refine: bool) -> None:
        """Bring this viewer up to date with the same parts as others that lack the same."""
        lacking = viewer.lacking()
        if not lacking.missing and not (refine and lacking.rough):
            return
        for known, viewers in self.catching:
            if known == lacking:
                viewers.append(viewer)
                return
        self.catching.append((lacking, [viewer]))
