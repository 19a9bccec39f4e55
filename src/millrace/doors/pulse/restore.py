"""What is remembered of streams: levels and places, by the groups of PulseAudio's module-stream-restore.

There is one such table a guest, and one truth: clients read and write it by the stream-restore extension, the session
manager finds in it what a new stream of that group should get, and puts into it what people set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from millrace.doors.pulse.channelmaps import volume_for
from millrace.doors.pulse.formats import prop_text
from millrace.dsp.mix import cubic_to_gain
from millrace.graph.model import Stream
from millrace.units import MAX_CHANNELS, POSITIONS, Positions
from millrace.wire.pulse.tagstruct import Props

RULES_MAX = 1000
"""Rules of one guest; beyond that the oldest go."""
GROUP_MAX = 128
OUTPUT, INPUT = "sink-input", "source-output"
GROUP_PROPERTY = "module-stream-restore.id"
_BY = (
    ("media.role", "media-role"),
    ("application.id", "application-id"),
    ("application.name", "application-name"),
    ("media.name", "media-name"),
)
RESTORED = frozenset({"volume", "muted", "device"})
_GROUPED_BY = (GROUP_PROPERTY, *(key for key, _ in _BY))
"""Properties by which a stream is grouped."""
_LEVEL_MAX = 0x7FFFFFFF
_DEVICE = {OUTPUT: "sink", INPUT: "source"}


def group_of(props: Mapping[str, str], kind: str = OUTPUT) -> str:
    """The group of a stream: what it says itself, else its role, else its application, else its name."""
    if props.get(GROUP_PROPERTY):
        return props[GROUP_PROPERTY][:GROUP_MAX]
    for key, word in _BY:
        if props.get(key):
            return f"{kind}-by-{word}:{props[key]}"[:GROUP_MAX]
    return f"{kind}-fallback:{kind}"


def group_of_props(props: Props, kind: str = OUTPUT) -> str:
    """The same by the properties that a client of PulseAudio gave."""
    return group_of({key: prop_text(props, key) for key in _GROUPED_BY}, kind)


@dataclass(frozen=True, slots=True)
class Rule:
    """What the streams of a group get. `levels` are PulseAudio's volumes by `positions`; what is empty is left."""

    levels: tuple[int, ...] = ()
    positions: Positions = ()
    mute: bool | None = None
    device: str = ""

    def fitted(self, positions: Positions) -> tuple[int, ...]:
        """Volumes for these channels, none where no level is kept."""
        return volume_for(self.levels, self.positions, positions) if self.levels else ()


def written(name: str, rule: Rule) -> str:
    """As the session manager and the store have it."""
    out: dict[str, Any] = {}
    if rule.levels:
        out |= {"levels": rule.levels, "map": ",".join(rule.positions)}
    if rule.mute is not None:
        out["mute"] = rule.mute
    if rule.device:
        kind = _DEVICE[INPUT if name.startswith(INPUT) else OUTPUT]
        out["sink"] = f"{kind}/{rule.device}"
    return json.dumps(out)


def parsed(text: str) -> Rule:
    """What was written, by this or by an earlier daemon (`volume` in percent); nonsense in it is left out."""
    try:
        kept = json.loads(text)
    except ValueError:
        return Rule()
    if not isinstance(kept, dict):
        return Rule()
    mute, device = kept.get("mute"), kept.get("sink")
    levels, positions = _levels(kept)
    return Rule(
        levels, positions, mute if isinstance(mute, bool) else None,
        device.partition("/")[2] if isinstance(device, str) else "",
    )  # fmt: skip


def _levels(kept: dict[str, Any]) -> tuple[tuple[int, ...], Positions]:
    levels, names = kept.get("levels"), kept.get("map")
    percent = kept.get("volume")
    if isinstance(percent, int | float) and not isinstance(percent, bool) and 0 <= percent <= 1000:
        return (round(percent * 655.36),), ("mono",)
    if not isinstance(levels, list) or not isinstance(names, str):
        return (), ()
    positions = tuple(names.split(","))
    sound = all(isinstance(v, int) and 0 <= v <= _LEVEL_MAX for v in levels) and all(p in POSITIONS for p in positions)
    if not sound or len(levels) != len(positions) or len(levels) > MAX_CHANNELS:
        return (), ()
    return tuple(levels), positions


Changes = dict[str, Rule | None]


class RuleUpdate(NamedTuple):
    """A change of the table, worked out when its turn comes; `done` is told whether it was kept."""

    changes: Callable[[], Changes]
    done: Callable[[bool], None]


class Rules:
    """One guest's table."""

    def __init__(self, changed: Callable[[], None] = lambda: None, keep: Keep | None = None) -> None:
        """`keep` has updates written to disk: they come in order, and kept first. Else nothing outlives the table."""
        self.kept: dict[str, Rule] = {}
        self._changed = changed
        self.submit = self._at_once if keep is None else keep(self)
        self.restores = RESTORED
        """What streams get of their rules; nothing while module-stream-restore is not loaded."""

    def stop(self) -> None:
        """Streams get nothing any more."""
        self.restores = frozenset()

    def restored(self, name: str) -> Rule | None:
        """What a new stream of that group gets, if anything."""
        rule = self.kept.get(name)
        if rule is None or not self.restores:
            return None
        levelled, muted, placed = (what in self.restores for what in ("volume", "muted", "device"))
        return Rule(
            rule.levels if levelled else (), rule.positions if levelled else (),
            rule.mute if muted else None, rule.device if placed else "",
        )  # fmt: skip

    def give(self, stream: Stream, name: str) -> str:
        """Give a new stream the level of its group, and return the sink, '' for none; what it chose itself stays."""
        rule = self.restored(name)
        if rule is None:
            return ""
        if "volume" not in stream.chosen:
            levels = rule.fitted(stream.positions)
            stream.gains = tuple(cubic_to_gain(level) for level in levels) or stream.gains
        if "mute" not in stream.chosen and rule.mute is not None:
            stream.mute = rule.mute
        return "" if "sink" in stream.chosen else rule.device

    def _at_once(self, update: RuleUpdate) -> None:
        self.take(update.changes())
        update.done(True)

    def take(self, changes: Changes) -> None:
        """Put changes in force."""
        for name, rule in changes.items():
            self.kept.pop(name, None)
            if rule is not None:
                self.kept[name] = rule
        while len(self.kept) > RULES_MAX:
            del self.kept[next(iter(self.kept))]
        if changes:
            self._changed()

    def load(self, kept: Mapping[str, str]) -> dict[str, str | None]:
        """Take up what was kept; returns what is to be kept instead of what an earlier daemon wrote otherwise."""
        again: dict[str, str | None] = {}
        for key, text in kept.items():
            if key.startswith((f"{OUTPUT}-", f"{INPUT}-")):
                self.kept[key] = parsed(text)
        for key, text in kept.items():
            if key in self.kept:
                continue
            again[key] = None
            name, rule = _of_before(key, parsed(text))
            if name not in self.kept:
                self.kept[name] = rule
                again[name] = written(name, rule)
        return again


Keep = Callable[[Rules], Callable[[RuleUpdate], None]]
"""Takes a table on, and gives where its updates go."""


def _of_before(key: str, rule: Rule) -> tuple[str, Rule]:
    """From `application/role`. A place on the first sink, called `default` then, meant wherever the default is."""
    label, _, role = key.rpartition("/")
    name = group_of({"media.role": role, "application.name": label})
    return name, Rule(rule.levels, rule.positions, rule.mute, "" if rule.device == "default" else rule.device)
