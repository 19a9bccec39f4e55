"""Loaded modules: what each has created, and how that is removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from millrace.absent import nothing
from millrace.dsp.channels import Matrix, mix_matrix
from millrace.graph.graph import Graph
from millrace.graph.model import Sink, Stream
from millrace.rights.grants import Permission, Subject


class Feed(NamedTuple):
    """A link between two mixes, made by a module. With `recorded`, it is at the source's level, like a recorder."""

    start: Sink
    target: Sink
    matrix: Matrix | None
    recorded: bool


class Loop(Protocol):
    """What a module plays and records by itself."""

    def end(self) -> None:
        """The module is unloaded. Called once."""
        ...


BUILT_IN = {
    "module-native-protocol-unix": "Native protocol (UNIX sockets)",
    "module-stream-restore": "Automatically restore the volume/mute/device state of streams",
    "module-device-restore": "Automatically restore the volume/mute state of devices",
    "module-default-device-restore": "Automatically restore the default sink and source",
    "module-always-sink": "Always keeps at least one sink loaded even if it's a null one",
}
"""Modules that every guest has from the start, by PulseAudio's names."""


def unnoted(mix: Sink) -> None:
    """For a module to which a new sink or source makes no difference."""


@dataclass(slots=True, eq=False)
class Module:
    """A module: the sinks and sources it created, its links, and the devices it depends on."""

    index: int
    name: str
    argument: str
    description: str = ""
    mixes: list[Sink] = field(default_factory=list)
    feeds: list[Feed] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    """Streams that play sound the module generates."""
    masters: list[Sink] = field(default_factory=list)
    """Devices the module depends on: when one of them is removed, it is unloaded."""
    recorder: tuple[Permission, Subject] | None = None
    """For a module that records: the permission needed, and the subject that loaded it."""
    fixed: bool = False
    """Whether it is part of the guest and can't be unloaded."""
    loops: list[Loop] = field(default_factory=list)
    end: Callable[[], None] = nothing
    """Further clean-up when it is unloaded."""
    greet: Callable[[Sink], None] = unnoted
    """Called for every new sink or source."""

    @property
    def kind(self) -> str:
        """What it is a module of: its name, which clients may give with the ending of a file (`kind_of`)."""
        return kind_of(self.name)


def kind_of(name: str) -> str:
    """The name of a module without `.so`. PulseAudio loads both, and lists the name that was given."""
    return name.removesuffix(".so")


def feed(graph: Graph, one: Feed) -> None:
    """Make a feed's link, or update it to a new level of the recorded source."""
    gains = np.asarray(one.start.recorded.effective_gains, np.float32)
    if not one.recorded or (gains == 1.0).all():
        graph.link(one.start, one.target, one.matrix)
        return
    base = one.matrix if one.matrix is not None else mix_matrix(one.start.positions, one.target.positions)
    if base is None:
        base = np.eye(len(gains), dtype=np.float32)
    graph.link(one.start, one.target, gains[:, None] * base)


def listened_to(source: Sink) -> bool:
    """Whether anything records a source, or another source derived from it."""
    return any(tap.active for tap in source.taps) or any(listened_to(link.target) for link in source.links)


# What depends on something goes before it. A removed sink passes its streams on to the default sink, so the module's
# own streams must be gone first, or a tone would continue there. Loops come before all, as they belong to the objects
# made last.
def unmake(graph: Graph, module: Module) -> None:
    """Remove everything a module created. Streams on its sinks move to the default sink."""
    module.end()
    for loop in module.loops:
        loop.end()
    for stream in module.streams:
        graph.remove_stream(stream)
    for one in module.feeds:
        if any(link.target is one.target for link in one.start.links):
            graph.unlink(one.start, one.target)
    for mix in module.mixes:
        if mix.id in graph.sources:
            graph.remove_source(mix)
        else:
            graph.remove_sink(mix)
