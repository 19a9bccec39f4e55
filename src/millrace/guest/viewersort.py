"""Sorts of viewers: those of one sort share an encoder, and one for which there is none shares the nearest."""

from __future__ import annotations

from typing import NamedTuple

from millrace.codec.picturesettings import PictureSettings
from millrace.outlets.picturechoice import Formats
from millrace.outlets.pictureflow import RATE_MAX

FILM_FPS = 30
"""Pictures a second that films have at most, as a rule."""
Distance = tuple[bool, bool, float, int, bool, float, bool, int]
"""Between two sorts, compared in this order."""


class Sort(NamedTuple):
    """Viewers of the same sort share an encoder."""

    screen: str
    settings: PictureSettings
    rate: int | None
    """Bit/s; None: no bound."""
    formats: Formats

    @property
    def as_sent(self) -> bool:
        """Whether its viewers ask for no less than a machine sends, and so can have the videos that it sends itself."""
        settings = self.settings
        return settings.scale == 1 and settings.fps >= FILM_FPS and not isinstance(settings.picture, int)

    def serves(self, wanted: Sort) -> bool:
        """Whether a viewer that wants the other sort can see pictures of this one at all."""
        return (self.screen, self.formats) == (wanted.screen, wanted.formats)

    def becomes(self, wanted: Sort) -> bool:
        """Whether an encoder of this sort can go on as one of the other: of the same picture, as often or as much."""
        mine, asked = self.settings, wanted.settings
        exact = mine.picture == "lossless", asked.picture == "lossless"
        return self.serves(wanted) and mine.scale == asked.scale and exact[0] == exact[1]

    # In this order: the same scale, or else a larger one, or the least smaller one; pictures as often as wanted, or
    # nearly; as much of each as the line takes; exact only if that is wanted; and no more often than wanted.
    def distance(self, wanted: Sort) -> Distance:
        """How far this is from what is wanted."""
        mine, asked = self.settings, wanted.settings
        return (
            mine.scale != asked.scale, mine.scale < asked.scale, abs(mine.scale - asked.scale),
            max(0, asked.fps - mine.fps), *self._distance_in_rate(wanted),
            (mine.picture == "lossless") != (asked.picture == "lossless"), max(0, mine.fps - asked.fps),
        )  # fmt: skip

    def _distance_in_rate(self, wanted: Sort) -> tuple[bool, float]:
        """Whether its rate exceeds what its viewer has chosen as the most, and how far it is from the wanted one."""
        rate, asked = self.rate or RATE_MAX, wanted.rate or RATE_MAX
        if rate <= asked:
            return False, asked / rate
        # More than the line takes costs pictures, as much less costs what is seen in each.
        return isinstance(wanted.settings.picture, int), 2 * rate / asked
