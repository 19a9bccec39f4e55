"""The right that each command needs. Commands not listed only query, or concern the client's own streams."""

from __future__ import annotations

from millrace.rights.model import Right
from millrace.wire.pulse.constants import Command

_C = Command
NEEDS: dict[Command, Right] = {
    _C.CREATE_PLAYBACK_STREAM: Right.SPEAK,
    _C.CREATE_UPLOAD_STREAM: Right.SPEAK,
    _C.PLAY_SAMPLE: Right.SPEAK,
    _C.CREATE_RECORD_STREAM: Right.HEAR,
    _C.SET_SINK_VOLUME: Right.CONTROL,
    _C.SET_SINK_MUTE: Right.CONTROL,
    _C.SET_SOURCE_VOLUME: Right.CONTROL,
    _C.SET_SOURCE_MUTE: Right.CONTROL,
    _C.SET_SINK_INPUT_VOLUME: Right.CONTROL,
    _C.SET_SINK_INPUT_MUTE: Right.CONTROL,
    _C.SET_SOURCE_OUTPUT_VOLUME: Right.CONTROL,
    _C.SET_SOURCE_OUTPUT_MUTE: Right.CONTROL,
    _C.MOVE_SINK_INPUT: Right.CONTROL,
    _C.MOVE_SOURCE_OUTPUT: Right.CONTROL,
    _C.SUSPEND_SINK: Right.CONTROL,
    _C.SUSPEND_SOURCE: Right.CONTROL,
    _C.KILL_CLIENT: Right.CONTROL,
    _C.KILL_SINK_INPUT: Right.CONTROL,
    _C.KILL_SOURCE_OUTPUT: Right.CONTROL,
    _C.SET_DEFAULT_SINK: Right.CONTROL,
    _C.SET_DEFAULT_SOURCE: Right.CONTROL,
    _C.REMOVE_SAMPLE: Right.CONTROL,
    _C.LOAD_MODULE: Right.LINK,
    _C.UNLOAD_MODULE: Right.LINK,
}
OF_INPUT = frozenset({_C.SET_SINK_INPUT_VOLUME, _C.SET_SINK_INPUT_MUTE, _C.KILL_SINK_INPUT})
OF_OUTPUT = frozenset({_C.SET_SOURCE_OUTPUT_VOLUME, _C.SET_SOURCE_OUTPUT_MUTE, _C.KILL_SOURCE_OUTPUT})
"""Commands that need no right on the client's own streams: on sink inputs, and on source outputs."""
