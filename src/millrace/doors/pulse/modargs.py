"""Parser for module arguments, in PulseAudio's own grammar (`pa_modargs`, `pa_proplist_from_string`).

Arguments are `key=value`, separated by blanks. A value is bare, or quoted as '…' or "…"; a backslash escapes the next
character. In a bare value quotes have no meaning: `device.description=O'Brien`. A property list has the same form, and
is itself the value of an argument: `sink_properties='device.description="My sink" a.b=c'`. It is read as written, with
its backslashes, which only count in its own quoted values. A bare value of the form hex:6162 stands for bytes.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from millrace.doors.pulse.channelmaps import map_for, parse_map
from millrace.doors.pulse.formats import STREAM_RATE_MAX, STREAM_RATE_MIN, CommandError, prop_text, sample_format
from millrace.errors import ConfigError
from millrace.media.format import AudioFormat
from millrace.text import DIGITS_MAX, checked_int, parse_decimal, quoted
from millrace.units import MAX_CHANNELS, Positions
from millrace.wire.pulse.constants import Err
from millrace.wire.pulse.tagstruct import PROPS_MAX, Props

ARGUMENT_MAX = 16 * 1024
_BLANK = re.compile(r"\s*", re.ASCII)
_KEY = re.compile(r"([^=\s]+)=", re.ASCII)
_KEY_IN_LIST = re.compile(r"([^=\s]+)\s*=\s*", re.ASCII)
_QUOTED = {
    "'": re.compile(r"'((?:[^'\\]|\\.)*)'", re.DOTALL),
    '"': re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL),
}
# A bare value ends at the first blank that no backslash escapes. The possessive `*+` gives nothing back, so that a
# backslash at the very end is an error, as in PulseAudio, and not taken for the end of a shorter value.
_BARE = re.compile(r"((?:[^\s\\]|\\.)*+)(?!\\)", re.DOTALL | re.ASCII)
_BARE_IN_LIST = re.compile(r"(\S*)", re.ASCII)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_HEX = re.compile(r"hex:((?:[0-9A-Fa-f]{2})*)")
# As pa_atou takes them: without blanks and signs, and decimal with zeros before them too.
_WHOLE = re.compile(r"(?P<hex>0x[0-9A-Fa-f]+)|[0-9]+")
_RESAMPLERS = re.compile(
    r"auto|copy|peaks|trivial|ffmpeg|soxr-(mq|hq|vhq)|speex-(float|fixed)(-([0-9]|10))?"
    r"|src-(sinc-(best-quality|medium-quality|fastest)|zero-order-hold|linear)"
)
_TRUE = frozenset({"1", "y", "yes", "t", "true", "on"})
_FALSE = frozenset({"0", "n", "no", "f", "false", "off"})
NUMBER_MAX = 0xFFFFFFFF
_IDLE_FLAGS = frozenset({
    "use_volume_sharing", "force_flat_volume", "only_from_unavailable", "auth-cookie-enabled", "auth-group-enable",
    "srbchannel", "on_hotplug", "on_rescue", "restore_port", "restore_formats", "restore_bluetooth_profile",
})  # fmt: skip
_IDLE_NUMBERS = frozenset({
    "adjust_time", "latency_time", "max_latency_msec", "log_interval", "fast_adjust_threshold_msec",
    "adjust_threshold_usec", "timeout", "rate",
})  # fmt: skip
"""Arguments that have no effect here, by what PulseAudio takes for them."""


def wrong(message: str) -> CommandError:
    """The error with which PulseAudio rejects a module's arguments."""
    return CommandError(Err.MODINITFAILED, message)


def _arguments(text: str) -> list[tuple[str, str]]:
    """Assignments in order, with the values as written."""
    return [(key, value[1]) for key, value in _pairs(text, in_list=False)]


def _properties(text: str) -> list[tuple[str, bytes]]:
    """The properties of a list, in order."""
    return [(key, _property(key, value)) for key, value in _pairs(text, in_list=True)]


def _property(key: str, value: re.Match[str]) -> bytes:
    """A property's value: text with its final NUL, or bytes."""
    if value.re is not _BARE_IN_LIST:
        return _ESCAPED.sub(r"\1", value[1]).encode("utf-8", "replace") + b"\0"
    if not value[1].startswith("hex:"):
        return value[1].encode("utf-8", "replace") + b"\0"
    given = _HEX.fullmatch(value[1])
    if given is None:
        raise wrong(f"{quoted(key)}: {quoted(value[1])} is not hex: and pairs of hexadecimal digits")
    return bytes.fromhex(given[1])


