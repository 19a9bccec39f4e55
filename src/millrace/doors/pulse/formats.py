"""Formats of clients' streams: sample specs, channel maps, volumes, and the JSON of the formats API."""

from __future__ import annotations

import json
import re
from typing import Any

from millrace.doors.pulse.channelmaps import parse_map
from millrace.dsp.channels import volume_for
from millrace.dsp.convert import BY_NAME, NAMES, PULSE_FORMATS, SampleFormat
from millrace.dsp.mix import cubic_to_gain, gain_to_cubic
from millrace.errors import ConfigError, GraphError, MillraceError, RightsError
from millrace.media.format import AudioFormat
from millrace.text import parse_json, quoted
from millrace.units import MAX_CHANNELS, POSITIONS, RATE_MAX, Positions, default_map
from millrace.wire.pulse.constants import Encoding, Err
from millrace.wire.pulse.tagstruct import FormatInfo, Props, Spec

_FORMATS = {
    "u8": "u8", "8": "u8", "s16": "s16le", "16": "s16le", "s16ne": "s16le", "s16re": "s16be",
    "float": "float32le", "float32": "float32le", "float32ne": "float32le", "float32re": "float32be",
    "mulaw": "ulaw", "s32": "s32le", "32": "s32le", "s32ne": "s32le", "s32re": "s32be", "s24": "s24le",
    "s24ne": "s24le", "s24re": "s24be", "s24-32": "s24-32le", "s24-32ne": "s24-32le", "s24-32re": "s24-32be",
}  # fmt: skip
"""Aliases of sample formats."""


STREAM_RATE_MIN, STREAM_RATE_MAX = 1, RATE_MAX * 101 // 100
"""As in PulseAudio: volume meters use 25 Hz, and a rate that is being adjusted may exceed the maximum."""
VOLUME_MAX = 0x7FFFFFFF
NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
"""The name of a sink, source or sample."""


class CommandError(MillraceError):
    """A command refused with one of PulseAudio's error codes; the connection stays open."""

    def __init__(self, code: Err, message: str = "") -> None:
        super().__init__(message or code.name.lower())
        self.code = code


def no_such(what: str, name: str) -> CommandError:
    """The refusal of a name that nothing has: INVALID if nothing could have it."""
    return CommandError(Err.NOENTITY if NAME.fullmatch(name) else Err.INVALID, f"no {what} {quoted(name)}")


# GraphError stands for a limit of the guest here, so it is TOOLARGE; commands for which it means a wrong request turn
# it into INVALID (`control.guarded`). Any other exception ends the connection.
REFUSALS = (CommandError, GraphError, RightsError)
"""Errors that refuse a request; the connection stays open."""


def code_of(refusal: MillraceError) -> Err:
    """The PulseAudio error code for a refusal."""
    if isinstance(refusal, CommandError):
        return refusal.code
    return Err.ACCESS if isinstance(refusal, RightsError) else Err.TOOLARGE


def spec_of(fmt: AudioFormat) -> Spec:
    """A format as a sample spec."""
    return Spec(fmt.sample, len(fmt.positions), fmt.rate)


def map_of(fmt: AudioFormat) -> tuple[int, ...]:
    """A format's channel map, as numbers."""
    return map_numbers(fmt.positions)


def info_of(fmt: AudioFormat) -> FormatInfo:
    """A format as a format_info."""
    return FormatInfo(
        Encoding.PCM,
        {
            "format.sample_format": _json(NAMES[fmt.sample]),
            "format.rate": _json(fmt.rate),
            "format.channels": _json(len(fmt.positions)),
            "format.channel_map": _json(",".join(fmt.positions)),
        },
    )


def sample_format(name: str) -> SampleFormat | None:
    """Look up a sample format by any of PulseAudio's names."""
    name = name.lower()
    return BY_NAME.get(_FORMATS.get(name, name))


