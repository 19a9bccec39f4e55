"""What the API can do, apart from HTTP: find a thing by its key and change it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from millrace.doors.pulse.door import feeds_source
from millrace.dsp.channels import Matrix
from millrace.dsp.mix import CUBIC_NORM, cubic_to_gain
from millrace.errors import ConfigError, GraphError
from millrace.graph.model import Levelled, Sink, Stream
from millrace.guest.guest import Guest
from millrace.guest.listener import ListenerSession
from millrace.guest.missing import NotFound, missing, missing_sink
from millrace.text import key_number, literal, parse_decimal, parse_name, parse_switch, printable, quoted
from millrace.units import MAX_CHANNELS

if TYPE_CHECKING:
    from millrace.daemon.app import Daemon

VOLUME_MAX_PERCENT = 400.0
LEVEL_MIN_DB, LEVEL_MAX_DB = -200.0, 36.0
MATRIX_GAIN_MAX = 16.0


def parse_volume(text: str) -> float:
    """'50%' (cubic, as pactl's) or '-6dB' to a linear gain."""
    bare = text.strip().lower()
    if bare.endswith("%"):
        return cubic_to_gain(round(parse_decimal(bare, "volume", 0, VOLUME_MAX_PERCENT, "%") / 100 * CUBIC_NORM))
    if bare.endswith("db"):
        return float(10 ** (parse_decimal(bare, "volume", LEVEL_MIN_DB, LEVEL_MAX_DB, "db") / 20))
    raise ConfigError(f"volume: {quoted(text)} is neither a percentage such as 50% nor a level such as -6dB")


def setting_text(value: str | int | float | bool) -> str:
    """A setting as people write it."""
    return value if isinstance(value, str) else literal(value)


def _split(key: str) -> tuple[str, str]:
    kind, slash, name = key.partition("/")
    if not slash or not name:
        raise ConfigError(
            f"{quoted(key)}: name things as `millrace ls` does, such as stream/7, sink/millrace or listener/3"
        )
    return kind, name


def find_sink(guest: Guest, name: str) -> Sink | None:
    """A guest's sink by number or name."""
    return _named(guest.graph.sinks.values(), name)


def _named(sinks: Iterable[Sink], name: str) -> Sink | None:
    return next((sink for sink in sinks if sink.answers_to(name)), None)


def find_node(daemon: Daemon, key: str, guest: str | None) -> tuple[Guest, Levelled]:
    """A stream or sink by key; a sink's name is looked for in `guest`, or in all."""
    kind, name = _split(key)
    for home in daemon.guests.values():
        if guest not in (None, home.name):
            continue
        found = _node(home, kind, name)
        if found is not None:
            return home, found
    raise missing(key, guest)


def find_listener(daemon: Daemon, key: str) -> ListenerSession:
    """A listener by key."""
    for home in daemon.guests.values():
        for session in home.sessions:
            if session.outlet.key == key:
                return session
    raise missing(key)


def home_of(guests: Iterable[Guest], key: str, name: str | None) -> Guest:
    """The one of `guests` in which `key` is; NotFound where it is in none of them."""
    kind, rest = _split(key)
    for home in guests:
        if name not in (None, home.name):
            continue
        if kind == "listener" and any(session.outlet.key == key for session in home.sessions):
            return home
        if _node(home, kind, rest) is not None:
            return home
    raise missing(key, name)


def find_mix(guest: Guest, key: str) -> Sink:
    """A guest's sink or source by key; NotFound says which there are."""
    return _target(guest, key)


def _node(home: Guest, kind: str, name: str) -> Levelled | None:
    if kind == "sink":
        return find_sink(home, name)
    if kind == "source":
        return _named(home.graph.sources.values(), name)
    return home.graph.streams.get(key_number(name)) if kind == "stream" else None


def parse_level(node: Levelled, settings: dict[str, str]) -> tuple[tuple[float, ...] | None, bool | None]:
    """Gains and mute that `millrace set` asks for; None for what is left as it is."""
    gains: tuple[float, ...] | None = None
    mute: bool | None = None
    for name, text in settings.items():
        if name == "volume":
            gains = _gains(node, text)
        elif name == "mute":
            mute = parse_switch(text, "mute")
        else:
            raise ConfigError(f"{quoted(name)}: a {node.kind} has volume and mute")
    return gains, mute


def _gains(node: Levelled, text: str) -> tuple[float, ...]:
    """One volume for all channels, or one each with commas between."""
    gains = tuple(parse_volume(part) for part in text.split(",", MAX_CHANNELS))
    if len(gains) not in (1, len(node.positions)):
        raise GraphError(f"volume: {len(gains)} volumes for the {len(node.positions)} channels of {node.key}")
    return gains if len(gains) > 1 else gains * len(node.positions)


def set_level(guest: Guest, node: Levelled, gains: tuple[float, ...] | None, mute: bool | None) -> None:
    """Set what is given."""
    if gains is not None:
        guest.graph.set_gains(node, gains)
    if mute is not None:
        guest.graph.set_mute(node, mute)


def about_source(guest: Guest, key: str, to: str) -> bool:
    """Whether `key` is a source, or a stream that is what a source gives, or is to go where one is."""
    kind, name = _split(key)
    node = _node(guest, kind, name)
    gives = feeds_source(node) if isinstance(node, Stream) else isinstance(node, Sink) and node.capture
    return gives or to.startswith("source/")


def move(daemon: Daemon, key: str, to: str, guest: str | None = None) -> None:
    """`millrace move`: a stream or a listener to another sink of the same guest."""
    if key.startswith("listener/"):
        session = find_listener(daemon, key)
        session.guest.outlets.move(session.outlet, _target(session.guest, to))
        return
    home, node = find_node(daemon, key, guest)
    if not isinstance(node, Stream):
        raise ConfigError(f"{printable(key)}: only streams and listeners can be moved")
    home.graph.move_stream(node, _target(home, to))


def parse_matrix(rows: object) -> Matrix | None:
    """A matrix from JSON: a list of rows (source channels) of numbers (target channels)."""
    if rows is None:
        return None
    try:
        matrix = np.array(rows, np.float64)
    except (ValueError, TypeError, OverflowError):
        matrix = np.zeros(0)
    if matrix.ndim != 2 or not np.isfinite(matrix).all() or np.abs(matrix).max(initial=0.0) > MATRIX_GAIN_MAX:
        raise ConfigError(f"matrix: rows of numbers of at most {MATRIX_GAIN_MAX:g}, one row a source channel")
    return matrix.astype(np.float32)


def link(daemon: Daemon, key: str, to: str, matrix: Matrix | None, guest: str | None = None) -> None:
    """`millrace link`: a stream or sink into a sink as well, with a mix matrix of its own if given."""
    home, node = find_node(daemon, key, guest)
    assert isinstance(node, Stream | Sink)
    home.graph.link(node, _target(home, to), matrix)


def unlink(daemon: Daemon, key: str, to: str, guest: str | None = None) -> None:
    """`millrace unlink`. A stream keeps one link at least: mute it instead."""
    home, node = find_node(daemon, key, guest)
    assert isinstance(node, Stream | Sink)
    if isinstance(node, Stream) and len(node.links) == 1:
        raise GraphError(f"{printable(key)} has no other link; mute it, or move it")
    home.graph.unlink(node, _target(home, to))


def _target(guest: Guest, to: str) -> Sink:
    kind, name = _split(to)
    sinks = {"sink": guest.graph.sinks, "source": guest.graph.sources}.get(kind, {})
    sink = _named(sinks.values(), name)
    if sink is None:
        known = ", ".join(f"{s.kind}/{s.name}" for s in guest.graph.mixes())
        raise NotFound(f"guest {guest.name} has no {printable(to)}; it has {known}")
    return sink


def demand_sink_name(guest: Guest, name: str) -> None:
    """ConfigError or GraphError for a name that a new sink can't have."""
    parse_name(name, "sink name")
    if guest.graph.name_taken(name):
        raise GraphError(f"a sink named {name!r} exists already")


def removable(guest: Guest, name: str) -> tuple[Sink, Sink]:
    """A sink that can be removed, and where what plays there goes on."""
    sink = find_sink(guest, name)
    if sink is None or sink in guest.leaving:
        raise missing_sink(guest.name, name, (sink.name for sink in guest.graph.sinks.values()))
    return sink, heir(guest, sink)


def heir(guest: Guest, sink: Sink) -> Sink:
    """Where what plays on a sink goes on without it; GraphError where there is no other that stays."""
    others = [s for s in guest.graph.sinks.values() if s is not sink and s not in guest.leaving]
    if not others:
        raise GraphError("this is the guest's last sink, and it needs one; add another first")
    default = guest.graph.default
    return default if default in others else others[0]
