"""The client's side of a SPICE session's main channel, which gives the session ID and the list of channels."""

from __future__ import annotations

import struct

from millrace.dsp.convert import Buffer
from millrace.errors import PeerLost
from millrace.units import NS_PER_S, HostNs
from millrace.wire.contract import AnswerDue
from millrace.wire.spice.agent import SpiceAgent
from millrace.wire.spice.channel import ChannelKind, Encrypt, SpiceChannel, SpiceMessage
from millrace.wire.spice.messages import (
    ATTACH_CHANNELS,
    MOUSE_ABSOLUTE,
    REQUEST_MOUSE_MODE,
    ChannelsList,
    MainEvent,
    MainInit,
    MouseMode,
    main_event,
)

ANSWER_NS = 10 * NS_PER_S


class SpiceMain(AnswerDue):
    """Asks for the list of channels as soon as the session is initialized."""

    def __init__(self, password: str, encrypt: Encrypt, now_ns: HostNs) -> None:
        self._channel = SpiceChannel(ChannelKind.MAIN, 0, 0, password, encrypt, now_ns)
        self.agent = SpiceAgent(self._channel)
        # When the list of channels must be there. The main channel's own link has the same deadline, and the list can't
        # come before it, so this one covers both.
        self._answer_by_ns = now_ns + ANSWER_NS
        self._events: list[MainEvent] = []

    def receive(self, data: Buffer, now_ns: HostNs) -> None:
        """Take bytes; RemoteProtocolError ends the session. While `unfinished`, it must be called again."""
        if self.agent.behind:
            assert not data, "nothing is read while it is unfinished"
            self.agent.read()
        else:
            self._channel.receive(data, now_ns)
            for message in self._channel.events():
                self._message(message)
        self.agent.go_on()

    def _message(self, message: SpiceMessage) -> None:
        event = main_event(message)
        if event is not None:
            self._told(event)
        self.agent.take(message)

    def _told(self, event: MainEvent) -> None:
        if isinstance(event, MainInit):
            self._channel.send_message(ATTACH_CHANNELS)
            self._prefer_absolute(event.mouse)
        elif isinstance(event, MouseMode):
            self._prefer_absolute(event)
        # It comes again, with the new channel alone, when QEMU opens a sound card late.
        elif isinstance(event, ChannelsList):
            self._answer_by_ns = None
        self._events.append(event)

    # A machine gets its tablet when its driver has started, and begins with a mouse.
    def _prefer_absolute(self, mouse: MouseMode) -> None:
        if mouse.possible & MOUSE_ABSOLUTE and mouse.current != MOUSE_ABSOLUTE:
            self._channel.send_message(REQUEST_MOUSE_MODE, struct.pack("<H", MOUSE_ABSOLUTE))

    @property
    def unfinished(self) -> bool:
        """See `AnswerDue`: also while there is more of the agent's to read, or of a text to send."""
        return self._channel.unfinished or self.agent.unfinished

    @property
    def partial_bytes(self) -> int:
        """Bytes received of messages that are still incomplete, or were not processed, and of a text."""
        return self._channel.partial_bytes + self.agent.held_bytes

    def events(self) -> list[MainEvent]:
        """The events since the last call."""
        out, self._events = self._events, []
        return out

    def data_to_send(self) -> bytes:
        """See `Sender`."""
        return self._channel.data_to_send()

    def _overdue(self) -> PeerLost:
        return PeerLost("the SPICE server does not answer; it may be stopped")
