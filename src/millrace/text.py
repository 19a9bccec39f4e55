"""Base layer: text from outside. How to display it, and a single parser for each kind of value.

Text comes from users, guests, peers and files, and none of it is trusted. Text that is *displayed* (on a terminal, in a
log line, an incident or an error message) goes through `printable` or `quoted`. Text that is *interpreted* goes through
the parser for its kind. Each parser raises a ConfigError that names the subject, the value given and what is accepted.

The parsers reject the extras that Python's own `int` and `float` accept: `1_000`, digits of other scripts, `nan`,
`inf`, embedded spaces, 5,000 digits.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from millrace.errors import ConfigError
from millrace.units import NS_PER_MS, NS_PER_S, NS_PER_US, HostNs

N = TypeVar("N", int, float)

SHOWN_MAX = 200
QUOTED_MAX = 60
NAME_MAX = 64
LABEL_MAX = 200
KEY_SHOWN_MAX, VALUE_SHOWN_MAX = 64, 256
"""Characters kept of a program's property for display."""
PORT_MAX = 65_535
DIGITS_MAX = 30
"""A number with more digits exceeds every bound used here."""

# Unicode categories that are escaped: controls, formats (direction marks and overrides, tags, zero-width spaces),
# surrogates, private use, unassigned, line and paragraph separators.
_UNSHOWN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")
"""Needed for Persian and emoji; they do not reorder anything."""
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_INT = re.compile(r"[+-]?[0-9]+")
_DECIMAL = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_NUMBER = re.compile(_DECIMAL)
# `[0-9]` and not `\d`, which also matches the digits of other scripts; `fullmatch` and not `$`, which also matches
# before a final line feed.
_WITH_UNIT = re.compile(rf"({_DECIMAL})\s*([A-Za-zµ/%]*)")
_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
_NS = {
    "ns": 1, "us": NS_PER_US, "µs": NS_PER_US, "ms": NS_PER_MS, "s": NS_PER_S, "m": 60 * NS_PER_S,
    "min": 60 * NS_PER_S, "h": 3600 * NS_PER_S, "d": 86_400 * NS_PER_S, "w": 604_800 * NS_PER_S,
}  # fmt: skip
_SHOWN_UNITS = ("w", "d", "h", "m", "s", "ms", "us", "ns")


# -- showing -------------------------------------------------------------------------------------


def _unshown(char: str) -> bool:
    return unicodedata.category(char) in _UNSHOWN and char not in _JOINERS


def _escaped(char: str) -> str:
    code = ord(char)
    if char in _SHORT:
        return _SHORT[char]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# The text is cut before it is escaped: escaping first would cost time in proportion to what a peer sent, and a cut
# could then fall inside an escape. `limit` therefore counts characters of the text; escaped, each can become ten.
def printable(text: object, limit: int = SHOWN_MAX) -> str:
    """Untrusted text made safe for a terminal or log: one line, no escape sequences, no direction overrides.

    Letters of every script and emoji are kept. Text longer than `limit` characters is cut and ends in an ellipsis.
    """
    whole = text.decode(errors="backslashreplace") if isinstance(text, bytes | bytearray) else str(text)
    cut = whole if len(whole) <= limit else whole[: max(0, limit - 1)] + "…"
    if cut.isascii() and cut.isprintable():
        return cut
    return "".join(_escaped(char) if _unshown(char) else char for char in cut)


def printable_lines(text: str) -> str:
    """The same for our own text with untrusted parts: its line ends, tabs and full length are kept."""
    return "\n".join("\t".join(printable(cell, len(cell)) for cell in line.split("\t")) for line in text.split("\n"))


def quoted(value: object, limit: int = QUOTED_MAX) -> str:
    """A given value, for use in an error message."""
    return f"'{printable(value, limit)}'" if isinstance(value, str) else printable(literal(value), limit)


def counted(count: int, what: str) -> str:
    """'1 client', '2 clients'."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def show_measured(figures: Mapping[str, object]) -> str:
    """Measurements in readable form: `late_ms` 3.5 becomes 'late 3.5 ms'."""
    parts = []
    for key, value in figures.items():
        name, _, unit = key.rpartition("_")
        name, unit = (name, f" {unit}") if name and unit in ("ms", "ppm", "s") else (key, "")
        parts.append(f"{name.replace('_', ' ')} {value}{unit}")
    return ", ".join(parts)


def literal(value: object) -> str:
    """A value from a file or message as users write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() > 4 * DIGITS_MAX:
        return "a number with too many digits"
    try:
        return repr(value)
    except ValueError:
        # Python refuses `repr` of a value that contains an int of 5,000 digits.
        return f"a {type(value).__name__}"


