"""All sessions. mypy checks them against the contract's types, tests/unit/test_wire_contract.py against its laws."""

from __future__ import annotations

from typing import TypeAlias

from millrace.wire.contract import ByteWire, ChunkWire, MessageWire
from millrace.wire.native.session import NativeWire
from millrace.wire.peer.session import PeerClient, PeerServer
from millrace.wire.peer.viewing import ViewClient, ViewServer
from millrace.wire.pulse.client import PulseClientSession
from millrace.wire.pulse.session import PulseSession
from millrace.wire.qemu.audio import AudioPeer
from millrace.wire.qemu.client import DisplayClient
from millrace.wire.qemu.dbus import DBusWire
from millrace.wire.qemu.display import ScreenPeer
from millrace.wire.qemu.qmp import QmpHandover
from millrace.wire.spice.channel import SpiceChannel
from millrace.wire.spice.cursor import SpiceCursor
from millrace.wire.spice.display import SpiceDisplay
from millrace.wire.spice.inputs import SpiceInputs
from millrace.wire.spice.main import SpiceMain
from millrace.wire.vnc.client import VncClient
from millrace.wire.x11.client import X11Client

AnyWire: TypeAlias = ByteWire[object] | ChunkWire[object] | MessageWire[object]
OVER_BYTES: tuple[type[ByteWire[object]], ...] = (
    PulseSession, PulseClientSession, SpiceMain, SpiceChannel, SpiceDisplay, SpiceCursor, SpiceInputs, VncClient,
)  # fmt: skip
OVER_CHUNKS: tuple[type[ChunkWire[object]], ...] = (
    NativeWire, DBusWire, AudioPeer, ScreenPeer, DisplayClient, QmpHandover, X11Client,
)  # fmt: skip
OVER_MESSAGES: tuple[type[MessageWire[object]], ...] = (PeerServer, PeerClient, ViewServer, ViewClient)
EVERY: tuple[type[AnyWire], ...] = (*OVER_BYTES, *OVER_CHUNKS, *OVER_MESSAGES)
