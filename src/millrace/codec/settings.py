"""Codec settings: what a listener may choose, as text and as a value."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from millrace.errors import ConfigError

CODECS = ("opus", "s16", "s24", "f32")
FRAME_US = (2500, 5000, 10000, 20000, 40000, 60000)
BANDWIDTHS = ("auto", "narrow", "medium", "wide", "superwide", "full")
APPLICATIONS = ("audio", "voip", "lowdelay")
CHANNEL_CHOICES = ("auto", "mono", "stereo")


@dataclass(frozen=True, slots=True)
class CodecSettings:
    """One listener's codec and its controls. Equal settings share one encoder.

    `frame_us` 0 lets the frame follow the graph: 20 ms, or 10 ms where somebody asked
    for low latency. `bitrate` is in bit/s, for all channels together; the rest is
    as libopus has it (opus_defines.h). PCM codecs ignore all but `frame_us` and `channels`.
    """

    codec: str = "opus"
    bitrate: int = 128_000
    vbr: bool = True
    complexity: int = 5
    frame_us: int = 0
    fec: bool = False
    loss: int = 0
    dtx: bool = False
    bandwidth: str = "auto"
    application: str = "audio"
    channels: str = "auto"

    def as_dict(self) -> dict[str, Any]:
        """The settings by name, for JSON."""
        return asdict(self)


def parse_bitrate(text: str) -> int:
    """'32k', '32000', '0.1M' to bit/s, 6,000 to 510,000 (RFC 6716, section 2.1.1)."""
    match = re.fullmatch(r"([0-9.]+)\s*([kKmM]?)(?:bit/s|b/s|bps)?", text.strip())
    if not match:
        raise ConfigError(f"bitrate: {text!r} is not a number such as 64k")
    value = round(float(match[1]) * {"": 1, "k": 1e3, "m": 1e6}[match[2].lower()])
    if not 6_000 <= value <= 510_000:
        raise ConfigError(f"bitrate: {text} is outside 6k to 510k")
    return value


def _parse_frame(text: str) -> int:
    if text == "auto":
        return 0
    match = re.fullmatch(r"([0-9.]+)\s*(ms)?", text.strip())
    value = round(float(match[1]) * 1000) if match else -1
    if value not in FRAME_US:
        raise ConfigError(f"frame: {text!r} is not one of auto, 2.5ms, 5ms, 10ms, 20ms, 40ms, 60ms")
    return value


def parse_switch(name: str, text: str) -> bool:
    """'on'/'off' and their usual spellings."""
    lowered = text.strip().lower()
    if lowered in ("on", "yes", "true", "1"):
        return True
    if lowered in ("off", "no", "false", "0"):
        return False
    raise ConfigError(f"{name}: {text!r} is neither on nor off")


def _parse_int(name: str, text: str, low: int, high: int) -> int:
    try:
        value = int(text.strip().rstrip("%"))
    except ValueError:
        raise ConfigError(f"{name}: {text!r} is not a whole number") from None
    if not low <= value <= high:
        raise ConfigError(f"{name}: {text} is outside {low} to {high}")
    return value


def _parse_choice(name: str, text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise ConfigError(f"{name}: {text!r} is not one of {', '.join(choices)}")
    return text


_PARSERS: dict[str, Callable[[str], Any]] = {
    "codec": lambda t: _parse_choice("codec", t, CODECS),
    "bitrate": parse_bitrate,
    "vbr": lambda t: parse_switch("vbr", t),
    "complexity": lambda t: _parse_int("complexity", t, 0, 10),
    "frame": _parse_frame,
    "fec": lambda t: parse_switch("fec", t),
    "loss": lambda t: _parse_int("loss", t, 0, 100),
    "dtx": lambda t: parse_switch("dtx", t),
    "bandwidth": lambda t: _parse_choice("bandwidth", t, BANDWIDTHS),
    "application": lambda t: _parse_choice("application", t, APPLICATIONS),
    "channels": lambda t: _parse_choice("channels", t, CHANNEL_CHOICES),
}
SETTING_NAMES = tuple(_PARSERS)


def changed(base: CodecSettings, changes: Mapping[str, str]) -> CodecSettings:
    """`base` with textual changes applied; ConfigError says what is wrong and what would do."""
    values: dict[str, Any] = {}
    for name, text in changes.items():
        parser = _PARSERS.get(name)
        if parser is None:
            raise ConfigError(f"{name}: no such setting; there are {', '.join(SETTING_NAMES)}")
        values["frame_us" if name == "frame" else name] = parser(text)
    return replace(base, **values)