def clean_utf8(text: str) -> bool:
    """Whether `text` can be encoded: it has no lone surrogates, which stand for bytes that were not UTF-8."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def clean(text: str) -> bool:
    """Whether `text` can be displayed without escaping."""
    return not any(_unshown(char) for char in text)


def of_some_encoding(data: bytes) -> str:
    """Text of a peer that does not say how it is encoded: UTF-8, or else Latin-1."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def well_formed(text: str, what: str) -> str:
    """Check that text is encodable as UTF-8. File names and arguments may not be, and would fail much later."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{what} {quoted(text)} is not UTF-8; use another name") from None
    return text


# Every object is sent whole to each watcher and in each listing, so what a program calls its streams must be short.
def cut_name(text: str) -> str:
    """A name that a program chose, cut to what is kept for display."""
    return text[:LABEL_MAX]


def cut_props(props: Mapping[str, str]) -> dict[str, str]:
    """Properties that a program chose, cut to what is kept for display."""
    return {key[:KEY_SHOWN_MAX]: value[:VALUE_SHOWN_MAX] for key, value in props.items()}


# -- numbers -------------------------------------------------------------------------------------


def _within(value: N, given: object, what: str, low: N, high: N, show: Callable[[N], str]) -> N:
    """Return `value` if it is within bounds; nan never is. `given` is the original, for the message."""
    if not low <= value <= high:
        raise ConfigError(f"{what}: {quoted(given)} is outside {show(low)} to {show(high)}")
    return value


def checked_int(value: object, what: str, low: int, high: int) -> int:
    """Check a number that is already typed (TOML, JSON): an integer, not a boolean, within bounds."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{what}: {quoted(value)} is not a whole number; it is {low} to {high}")
    return _within(value, value, what, low, high, str)


def checked_number(value: object, what: str, low: float, high: float) -> float:
    """Check a number that is already typed, integer or float; nan and infinities are out of bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{what}: {quoted(value)} is not a number; it is {low:g} to {high:g}")
    return float(_within(value, value, what, low, high, "{:g}".format))


def parse_int(text: str, what: str, low: int, high: int) -> int:
    """Parse an integer."""
    bare = text.strip()
    if not _INT.fullmatch(bare):
        raise ConfigError(f"{what}: {quoted(text)} is not a whole number; it is {low} to {high}")
    # Before `int`, which raises a ValueError of its own for more than 4,300 digits.
    if len(bare) > DIGITS_MAX:
        raise ConfigError(f"{what}: {quoted(text)} is outside {low} to {high}")
    return checked_int(int(bare), what, low, high)


def parse_decimal(text: str, what: str, low: float, high: float, unit: str = "") -> float:
    """Parse a decimal number; `unit` may follow it (`%`, `ppm`)."""
    # Too many digits become nan, which no bounds contain (see `_within`), so they are refused with the same message.
    bare = text.strip().removesuffix(unit).rstrip()
    if not _NUMBER.fullmatch(bare):
        raise ConfigError(f"{what}: {quoted(text)} is not a number; it is {low:g}{unit} to {high:g}{unit}")
    value = float(bare) if len(bare) <= DIGITS_MAX else float("nan")
    return _within(value, text, what, low, high, lambda bound: f"{bound:g}{unit}")


# Integers and not floats: 0.1 × 10⁹ must be the whole number that was written, and a bound must not be exceeded or
# missed by a rounding error. (`decimal` would do, but takes longer to import than all commands.) The number of digits
# is checked first, because the time that integers take grows with it.
def _scaled(text: str, factors: dict[str, int], bare_unit: str | None) -> int | None:
    """`text` as an integer in the smallest unit; None if it is not a number with a known unit."""
    found = _WITH_UNIT.fullmatch(text.strip())
    if found is None or len(found[1]) > DIGITS_MAX:
        return None
    unit = found[2].lower() or bare_unit
    if unit is None or unit not in factors:
        return None
    whole, _, part = found[1].partition(".")
    tens: int = 10 ** len(part)
    return (2 * int(whole + part) * factors[unit] + tens) // (2 * tens)


def key_number(text: str) -> int:
    """The number in an object's key (stream/7); -1, which no object has, if it is not a number."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1


def parse_size(text: str, what: str, low: int, high: int, units: Collection[str] = ()) -> int:
    """Parse a size or rate: '64k', '1.5M', '32000', '16Mi'. One of `units` (bit/s) may follow."""
    bare = text.strip()
    ending = next((unit for unit in units if bare.endswith(unit)), "")
    value = _scaled(bare.removesuffix(ending), _FACTORS, "")
    if value is None:
        raise ConfigError(
            f"{what}: {quoted(text)} is not a number, alone or with k, M, G, Ki, Mi or Gi;"
            f" it is {show_size(low)} to {show_size(high)}"
        )
    return _within(value, text, what, low, high, show_size)


