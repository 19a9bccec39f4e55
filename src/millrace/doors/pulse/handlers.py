"""The table of all commands that the PulseAudio door serves."""

from __future__ import annotations

from millrace.doors.pulse import control, extensions, modules, query, streams
from millrace.doors.pulse.client import Handler
from millrace.wire.pulse.constants import Command

HANDLERS: dict[Command, Handler] = {
    **control.HANDLERS,
    **modules.HANDLERS,
    **extensions.HANDLERS,
    **query.HANDLERS,
    **streams.HANDLERS,
}
