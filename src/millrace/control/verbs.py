"""What the API can do, apart from HTTP: find a thing by its key and change it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from millrace.doors.ingress import RecorderStatus, recorder_of
from millrace.dsp.channels import Matrix
from millrace.errors import ConfigError, GraphError
from millrace.graph.model import Levelled, Sink, Stream, Tap
from millrace.guest.find import find_mix, find_sink, node_of, parse_volume
from millrace.guest.guest import Guest
from millrace.guest.home import Machine
from millrace.guest.listener import ListenerSession
from millrace.guest.notfound import missing, missing_sink
from millrace.text import literal, parse_name, parse_switch, printable, quoted
from millrace.units import MAX_CHANNELS

MATRIX_GAIN_MAX = 16.0


def setting_text(value: str | int | float | bool) -> str:
    """A setting as people write it."""
    return value if isinstance(value, str) else literal(value)


class Found(NamedTuple):
    """What a key names, the guest in which that is, and the key as it was asked for."""

    guest: Guest
    thing: Levelled | ListenerSession
    key: str

    @property
    def node(self) -> Stream | Sink:
        """The stream or sink; NotFound for a listener, which is no node of the graph."""
        if isinstance(self.thing, Stream | Sink):
            return self.thing
        raise missing(self.key)


def find(guest: Guest, kind: str, name: str) -> Found | None:
    """A stream, sink, source or listener of a guest; None where it has none such."""
    key = f"{kind}/{name}"
    thing = _listener(guest, key) if kind == "listener" else node_of(guest, kind, name)
    return None if thing is None else Found(guest, thing, key)


def _listener(guest: Guest, key: str) -> ListenerSession | None:
    return next((session for session in guest.sessions if session.outlet.key == key), None)


def machine_of(guest: Guest, key: str) -> Machine | None:
    """A machine that a guest looks for, or has."""
    return next((machine for machine in guest.machines if machine.key == key), None)


def recorder_tap(guest: Guest, number: int) -> tuple[Tap, RecorderStatus] | None:
    """A program's recorder in a guest, and what its door tells of it."""
    tap = guest.graph.taps.get(number)
    recorder = None if tap is None else recorder_of(tap)
    return None if tap is None or recorder is None else (tap, recorder)


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
            raise ConfigError(f"{quoted(name)} is not a setting of a {node.kind}; it has volume and mute")
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


def about_source(found: Found, to: str = "") -> bool:
    """Whether it is a source, or a stream that is what a source gives, or is to go where one is."""
    thing = found.thing
    gives = thing.feeds_source if isinstance(thing, Stream) else isinstance(thing, Sink) and thing.capture
    return gives or to.startswith("source/")


def move(found: Found, to: str) -> None:
    """`millrace move`: a stream or a listener to another sink of the same guest."""
    guest, thing, key = found
    if isinstance(thing, ListenerSession):
        guest.outlets.move(thing.outlet, find_mix(guest, to))
    elif isinstance(thing, Stream):
        guest.graph.move_stream(thing, find_mix(guest, to))
    else:
        raise ConfigError(f"{printable(key)}: only streams and listeners can be moved")


def parse_matrix(rows: object) -> Matrix | None:
    """A matrix from JSON: a list of rows (source channels) of numbers (target channels)."""
    if rows is None:
        return None
    try:
        matrix = np.array(rows, np.float64)
    except (ValueError, TypeError, OverflowError):
        matrix = np.zeros(0)
    if matrix.ndim != 2 or not np.isfinite(matrix).all() or np.abs(matrix).max(initial=0.0) > MATRIX_GAIN_MAX:
        raise ConfigError(f"matrix: one row of numbers for each source channel, {MATRIX_GAIN_MAX:g} at most")
    return matrix.astype(np.float32)


def link(found: Found, to: str, matrix: Matrix | None) -> None:
    """`millrace link`: a stream or sink into a sink as well, with a mix matrix of its own if given."""
    found.guest.graph.link(found.node, find_mix(found.guest, to), matrix)


def unlink(found: Found, to: str) -> None:
    """`millrace unlink`. A stream keeps one link at least: mute it instead."""
    node = found.node
    if isinstance(node, Stream) and len(node.links) == 1:
        raise GraphError(f"{printable(found.key)} has no other link; mute it or move it")
    found.guest.graph.unlink(node, find_mix(found.guest, to))


def demand_sink_name(guest: Guest, name: str) -> None:
    """ConfigError or GraphError for a name that a new sink can't have."""
    parse_name(name, "sink name")
    if guest.graph.name_taken(name):
        raise GraphError(f"a sink named {name!r} exists already")


def removable(guest: Guest, name: str) -> Sink:
    """A sink that can be removed. Modules may end at any time, so what they made is no sink to rely on."""
    graph = guest.graph
    sink = find_sink(guest, name)
    if sink is None or sink in graph.leaving:
        raise missing_sink(guest.name, name, (sink.name for sink in graph.sinks.values()))
    made = {mix for module in guest.door.modules.values() for mix in module.mixes}
    if not any(other is not sink for other in graph.sinks.values() if other not in made | graph.leaving):
        raise GraphError("this is the guest's only sink; add another first")
    return sink
