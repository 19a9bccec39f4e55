"""What is restored of a stored guest."""

from __future__ import annotations

import logging

from millrace.control.rules import never
from millrace.control.store import StoredGuest
from millrace.errors import GraphError
from millrace.guest.guest import Guest
from millrace.remembered.devices import DEFAULT
from millrace.rights.grants import ANY

log = logging.getLogger("millrace.daemon")


def restore(guest: Guest, kept: StoredGuest) -> None:
    """Restore a guest's sinks, levels and rules. Stored rules override those of the configuration."""
    defaults = {(DEFAULT, kind): name for kind, name in kept.defaults.items()}
    guest.devices.load({**kept.levels, **defaults})
    guest.devices.restore_all()
    _restore_sinks(guest, kept.sinks)
    guest.pulse.door.count_devices_anew()
    rules = [(what, ANY, verdict) for what, verdict in guest.config.grants]
    for what, program, verdict in (*rules, *kept.grants):
        guest.admission.grants.set(what, program, verdict)
    for what, program, _ in kept.grants:
        if why := never(program):
            log.warning("guest %s: a rule about %s: %s", guest.name, what.value, why)


# A row of the sink that a guest begins with says that it was removed, and whether it was made again. It goes after the
# others are there, of which one becomes the default; its former name may be that of one of them.
def _restore_sinks(guest: Guest, sinks: list[tuple[str, str | None]]) -> None:
    """Add stored sinks. One that can't be added must not prevent the others."""
    graph, (first,) = guest.graph, guest.graph.sinks.values()
    if len(sinks) > 1 and first.name in dict(sinks):
        first.aliases = ()
    for name, description in sorted(sinks, key=lambda sink: sink[0] == first.name):
        if name == first.name and len(graph.sinks) == 1:
            continue
        try:
            if name == first.name:
                graph.remove_sink(first)
            if description is not None:
                graph.add_sink(name, description)
        except GraphError as error:
            log.warning("guest %s: its sink %s could not be restored: %s", guest.name, name, error)
