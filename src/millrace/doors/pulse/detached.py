"""Streams and recorders that are handed on: their nodes stay in the graph, silent, until another object continues."""

from __future__ import annotations

from millrace.doors.pulse.door import PulseDoor
from millrace.doors.pulse.playback import Owner, PlaybackStream
from millrace.doors.pulse.record import RecordStream
from millrace.doors.pulse.state import PlaybackState, RecordState
from millrace.graph.model import NOTHING


def detach_playback(door: PulseDoor, stream: PlaybackStream) -> PlaybackState:
    """Take a stream off its node; return its state."""
    del door.playback[stream.node.id]
    stream.node.feed = NOTHING
    return stream.freeze()


def detach_record(door: PulseDoor, record: RecordStream) -> RecordState:
    """Take a recorder off its node; return its state."""
    del door.records[record.node.id]
    record.node.consumer = NOTHING
    return record.freeze()


def attach_playback(door: PulseDoor, stream: PlaybackStream) -> None:
    """Put a stream that continues on its node."""
    door.playback[stream.node.id] = stream.node.feed = stream


def attach_record(door: PulseDoor, record: RecordStream) -> None:
    """Put a recorder that continues on its node."""
    door.records[record.node.id] = record.node.consumer = record


def resume_playback(door: PulseDoor, id_: int, state: PlaybackState, owner: Owner) -> PlaybackStream | None:
    """Continue a stream; None if its node was removed meanwhile."""
    node = door.graph.streams.get(id_)
    if node is None:
        return None
    stream = PlaybackStream(owner, state, node, door.graph)
    attach_playback(door, stream)
    return stream
