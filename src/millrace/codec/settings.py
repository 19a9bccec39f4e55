"""Codec settings that a listener may choose, as text and as a value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from millrace.errors import ConfigError
from millrace.text import (
    parse_choice,
    parse_duration_ns,
    parse_int,
    parse_size,
    parse_switch,
    quoted,
    show_size,
)
from millrace.units import NS_PER_MS, NS_PER_US

CODECS = ("opus", "s16", "s24", "f32")
# The frame durations of Opus, which PCM packets use too.
FRAME_US = (2500, 5000, 10000, 20000, 40000, 60000)
BANDWIDTHS = ("auto", "narrow", "medium", "wide", "superwide", "full")
APPLICATIONS = ("audio", "voip", "lowdelay")
CHANNEL_CHOICES = ("auto", "mono", "stereo")


@dataclass(frozen=True, slots=True)
class CodecSettings:
    """One listener's codec and its controls. Equal settings share one encoder.

    With `frame_us` 0 the frame follows the graph: 20 ms, or 10 ms if somebody asks for low latency. `bitrate` is in
    bit/s, for all channels together; the rest is as in libopus (opus_defines.h). PCM codecs ignore all but `frame_us`
    and `channels`.
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


def distance(one: CodecSettings, other: CodecSettings) -> tuple[bool, bool, bool, int]:
    """How unlike their sound is: the least first."""
    channels, application = one.channels != other.channels, one.application != other.application
    return one.codec != other.codec, channels, application, abs(one.bitrate - other.bitrate)


def parse_bitrate(text: str) -> int:
    """'32k', '32000', '0.1M' to bit/s, 6,000 to 510,000 (RFC 6716, section 2.1.1)."""
    return parse_size(text, "bitrate", 6_000, 510_000, ("bit/s", "b/s", "bps"))


FRAME_GIVEN_MAX_NS = 1_000 * NS_PER_MS
"""Up to this, the frames that there are are named; they say more than bounds."""


def _parse_frame(text: str) -> int:
    if text == "auto":
        return 0
    ns = parse_duration_ns(text, "frame", 0, FRAME_GIVEN_MAX_NS, "ms")
    if ns % NS_PER_US or ns // NS_PER_US not in FRAME_US:
        raise ConfigError(f"frame: {quoted(text)} is not one of auto, 2.5ms, 5ms, 10ms, 20ms, 40ms, 60ms")
    return ns // NS_PER_US


_PARSERS: dict[str, Callable[[str], Any]] = {
    "codec": lambda t: parse_choice(t, "codec", CODECS),
    "bitrate": parse_bitrate,
    "vbr": lambda t: parse_switch(t, "vbr"),
    "complexity": lambda t: parse_int(t, "complexity", 0, 10),
    "frame": _parse_frame,
    "fec": lambda t: parse_switch(t, "fec"),
    "loss": lambda t: parse_int(t.strip().removesuffix("%"), "loss", 0, 100),
    "dtx": lambda t: parse_switch(t, "dtx"),
    "bandwidth": lambda t: parse_choice(t, "bandwidth", BANDWIDTHS),
    "application": lambda t: parse_choice(t, "application", APPLICATIONS),
    "channels": lambda t: parse_choice(t, "channels", CHANNEL_CHOICES),
}
SETTING_NAMES = tuple(_PARSERS)
OPUS_ONLY = frozenset({"bitrate", "vbr", "complexity", "fec", "loss", "dtx", "bandwidth", "application"})
"""Settings without meaning for PCM."""


def changed(base: CodecSettings, changes: Mapping[str, str]) -> CodecSettings:
    """`base` with textual changes applied; a ConfigError says what is wrong and what is possible."""
    values: dict[str, Any] = {}
    for name, text in changes.items():
        parser = _PARSERS.get(name)
        if parser is None:
            raise ConfigError(
                f"{quoted(name)}: no such setting; there are {', '.join(SETTING_NAMES)}"
                " (and latency and mic, of a listener that plays already)"
            )
        values["frame_us" if name == "frame" else name] = parser(text)
    return replace(base, **values)


def show_settings(settings: Mapping[str, object]) -> str:
    """Settings in the syntax of `changed`: 'codec=opus, bitrate=64k, frame=10ms'. PCM omits those of Opus.

    They may come from the peer: unknown ones are shown as they are.
    """
    pcm = settings.get("codec") in CODECS[1:]
    shown = [_show_setting(name, value) for name, value in settings.items() if not (pcm and name in OPUS_ONLY)]
    return ", ".join(shown)


def _show_setting(name: str, value: object) -> str:
    if isinstance(value, bool):
        return f"{name}={'on' if value else 'off'}"
    if name == "frame_us" and isinstance(value, int):
        return f"frame={value / 1000:g}ms" if value else "frame=auto"
    if name == "bitrate" and isinstance(value, int):
        return f"bitrate={show_size(value)}"
    return f"{name}={value}"