def _json(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\0"


def map_numbers(positions: Positions) -> tuple[int, ...]:
    """Convert position names to their numbers on the wire."""
    return tuple(POSITIONS.index(name) for name in positions)


def map_names(numbers: tuple[int, ...]) -> Positions:
    """Convert numbers from the wire to position names; CommandError for unknown ones."""
    if any(n >= len(POSITIONS) for n in numbers):
        raise CommandError(Err.INVALID, "unknown channel position")
    return tuple(POSITIONS[n] for n in numbers)


def checked_rate(rate: int) -> int:
    """Return the rate if it is supported, else CommandError."""
    if not STREAM_RATE_MIN <= rate <= STREAM_RATE_MAX:
        raise CommandError(
            Err.INVALID, f"{rate} Hz is not supported; rates are {STREAM_RATE_MIN} to {STREAM_RATE_MAX} Hz"
        )
    return rate


def from_spec(spec: Spec, numbers: tuple[int, ...]) -> AudioFormat:
    """A stream format from a spec and a map, whose channel counts must agree."""
    if spec.format not in PULSE_FORMATS or not 1 <= spec.channels <= MAX_CHANNELS:
        raise CommandError(Err.INVALID, "unknown sample format or channel count")
    positions = map_names(numbers) if numbers else default_map(spec.channels)
    if len(positions) != spec.channels:
        raise CommandError(Err.INVALID, "the channel map does not fit the channel count")
    return AudioFormat(SampleFormat(spec.format), checked_rate(spec.rate), positions)


def _value(props: Props, key: str) -> Any:
    raw = props.get(key)
    if raw is None:
        return None
    try:
        value = parse_json(raw.rstrip(b"\0"), key)
    except ConfigError:
        raise CommandError(Err.INVALID, f"{key} is not JSON") from None
    if isinstance(value, list) and value:
        return value[0]
    return value


def _ranged(value: Any, default: int) -> int:
    """A number; for {"min", "max"}, the default clamped to that range."""
    if isinstance(value, dict):
        low, high = (_whole(value.get(end), default) for end in ("min", "max"))
        return min(max(default, low), high)
    return _whole(value, default)


def _whole(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def from_info(info: FormatInfo, default: AudioFormat) -> AudioFormat:
    """Convert a PCM format_info to a format; missing fields are taken from `default`."""
    name = _value(info.props, "format.sample_format")
    sample = sample_format(str(name)) if name is not None else default.sample
    if sample is None:
        raise CommandError(Err.NOTSUPPORTED, f"sample format {name} is unknown")
    rate = checked_rate(_ranged(_value(info.props, "format.rate"), default.rate))
    text = _value(info.props, "format.channel_map")
    if isinstance(text, str) and text:
        positions = parse_map(text)
        if positions is None:
            raise CommandError(Err.INVALID, f"channel map {quoted(text)} is unknown")
        return AudioFormat(sample, rate, positions)
    channels = _ranged(_value(info.props, "format.channels"), len(default.positions))
    if not 1 <= channels <= MAX_CHANNELS:
        raise CommandError(Err.INVALID, f"{channels} channels")
    same = channels == len(default.positions)
    return AudioFormat(sample, rate, default.positions if same else default_map(channels))


# If formats are offered, the spec and the map are placeholders (format 255, no channels) and are not looked at.
# Otherwise the reply must repeat what was asked for, except where a fix_* flag allows a change: libpulse ends the
# whole connection if it does not.
def negotiate(fields: dict[str, Any], default: AudioFormat) -> AudioFormat:
    """The format for a new stream: the first PCM format offered, or the spec with its fix_* flags applied."""
    offers: list[FormatInfo] = fields.get("formats") or []
    if offers:
        for info in offers:
            if info.encoding in (Encoding.PCM, Encoding.ANY):
                return from_info(info, default)
        raise CommandError(Err.NOTSUPPORTED, "only PCM can be mixed")
    spec, numbers = fields["spec"], fields["map"]
    if fields["fix_channels"]:
        spec = Spec(spec.format, len(default.positions), spec.rate)
        numbers = map_of(default)
    if fields["fix_format"]:
        spec = Spec(default.sample, spec.channels, spec.rate)
    if fields["fix_rate"]:
        spec = Spec(spec.format, spec.channels, default.rate)
    return from_spec(spec, numbers)


def gains_from(volume: tuple[int, ...], channels: int) -> tuple[float, ...]:
    """Convert a client's cvolume to linear gains. A single value fits any channel count."""
    if len(volume) not in (1, channels):
        raise CommandError(Err.INVALID, f"{len(volume)} volumes for {channels} channels")
    if max(volume) > VOLUME_MAX:
        raise CommandError(Err.INVALID, f"a volume is {VOLUME_MAX} at most")
    return tuple(cubic_to_gain(v) for v in (volume * channels if len(volume) == 1 else volume))


def remapped(volume: tuple[int, ...], source: Positions, target: Positions) -> tuple[int, ...]:
    """Remap a client's cvolume from the channels of `source` to those of `target`."""
    if len(volume) != len(source) or not volume:
        raise CommandError(Err.INVALID, f"{len(volume)} volumes for {len(source)} channels")
    return volume_for(volume, source, target)


def volume_of(gains: tuple[float, ...]) -> tuple[int, ...]:
    """Convert linear gains to a cvolume."""
    return tuple(min(gain_to_cubic(g), VOLUME_MAX) for g in gains)


def prop_text(props: Props, key: str) -> str:
    """A property as text; '' if it is missing."""
    return props.get(key, b"").rstrip(b"\0").decode("utf-8", "replace")
