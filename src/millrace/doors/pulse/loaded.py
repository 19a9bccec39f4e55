"""A loaded module: what it has made, and how that is taken away again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from millrace.dsp.channels import Matrix, mix_matrix
from millrace.graph.graph import Graph
from millrace.graph.model import Sink, Stream
from millrace.rights.grants import Permission, Subject


class Feed(NamedTuple):
    """One mix that a module feeds into another; `recorded` if it takes it as a recorder does, at the source's level."""

    start: Sink
    target: Sink
    matrix: Matrix | None
    recorded: bool


BUILT_IN = {
    "module-native-protocol-unix": "Native protocol (UNIX sockets)",
    "module-stream-restore": "Automatically restore the volume/mute/device state of streams",
    "module-device-restore": "Automatically restore the volume/mute state of devices",
    "module-default-device-restore": "Automatically restore the default sink and source",
    "module-always-sink": "Always keeps at least one sink loaded even if it's a null one",
}
"""What every guest does by itself, by PulseAudio's names for it."""


@dataclass(slots=True, eq=False)
class Module:
    """A module: the sinks and sources it made, what it feeds where, and what it stands on."""

    index: int
    name: str
    argument: str
    description: str = ""
    mixes: list[Sink] = field(default_factory=list)
    feeds: list[Feed] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    """Those that play what it makes itself."""
    masters: list[Sink] = field(default_factory=list)
    """Without these it is nothing: it goes with them."""
    recorder: tuple[Permission, Subject] | None = None
    """For one that records: what its loader must be allowed, and who that is."""
    fixed: bool = False
    """It is the guest itself, and can't be unloaded."""
    undo: Callable[[], None] = lambda: None
    """What else ends with it."""
    greet: Callable[[Sink], None] = lambda mix: None
    """What it does about a sink or source that is new."""


def feed(graph: Graph, one: Feed) -> None:
    """Put a feed in force, or change it to another level of what it records."""
    gains = np.asarray(one.start.recorded.effective_gains, np.float32)
    if not one.recorded or (gains == 1.0).all():
        graph.link(one.start, one.target, one.matrix)
        return
    base = one.matrix if one.matrix is not None else mix_matrix(one.start.positions, one.target.positions)
    if base is None:
        base = np.eye(len(gains), dtype=np.float32)
    graph.link(one.start, one.target, gains[:, None] * base)


def listened_to(source: Sink) -> bool:
    """Whether anything records a source, or what is made of it."""
    return any(tap.active for tap in source.taps) or any(listened_to(link.target) for link in source.links)


def unmake(graph: Graph, module: Module) -> None:
    """Take away what a module has made; what played on its sinks goes on at the default one."""
    module.undo()
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
