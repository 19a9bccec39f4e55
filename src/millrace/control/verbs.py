"""Operations behind the commands: find an object by its key and change it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from millrace.codec.picturesettings import PICTURE_SETTING_NAMES, changed_picture
from millrace.doors.ingress import RecorderStatus, recorder_of
from millrace.dsp.channels import Matrix
from millrace.errors import ConfigError, GraphError
from millrace.graph.model import Levelled, Sink, Stream, Tap
from millrace.graph.screens import Listed
from millrace.guest.find import find_mix, find_sink, node_of, parse_volume
from millrace.guest.guest import Guest
from millrace.guest.home import Machine
from millrace.guest.listener import ListenerSession
from millrace.guest.notfound import missing, missing_sink
from millrace.guest.viewer import ViewerSession
from millrace.text import literal, parse_name, parse_switch, printable, quoted
from millrace.units import MAX_CHANNELS

MATRIX_GAIN_MAX = 16.0


def setting_text(value: str | int | float | bool) -> str:
    """A setting's value as users write it."""
    return value if isinstance(value, str) else literal(value)


class Found(NamedTuple):
    """The object that a key names, its guest, and the key as requested."""

    guest: Guest
    thing: Levelled | ListenerSession | ViewerSession
    key: str

    @property
    def node(self) -> Stream | Sink:
        """The stream or sink; NotFound for a listener or viewer, which are not graph nodes."""
        if isinstance(self.thing, Stream | Sink):
            return self.thing
        raise missing(self.key)


def find(guest: Guest, kind: str, name: str) -> Found | None:
    """Find a stream, sink, source, listener or viewer in a guest; None if there is none."""
    key = f"{kind}/{name}"
    thing: Levelled | ListenerSession | ViewerSession | None
    if kind == "viewer":
        thing = next((session for session in guest.viewers.sessions if session.key == key), None)
    else:
        thing = _listener(guest, key) if kind == "listener" else node_of(guest, kind, name)
    return None if thing is None else Found(guest, thing, key)


class Seen(NamedTuple):
    """A screen, or a viewer with the screen that it sees."""

    listed: Listed | None
    session: ViewerSession | None


def seen(guest: Guest, key: str) -> Seen | None:
    """Find a screen or viewer in a guest; None if there is none."""
    session = next((session for session in guest.viewers.sessions if session.key == key), None)
    listed = guest.screens.find(key) if session is None else session.listed
    return None if session is None and listed is None else Seen(listed, session)


def _listener(guest: Guest, key: str) -> ListenerSession | None:
    return next((session for session in guest.sessions if session.outlet.key == key), None)


def machine_of(guest: Guest, key: str) -> Machine | None:
    """Find a guest's machine by key."""
    return next((machine for machine in guest.machines if machine.key == key), None)


def recorder_tap(guest: Guest, number: int) -> tuple[Tap, RecorderStatus] | None:
    """Find a program's recorder in a guest, with the status that its door reports."""
    tap = guest.graph.taps.get(number)
    recorder = None if tap is None else recorder_of(tap)
    return None if tap is None or recorder is None else (tap, recorder)


def parse_level(node: Levelled, settings: dict[str, str]) -> tuple[tuple[float, ...] | None, bool | None]:
    """Parse gains and mute from `millrace set`; None for what stays unchanged."""
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
    """Parse one volume for all channels, or one per channel separated by commas."""
    gains = tuple(parse_volume(part) for part in text.split(",", MAX_CHANNELS))
    if len(gains) not in (1, len(node.positions)):
        raise GraphError(f"volume: {len(gains)} volumes for the {len(node.positions)} channels of {node.key}")
    return gains if len(gains) > 1 else gains * len(node.positions)


# A listener and its viewers are one person before one screen, so what is set of the listener reaches both. The viewers'
# part is checked before anything is changed, because it can't be taken back.
def configure(guest: Guest, session: ListenerSession | ViewerSession, settings: dict[str, str]) -> None:
    """Change the settings of a viewer or listener; a listener's of pictures are changed at its viewers."""
    if isinstance(session, ViewerSession):
        session.configure(settings)
        return
    pictures = {name: text for name, text in settings.items() if name in PICTURE_SETTING_NAMES}
    viewers = guest.viewers.of_listener(session.key) if pictures else []
    if pictures and not viewers:
        raise GraphError(f"{', '.join(pictures)}: {session.key} has no viewer; `millrace ls` lists viewers")
    for viewer in viewers:
        changed_picture(viewer.settings, pictures)
    sound = {name: text for name, text in settings.items() if name not in pictures}
    if sound:
        session.configure(sound)
    for viewer in viewers:
        viewer.configure(pictures)


def set_level(guest: Guest, node: Levelled, gains: tuple[float, ...] | None, mute: bool | None) -> None:
    """Apply the values that are not None."""
    if gains is not None:
        guest.graph.set_gains(node, gains)
    if mute is not None:
        guest.graph.set_mute(node, mute)


def about_source(found: Found, to: str = "") -> bool:
    """Whether this is a source, a stream that carries one, or a move to one."""
    thing = found.thing
    gives = thing.feeds_source if isinstance(thing, Stream) else isinstance(thing, Sink) and thing.capture
    return gives or to.startswith("source/")


def move(found: Found, to: str) -> None:
    """`millrace move`: move a stream or listener to another sink of the same guest."""
    guest, thing, key = found
    if isinstance(thing, ListenerSession):
        guest.outlets.move(thing.outlet, find_mix(guest, to))
    elif isinstance(thing, Stream):
        guest.graph.move_stream(thing, find_mix(guest, to))
    else:
        raise ConfigError(f"{printable(key)}: only streams and listeners can be moved")


# Gains are bounded and must be finite: a NaN in a matrix would make everything that is mixed through it NaN, for
# every listener of the sink.
def parse_matrix(rows: object) -> Matrix | None:
    """Parse a matrix from JSON: a list of rows (source channels) of numbers (target channels)."""
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
    """`millrace link`: link a stream or sink to another sink as well, with its own mix matrix if given."""
    found.guest.graph.link(found.node, find_mix(found.guest, to), matrix)


def unlink(found: Found, to: str) -> None:
    """`millrace unlink`. A stream must keep at least one link; to silence it, mute it."""
    node = found.node
    if isinstance(node, Stream) and len(node.links) == 1:
        raise GraphError(f"{printable(found.key)} has no other link; mute it or move it")
    found.guest.graph.unlink(node, find_mix(found.guest, to))


def demand_sink_name(guest: Guest, name: str) -> None:
    """ConfigError or GraphError if a new sink can't have this name."""
    parse_name(name, "sink name")
    if guest.graph.name_taken(name):
        raise GraphError(f"a sink named {name!r} already exists")


def removable(guest: Guest, name: str) -> Sink:
    """The sink to remove. One other must remain, not counting sinks made by modules, which may end at any time."""
    graph = guest.graph
    sink = find_sink(guest, name)
    if sink is None or sink in graph.leaving:
        raise missing_sink(guest.name, name, (sink.name for sink in graph.sinks.values()))
    made = {mix for door in guest.doors for mix in door.mixes()}
    if not any(other is not sink for other in graph.sinks.values() if other not in made | graph.leaving):
        raise GraphError("this is the guest's only sink; add another first")
    return sink
