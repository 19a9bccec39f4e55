"""Looking up a guest's objects by key: stream/7, sink/millrace."""

from __future__ import annotations

from collections.abc import Iterable

from millrace.dsp.mix import CUBIC_NORM, cubic_to_gain
from millrace.errors import ConfigError
from millrace.graph.model import Levelled, Sink
from millrace.guest.guest import Guest
from millrace.guest.notfound import NotFound
from millrace.text import key_number, parse_decimal, printable, quoted

VOLUME_MAX_PERCENT = 400.0
LEVEL_MIN_DB, LEVEL_MAX_DB = -200.0, 36.0


def parse_volume(text: str) -> float:
    """Parse '50%' (cubic, as in pactl) or '-6dB' to a linear gain."""
    bare = text.strip().lower()
    if bare.endswith("%"):
        return cubic_to_gain(round(parse_decimal(bare, "volume", 0, VOLUME_MAX_PERCENT, "%") / 100 * CUBIC_NORM))
    if bare.endswith("db"):
        return float(10 ** (parse_decimal(bare, "volume", LEVEL_MIN_DB, LEVEL_MAX_DB, "db") / 20))
    raise ConfigError(f"volume: {quoted(text)} is neither a percentage such as 50% nor a level such as -6dB")


def split_key(key: str) -> tuple[str, str]:
    """The kind and the name in a key such as stream/7."""
    kind, slash, name = key.partition("/")
    if not slash or not name:
        raise ConfigError(
            f"{quoted(key)}: give a name as `millrace ls` shows it, such as stream/7, sink/millrace or listener/3"
        )
    return kind, name


def find_sink(guest: Guest, name: str) -> Sink | None:
    """Find a sink by number or name."""
    return _named(guest.graph.sinks.values(), name)


def _named(sinks: Iterable[Sink], name: str) -> Sink | None:
    return next((sink for sink in sinks if sink.answers_to(name)), None)


def node_of(home: Guest, kind: str, name: str) -> Levelled | None:
    """Find a stream, sink or source in a guest; None if there is none."""
    if kind == "sink":
        return find_sink(home, name)
    if kind == "source":
        return _named(home.graph.sources.values(), name)
    return home.graph.streams.get(key_number(name)) if kind == "stream" else None


def find_mix(guest: Guest, to: str) -> Sink:
    """Find a sink or source by key; NotFound lists those that exist."""
    kind, name = split_key(to)
    sinks = {"sink": guest.graph.sinks, "source": guest.graph.sources}.get(kind, {})
    sink = _named(sinks.values(), name)
    if sink is None:
        known = ", ".join(f"{s.kind}/{s.name}" for s in guest.graph.mixes())
        raise NotFound(f"guest {guest.name} has no {printable(to)}; it has {known}")
    return sink
