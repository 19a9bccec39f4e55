"""Settings of a viewer's picture, as text and as a value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from millrace.errors import ConfigError
from millrace.text import parse_decimal, parse_int, parse_size, quoted, show_size

PICTURE_MIN, PICTURE_MAX = 50_000, 1_000_000_000
"""Bit/s of a picture."""
FPS_MAX = 60
SCALE_MIN = 0.1
_WORDS = ("auto", "off", "lossless")


@dataclass(frozen=True, slots=True)
class PictureSettings:
    """What a viewer wants to see. Viewers with equal settings share one encoder.

    `picture` is "auto" (as much as its line carries), "off", "lossless", or bit/s; `fps` the most pictures a second;
    `scale` the size of the picture over that of the screen.
    """

    picture: str | int = "auto"
    fps: int = 30
    scale: float = 1.0

    def as_dict(self) -> dict[str, str | int | bool]:
        """The settings by name, as text, for messages and JSON."""
        picture = self.picture if isinstance(self.picture, str) else show_size(self.picture)
        return {"picture": picture, "fps": self.fps, "scale": f"{self.scale:g}"}


def _parse_picture(text: str) -> str | int:
    if text in _WORDS:
        return text
    try:
        return parse_size(text, "picture", PICTURE_MIN, PICTURE_MAX, ("bit/s", "b/s", "bps"))
    except ConfigError as error:
        raise ConfigError(f"{error}; or one of {', '.join(_WORDS)}") from None


_PARSERS: dict[str, Callable[[str], Any]] = {
    "picture": _parse_picture,
    "fps": lambda text: parse_int(text, "fps", 1, FPS_MAX),
    "scale": lambda text: parse_decimal(text, "scale", SCALE_MIN, 1),
}
PICTURE_SETTING_NAMES = tuple(_PARSERS)


def changed_picture(base: PictureSettings, changes: Mapping[str, str]) -> PictureSettings:
    """`base` with textual changes applied; a ConfigError says what is wrong and what is possible."""
    values: dict[str, Any] = {}
    for name, text in changes.items():
        if name not in _PARSERS:
            raise ConfigError(f"{quoted(name)} is not a setting of a viewer; there are {', '.join(_PARSERS)}")
        values[name] = _PARSERS[name](text)
    return replace(base, **values)
