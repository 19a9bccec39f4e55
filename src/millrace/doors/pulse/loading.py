"""A module being loaded: creates its objects, and registers each so that it can be removed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from millrace.doors.admission import permission_of
from millrace.doors.pulse.client import PulseClient
from millrace.doors.pulse.door import PulseDoor
from millrace.doors.pulse.formats import prop_text
from millrace.doors.pulse.loaded import Feed, Module, feed
from millrace.doors.pulse.modargs import Args, wrong
from millrace.dsp.channels import Matrix
from millrace.graph.model import Sink
from millrace.media.format import AudioFormat
from millrace.units import Positions

MIXES_MAX = 128
"""With this many sinks and sources in a guest, modules can't add any: the rest is left for `millrace sink add`."""
NAME_MAX = 128


@dataclass(slots=True)
class Loading:
    """A module being loaded, with the client that loads it and the arguments."""

    client: PulseClient
    args: Args
    module: Module

    @property
    def door(self) -> PulseDoor:
        """The door in which it is loaded."""
        return self.client.door

    def sink(self, fmt: AudioFormat, name: str, description: str, kind: str) -> Sink:
        """Create a sink, under the requested name if one was given."""
        return self._made(self.door.graph.add_sink, "sink", fmt, name, description, kind)

    def source(self, fmt: AudioFormat, name: str, description: str, kind: str) -> Sink:
        """Create a source, under the requested name if one was given."""
        return self._made(self.door.graph.add_source, "source", fmt, name, description, kind)

    def _made(
        self, make: Callable[[str, str, Positions], Sink], what: str, fmt: AudioFormat, name: str, description: str,
        kind: str,
    ) -> Sink:  # fmt: skip
        if sum(1 for _ in self.door.graph.mixes()) >= MIXES_MAX:
            raise wrong(f"this guest already has {MIXES_MAX} sinks and sources; modules can add no more")
        props = {"device.class": kind.encode(), **self.args.props(f"{what}_properties")}
        text = prop_text(props, "device.description") or description
        asked = self.args.text(f"{what}_name")
        mix = make(free_name(self.door, name if asked is None else asked), text, fmt.positions)
        mix.props = {key: prop_text(props, key) for key in props}
        self.door.declared[mix.id] = fmt
        self.module.mixes.append(mix)
        return mix

    def link(self, source: Sink, target: Sink, matrix: Matrix | None = None) -> None:
        """Link one mix to another while the module is loaded."""
        if any(link.target is target for link in source.links):
            raise wrong(f"{source.name} already plays on {target.name}")
        one = Feed(source, target, matrix, self.module.recorder is not None)
        feed(self.door.graph, one)
        self.module.feeds.append(one)

    # To be called before the module links anything: a link made while `recorder` is set carries the source's
    # recording level and mute (`Feed.recorded`), as every recorder's sound does.
    def records(self, source: Sink) -> None:
        """The module records `source`: its loader must be allowed to, and if that changes the module is unloaded."""
        self.door.admission.demand(permission_of(source), self.client.subject)
        self.module.recorder = permission_of(source), self.client.subject

    def choice(self, *keys: str) -> str | None:
        """The value of an argument that has several names."""
        given = [value for key in keys if (value := self.args.text(key)) is not None]
        if len(given) > 1:
            raise wrong(f"{' and '.join(keys)} mean the same: give one of them")
        return given[0] if given else None


def free_name(door: PulseDoor, wanted: str) -> str:
    """A valid name by PulseAudio's rules: letters, digits and `.-_`. A number is appended if the name is taken."""
    if not 0 < len(wanted) <= NAME_MAX:
        raise wrong(f"a name has 1 to {NAME_MAX} characters")
    base = name = re.sub(r"[^A-Za-z0-9._-]", "_", wanted)
    serial = 2
    while door.name_taken(name):
        name, serial = f"{base}.{serial}", serial + 1
    return name