def show_size(value: int) -> str:
    """Format a size so that `parse_size` accepts it."""
    for name in ("G", "M", "k"):
        factor = _FACTORS[name.lower()]
        if value >= factor and value % factor == 0:
            return f"{value // factor}{name}"
    return str(value)


def parse_duration_ns(text: str, what: str, low_ns: HostNs, high_ns: HostNs, bare_unit: str | None = None) -> HostNs:
    """Parse a duration: '2.5ms', '30s', '30m', '8h', '7d'. A bare number is refused unless `bare_unit` is given."""
    value = _scaled(text, _NS, bare_unit)
    if value is None:
        bounds = f"{show_duration(low_ns)} to {show_duration(high_ns)}"
        raise ConfigError(f"{what}: {quoted(text)} is not a time such as 20ms, 30s, 30m, 8h or 7d; it is {bounds}")
    return _within(value, text, what, low_ns, high_ns, show_duration)


def show_duration(ns: HostNs) -> str:
    """Format a duration so that `parse_duration_ns` accepts it."""
    unit = next((unit for unit in _SHOWN_UNITS if ns >= _NS[unit] and ns % _NS[unit] == 0), "s")
    return f"{ns / _NS[unit]:.15g}{unit}"


# -- words ---------------------------------------------------------------------------------------


def parse_switch(text: str, what: str) -> bool:
    """Parse 'on' or 'off' and their usual synonyms."""
    lowered = text.strip().lower()
    if lowered in ("on", "yes", "true", "1"):
        return True
    if lowered in ("off", "no", "false", "0"):
        return False
    raise ConfigError(f"{what}: {quoted(text)} is neither on nor off")


def parse_choice(text: str, what: str, choices: Collection[str]) -> str:
    """Check that `text` is one of `choices`."""
    if text not in choices:
        raise ConfigError(f"{what}: {quoted(text)} is not one of {', '.join(choices)}")
    return text


def parse_name(text: str, what: str, reserved: Collection[str] = ()) -> str:
    """Check a name that is safe in paths, addresses and command lines: of a guest or sink."""
    if len(text) > NAME_MAX or not _NAME.fullmatch(text):
        raise ConfigError(
            f"{what} {quoted(text)}: use letters, digits and '_', and after the first character '.' and '-';"
            f" {NAME_MAX} at most"
        )
    if text in reserved:
        raise ConfigError(f"{what} {quoted(text)} is reserved by Millrace, as are {', '.join(sorted(reserved))}")
    return text


def parse_label(text: str, what: str, limit: int = LABEL_MAX) -> str:
    """Check text for people, never used as a key: a token's name, a sink's description."""
    if len(text) > limit or not clean(text):
        raise ConfigError(
            f"{what} {quoted(text)}: {limit} characters at most, no control or bidirectional formatting characters"
        )
    return text


def parse_json(data: bytes | str, what: str) -> Any:
    """Parse UTF-8 JSON. Stricter than Python's parser: no lone surrogates or NaN, limited nesting and digits."""
    import msgspec

    try:
        return msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{what} is not JSON: {printable(error)}") from None


# -- addresses -----------------------------------------------------------------------------------


def _is_v6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def parse_host(text: str, what: str) -> str:
    """Check a host name or address without a port: no brackets around IPv6."""
    if len(text) > 255 or not (_HOST.fullmatch(text) or _is_v6(text)):
        raise ConfigError(f"{what}: {quoted(text)} is not a host name or an address")
    return text


def parse_address(text: str, what: str, example: str = "127.0.0.1:8642") -> tuple[str, int]:
    """Parse 'HOST:PORT' or '[V6]:PORT'. In ':PORT' the host is empty, which means all addresses."""
    # An IPv6 address without brackets would make `1::2:80` ambiguous, so brackets are required around one, and allowed
    # around nothing else.
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    inner = host[1:-1] if bracketed else host
    if not colon or bracketed != _is_v6(inner) or not (inner == "" or bracketed or _HOST.fullmatch(inner)):
        hint = f"; write [{inner}]:{port or 'PORT'}" if colon and _is_v6(inner) else ""
        raise ConfigError(f"{what}: {quoted(text)} is not HOST:PORT, such as {example}{hint}")
    return inner, parse_int(port, f"{what}: the port of {quoted(text)}", 0, PORT_MAX)


def show_address(host: str, port: int) -> str:
    """Format an address so that `parse_address` accepts it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
