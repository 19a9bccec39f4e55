"""module-stream-restore: the group of a client's stream, and the stored settings that a new stream gets."""

from __future__ import annotations

from millrace.doors.pulse.formats import prop_text
from millrace.dsp.mix import cubic_to_gain
from millrace.graph.model import Stream
from millrace.remembered.streams import GROUPED_BY, OUTPUT, Rules, group_of
from millrace.wire.pulse.tagstruct import Props


def group_of_props(props: Props, kind: str = OUTPUT) -> str:
    """The group of a stream with these properties of a PulseAudio client."""
    return group_of({key: prop_text(props, key) for key in GROUPED_BY}, kind)


# Called before the stream is in the graph, so it is never heard at another level or on another sink. What its client
# chose itself prevails, each of volume, mute and sink on its own.
def give(rules: Rules, stream: Stream, name: str) -> str:
    """Apply its group's level to a new stream; return its sink, '' for none. The stream's own choices prevail."""
    rule = rules.restored(name)
    if rule is None:
        return ""
    if "volume" not in stream.chosen:
        levels = rule.fitted(stream.positions)
        stream.gains = tuple(cubic_to_gain(level) for level in levels) or stream.gains
    if "mute" not in stream.chosen and rule.mute is not None:
        stream.mute = rule.mute
    return "" if "sink" in stream.chosen else rule.device
