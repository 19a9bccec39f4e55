"""Channel maps in PulseAudio's notation (`pa_channel_map_parse`, `pa_channel_map_init_extend`)."""

from __future__ import annotations

from millrace.units import MAX_CHANNELS, POSITIONS, Positions

_FL, _FR, _FC, _LFE = "front-left", "front-right", "front-center", "lfe"
_RL, _RR, _SL, _SR = "rear-left", "rear-right", "side-left", "side-right"
_QUAD = (_FL, _FR, _RL, _RR)
LAYOUTS: dict[str, Positions] = {
    "stereo": (_FL, _FR),
    "surround-21": (_FL, _FR, _LFE),
    "surround-40": _QUAD,
    "surround-41": (*_QUAD, _LFE),
    "surround-50": (*_QUAD, _FC),
    "surround-51": (*_QUAD, _FC, _LFE),
    "surround-71": (*_QUAD, _FC, _LFE, _SL, _SR),
}
"""Names of whole maps."""
ALIASES = {"left": _FL, "right": _FR, "center": _FC, "subwoofer": _LFE}
"""Aliases of positions."""
_AIFF: dict[int, Positions] = {
    1: ("mono",),
    2: (_FL, _FR),
    3: (_FL, _FR, _FC),
    4: (_FL, _FC, _FR, "rear-center"),
    5: (_FL, _FR, _FC, _RL, _RR),
    6: (_FL, "front-left-of-center", _FC, _FR, "front-right-of-center", "rear-center"),
}


def parse_map(text: str) -> Positions | None:
    """Parse a layout's name, or comma-separated positions; None if the text is neither."""
    if text in LAYOUTS:
        return LAYOUTS[text]
    # As in PulseAudio, one trailing comma is accepted, but blanks are not.
    names = [ALIASES.get(name, name) for name in text.removesuffix(",").split(",")]
    if len(names) > MAX_CHANNELS or not all(name in POSITIONS for name in names):
        return None
    return tuple(names)


def map_for(channels: int) -> Positions:
    """The default map of a module for this many channels: AIFF's, then auxiliary channels beyond it."""
    base = _AIFF[min(channels, max(_AIFF))]
    return (*base, *(f"aux{n}" for n in range(channels - len(base))))
