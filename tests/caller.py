"""A client of a PulseAudio door without a connection: requests are values, and so are answers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from millrace.doors.pulse.client import Handler, PulseClient
from millrace.doors.pulse.formats import code_of
from millrace.doors.pulse.handlers import HANDLERS
from millrace.doors.pulse.state import ClientState
from millrace.errors import MillraceError
from millrace.rights.grants import Subject
from millrace.sim.rig import Rig
from millrace.wire.pulse.client import playback_fields, record_fields
from millrace.wire.pulse.constants import Command, Err
from millrace.wire.pulse.session import Request
from millrace.wire.pulse.tagstruct import Props, Spec


class Furnished(Rig):
    """A guest with a second sink and a source."""

    def __init__(self) -> None:
        super().__init__()
        self.music = self.graph.add_sink("music", "Music")
        self.source = self.graph.add_source("microphone", "Microphone")


class Records:
    """Stands in for the writer of an answer of many records."""

    size = 0

    def __init__(self, tag: int) -> None:
        self.tag = tag
        self.added: list[Mapping[str, Any]] = []

    def add(self, record: Mapping[str, Any]) -> None:
        self.added.append(record)


class Caller(PulseClient):
    """An authenticated client. It is served by `handlers`, and stores its answers and events."""

    def __init__(
        self, rig: Rig, handlers: Mapping[Command, Handler] = HANDLERS, trusted: bool = True, props: Props | None = None
    ) -> None:
        state = ClientState(rig.graph.ids.take(), Subject(ours=trusted), known=True, ready=True, props=props or {})
        state.client_index = rig.door.indexes.clients.take()
        self.answers: dict[int, Any] = {}
        self.told: list[tuple[Command, dict[str, Any]]] = []
        self.sent: list[tuple[int, bytes]] = []
        self.steps = 0
        self._tags = count()
        super().__init__(rig.door, handlers, state)
        self.over = self._stepped

    def _stepped(self) -> bool:
        self.steps += 1
        return False

    def ask(self, command: Command, **fields: Any) -> Any:
        """The fields of the answer, the records of a list, or the error; None if there is no answer yet."""
        tag = self.send(command, **fields)
        return self.answers.get(tag)

    def send(self, command: Command, **fields: Any) -> int:
        """Make a request without looking at its answer; returns its tag."""
        tag = next(self._tags)
        self._request(Request(command, tag, fields))
        self._go_on()
        return tag

    def play(self, spec: Spec, numbers: tuple[int, ...], **changes: Any) -> Any:
        """Create a playback stream; returns the answer."""
        return self.ask(Command.CREATE_PLAYBACK_STREAM, **playback_fields(spec, numbers, **changes))

    def record(self, spec: Spec, numbers: tuple[int, ...], **changes: Any) -> Any:
        """Create a recorder; returns the answer."""
        return self.ask(Command.CREATE_RECORD_STREAM, **record_fields(spec, numbers, **changes))

    def named(self, command: Command) -> list[dict[str, Any]]:
        """The messages of one kind that were sent to it."""
        return [fields for told, fields in self.told if told is command]

    # -- instead of the connection -------------------------------------------------------------

    def reply(self, request: Request, values: Mapping[str, Any] | None = None) -> None:
        """See `PulseClient`."""
        self.answers[request.tag] = dict(values or {})

    def fail(self, request: Request, code: Err) -> None:
        """See `PulseClient`."""
        self.answers[request.tag] = code

    def _refuse(self, request: Request, error: MillraceError) -> None:
        self.answers[request.tag] = code_of(error)

    def begin_records(self, request: Request, command: Command) -> Any:
        """See `PulseClient`."""
        return Records(request.tag)

    def end_records(self, reply: Any) -> None:
        """See `PulseClient`."""
        self.answers[reply.tag] = reply.added

    def records_reply(self, request: Request, command: Command, records: list[dict[str, Any]]) -> None:
        """See `PulseClient`."""
        self.answers[request.tag] = records

    def notice(self, command: Command, **values: Any) -> None:
        """See `PulseClient`."""
        self.told.append((command, values))

    def send_block(self, channel: int, data: bytes) -> None:
        """See `PulseClient`."""
        self.sent.append((channel, data))