def _pairs(text: str, in_list: bool) -> list[tuple[str, re.Match[str]]]:
    """Keys and values in order. A property list allows blanks around the `=`; its bare values have no escapes."""
    if len(text) > ARGUMENT_MAX:
        raise wrong(f"arguments can have {ARGUMENT_MAX} characters at most")
    out: list[tuple[str, re.Match[str]]] = []
    at = _skip(text, 0)
    while at < len(text):
        key = (_KEY_IN_LIST if in_list else _KEY).match(text, at)
        if key is None:
            raise wrong(f"{quoted(text[at:])} is not KEY=VALUE")
        bare = _BARE_IN_LIST if in_list else _BARE
        value = _QUOTED.get(text[key.end() : key.end() + 1], bare).match(text, key.end())
        if value is None:
            raise wrong(f"{quoted(key[1])}: unclosed quote, or a backslash at the end")
        out.append((key[1], value))
        at = _skip(text, value.end())
    return out


def _skip(text: str, at: int) -> int:
    blank = _BLANK.match(text, at)
    return blank.end() if blank else at


class Args:
    """The arguments of one module; CommandError for an unknown or repeated argument."""

    def __init__(self, text: str, valid: Collection[str]) -> None:
        self._values: dict[str, str] = {}
        for key, value in _arguments(text):
            if key not in valid:
                raise wrong(f"argument {quoted(key)} is unknown; there are: {', '.join(sorted(valid)) or 'none'}")
            if key in self._values:
                raise wrong(f"argument {key} is given twice")
            self._values[key] = value

    def text(self, key: str) -> str | None:
        """The text of an argument; None if it is not given."""
        value = self._values.get(key)
        return None if value is None else _ESCAPED.sub(r"\1", value)

    def flag(self, key: str, default: bool) -> bool:
        """A boolean."""
        value = self.text(key)
        if value is None:
            return default
        if value.lower() in _TRUE | _FALSE:
            return value.lower() in _TRUE
        raise wrong(f"{key}: {quoted(value)} is not a boolean (yes or no)")

    def number(self, key: str, low: int, high: int) -> int | None:
        """An integer within bounds."""
        value = self.text(key)
        if value is None:
            return None
        found = _WHOLE.fullmatch(value)
        if found is None or len(value) > DIGITS_MAX:
            raise wrong(f"{key}: {quoted(value)} is not a whole number; it is {low} to {high}")
        try:
            return checked_int(int(value, 16 if found["hex"] else 10), key, low, high)
        except ConfigError as error:
            raise wrong(str(error)) from None

    def check_idle(self, key: str) -> None:
        """Check an argument that has no effect here as PulseAudio does."""
        if key in _IDLE_FLAGS:
            self.flag(key, False)
        elif key in _IDLE_NUMBERS and (value := self.text(key)) is not None:
            try:
                parse_decimal(value, key, 0, NUMBER_MAX)
            except ConfigError as error:
                raise wrong(str(error)) from None
        elif key == "resample_method" and _RESAMPLERS.fullmatch(self.text(key) or "auto") is None:
            raise wrong(f"{key}: {quoted(self.text(key))} is not one of PulseAudio's resamplers")

    def props(self, key: str) -> Props:
        """A property list."""
        pairs = _properties(self._values.get(key, ""))
        if len(pairs) > PROPS_MAX:
            raise wrong(f"{key}: more than {PROPS_MAX} properties")
        for name, _ in pairs:
            if not name.isascii() or not name.isprintable():
                raise wrong(f"{key}: {quoted(name)} is not a property name")
        return dict(pairs)

    def texts(self, key: str) -> dict[str, str]:
        """A property list, with text values."""
        props = self.props(key)
        return {name: prop_text(props, name) for name in props}

    def positions(self, key: str = "channel_map") -> Positions | None:
        """A channel map."""
        text = self.text(key)
        if text is None:
            return None
        positions = parse_map(text)
        if positions is None:
            raise wrong(f"{key}: {quoted(text)} is not a channel map")
        return positions

    def format(self, default: AudioFormat) -> AudioFormat:
        """`format`, `rate`, `channels` and `channel_map`; the last two must agree."""
        name = self.text("format")
        sample = default.sample if name is None else sample_format(name)
        if sample is None:
            raise wrong(f"format: {quoted(name)} is not a sample format")
        rate = self.number("rate", STREAM_RATE_MIN, STREAM_RATE_MAX) or default.rate
        channels, positions = self.number("channels", 1, MAX_CHANNELS), self.positions()
        if positions is None:
            positions = default.positions if channels in (None, len(default.positions)) else map_for(channels or 1)
        elif channels is not None and channels != len(positions):
            raise wrong(f"channels={channels}, but the channel map has {len(positions)}")
        return AudioFormat(sample, rate, positions)
