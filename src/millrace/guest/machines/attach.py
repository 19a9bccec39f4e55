"""Attaching machines: which class serves which kind of door."""

from __future__ import annotations

from collections.abc import Callable

from millrace.errors import GraphError
from millrace.guest.home import Home
from millrace.guest.machines.address import DoorSpec
from millrace.guest.machines.attached import AttachedMachine, DemandPlace, anywhere

DOORS_MAX = 64
"""Doors of one guest; each keeps retrying for as long as it exists."""


# A protocol's modules are imported when the first machine that uses it is attached.


def _qemu() -> type[AttachedMachine]:
    from millrace.guest.machines.qemu import QemuMachine

    return QemuMachine


def _spice() -> type[AttachedMachine]:
    from millrace.guest.machines.spice import SpiceMachine

    return SpiceMachine


def _vnc() -> type[AttachedMachine]:
    from millrace.guest.machines.vnc import VncMachine

    return VncMachine


def _x11() -> type[AttachedMachine]:
    from millrace.guest.machines.x11 import X11Machine

    return X11Machine


KINDS: dict[str, Callable[[], type[AttachedMachine]]] = {
    "qmp": _qemu, "dbus": _qemu, "p2p": _qemu, "spice": _spice, "vnc": _vnc, "x11": _x11,
}  # fmt: skip
"""Loaders by `DoorSpec.kind`."""


def attach(id_: int, guest: Home, spec: DoorSpec, demand_place: DemandPlace = anywhere) -> AttachedMachine:
    """Start looking for a machine; GraphError if the guest already has that door and it is attached.

    An existing door that is not attached retries at once with the new settings. A SPICE or VNC door that was
    displaced by another viewer thereby reconnects and displaces that viewer in turn. `demand_place` raises GraphError
    if it may not be attached where it is found.
    """
    attached = (one for one in guest.machines if isinstance(one, AttachedMachine))
    # Several machines may share a bus, under one address. A connection that was handed over is new whatever it is
    # called: its descriptor may have belonged to one that has ended and is about to go.
    same = [other for other in attached if (other.spec.text, other.spec.vm) == (spec.text, spec.vm)]
    twin = same[0] if same and spec.connection is None else None
    if twin is not None and twin.retake(spec, demand_place):
        return twin
    if twin is not None:
        change = f"; to change its password file or CA, detach it first: `millrace detach {twin.key}`"
        why = change if spec.kind in ("spice", "vnc", "x11") else f" as {twin.key}"
        raise GraphError(f"{spec.text} is already attached to guest {guest.name}{why}")
    if len(guest.machines) >= DOORS_MAX:
        raise GraphError(f"guest {guest.name} has {DOORS_MAX} doors, the maximum; detach one")
    machine = KINDS[spec.kind]()(id_, guest, spec)
    guest.machine_changed("new", machine)
    machine.start(demand_place)
    return machine
