"""Stored settings of streams: levels and devices, by the groups of PulseAudio's module-stream-restore.

Each guest has one such table. The doors apply a group's settings to its new streams, the session manager stores in it
what users set, and PulseAudio clients read and write it through the stream-restore extension.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from millrace.absent import nothing
from millrace.dsp.channels import volume_for
from millrace.units import MAX_CHANNELS, POSITIONS, Positions

RULES_MAX = 1000
"""Rules of one guest; beyond this, the oldest are dropped."""
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
GROUPED_BY = (GROUP_PROPERTY, *(key for key, _ in _BY))
"""Properties that determine a stream's group."""
_LEVEL_MAX = 0x7FFFFFFF
_DEVICE = {OUTPUT: "sink", INPUT: "source"}


def group_of(props: Mapping[str, str], kind: str = OUTPUT) -> str:
    """A stream's group: the one it gives itself, else by its role, its application, or its name."""
    if props.get(GROUP_PROPERTY):
        return props[GROUP_PROPERTY][:GROUP_MAX]
    for key, word in _BY:
        if props.get(key):
            return f"{kind}-by-{word}:{props[key]}"[:GROUP_MAX]
    return f"{kind}-fallback:{kind}"


class Rule(msgspec.Struct, frozen=True):
    """Settings of a group's streams. `levels` are volumes for `positions`, on the scale of `dsp.mix.CUBIC_NORM`.

    Empty fields don't apply.
    """

    levels: tuple[int, ...] = ()
    positions: Positions = ()
    mute: bool | None = None
    device: str = ""

    def fitted(self, positions: Positions) -> tuple[int, ...]:
        """Volumes for these channels; empty if no level is stored."""
        return volume_for(self.levels, self.positions, positions) if self.levels else ()


def written(name: str, rule: Rule) -> str:
    """A rule in the form that the session manager and the store use."""
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
    """Parse what this or an earlier daemon wrote (`volume` in percent), ignoring invalid fields."""
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
    """A change to the table, computed when its turn comes; `done` is called with whether it was stored."""

    changes: Callable[[], Changes]
    done: Callable[[bool], None]


# An update computes its changes from what is in force when its turn comes, they are written to disk, and only then
# are they taken over (`take`); what a session manager stores goes the same way. So `kept` never shows a rule that is
# not on disk, and no update is computed from one that fails. The order of `kept` is that of the last change, since
# the oldest rules are the ones that are dropped.
class Rules:
    """One guest's rules."""

    def __init__(self, changed: Callable[[], None] = nothing, keep: Keep | None = None) -> None:
        """`keep` provides storage on disk: updates are stored in order, then applied. Without it nothing is stored."""
        self.kept: dict[str, Rule] = {}
        self._changed = changed
        self.submit = self._at_once if keep is None else keep(self)
        self.restores = RESTORED
        """Which settings are restored; none while module-stream-restore is not loaded."""

    def stop(self) -> None:
        """Stop restoring settings."""
        self.restores = frozenset()

    def restored(self, name: str) -> Rule | None:
        """The settings for a new stream of this group, if any."""
        rule = self.kept.get(name)
        if rule is None or not self.restores:
            return None
        levelled, muted, placed = (what in self.restores for what in ("volume", "muted", "device"))
        return Rule(
            rule.levels if levelled else (), rule.positions if levelled else (),
            rule.mute if muted else None, rule.device if placed else "",
        )  # fmt: skip

    def _at_once(self, update: RuleUpdate) -> None:
        self.take(update.changes())
        update.done(True)

    def take(self, changes: Changes) -> None:
        """Apply changes."""
        for name, rule in changes.items():
            self.kept.pop(name, None)
            if rule is not None:
                self.kept[name] = rule
        while len(self.kept) > RULES_MAX:
            del self.kept[next(iter(self.kept))]
        if changes:
            self._changed()

    def load(self, kept: Mapping[str, str]) -> dict[str, str | None]:
        """Load stored rules; return the changes that convert an earlier daemon's entries to the present form."""
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
"""Registers a table for storage; returns the function to submit its updates to."""


def _of_before(key: str, rule: Rule) -> tuple[str, Rule]:
    """Convert an old `application/role` key. The sink `default`, then the first sink's name, meant the default sink."""
    label, _, role = key.rpartition("/")
    name = group_of({"media.role": role, "application.name": label})
    return name, Rule(rule.levels, rule.positions, rule.mute, "" if rule.device == "default" else rule.device)
