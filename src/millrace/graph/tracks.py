"""The tracks of one guest: what its doors pass on without mixing or painting it."""

from __future__ import annotations

from collections.abc import Iterator

from millrace.budget import Budget
from millrace.errors import GraphError
from millrace.graph.model import Ids
from millrace.graph.packets import Track
from millrace.graph.seat import Seat
from millrace.media.packet import Cache, Kind, TrackInfo

TRACKS_MAX = 64


class Tracks:
    """All tracks of one guest that have not ended."""

    def __init__(self, guest: str, ids: Ids, seat: Seat, budget: Budget) -> None:
        self._guest, self._ids, self._seat, self._budget = guest, ids, seat, budget
        self._tracks: dict[str, Track] = {}

    def __iter__(self) -> Iterator[Track]:
        """In order of appearance. The list may change meanwhile."""
        self._clear()
        return iter(list(self._tracks.values()))

    def find(self, key: str) -> Track | None:
        """A track by its key, track/N."""
        track = self._tracks.get(key)
        return None if track is None or track.ended else track

    def add(self, kind: Kind, role: str = "main") -> Track:
        """A new track; GraphError, and no track, if there is no room. It is forgotten once it has ended."""
        self._clear()
        if len(self._tracks) >= TRACKS_MAX:
            raise GraphError(f"guest {self._guest} has {TRACKS_MAX} tracks, the maximum")
        info = TrackInfo(f"track/{self._ids.take()}", kind, role, cache=Cache.GROUP)
        track = self._tracks[info.key] = Track(info, self._seat, self._budget)
        return track

    def _clear(self) -> None:
        self._tracks = {key: track for key, track in self._tracks.items() if not track.ended}
