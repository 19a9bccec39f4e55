"""What is remembered of a guest's sinks and sources: their levels, and which are the default ones, all by name.

As PulseAudio's module-device-restore and module-default-device-restore do it. What is remembered outlives the sink: one
that comes back under its name has its level again, and is the default again if it was.

A change is in force at once, since sound waits for no disk, and acknowledged when it is kept. One that can't be kept is
undone, and its client told so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from millrace.doors.pulse.channelmaps import volume_for
from millrace.dsp.mix import cubic_to_gain, gain_to_cubic
from millrace.units import Positions, default_map

Level = tuple[tuple[float, ...], bool]
"""Gains and mute."""
Key = tuple[str, str]
"""(what, name): a level is of a `sink`, a `source`, or of what is `recorded` of one; a `default` is of a kind."""
Value = Level | str
RECORDED, DEFAULT = "recorded", "default"
LEVELS_MAX = 1000
"""Levels that are kept of one guest: sinks come and go, and theirs outlive them. Beyond that the oldest go."""
RESTORED = frozenset({"volume", "muted"})


class DeviceUpdate(NamedTuple):
    """A value that is to be kept; `done` is told whether it was."""

    key: Key
    done: Callable[[bool], None]


class Devices:
    """One guest's."""

    def __init__(self, keep: Keep | None = None) -> None:
        """`keep` has updates written to disk; else nothing outlives the table."""
        self.now: dict[Key, Value] = {}
        """What is in force, or would be if the device was there."""
        self.kept: dict[Key, Value] = {}
        self._submit = self._at_once if keep is None else keep(self)
        self.restores = RESTORED
        """What devices get of their levels; nothing while module-device-restore is not loaded."""
        self.keeps_defaults = True
        """Whether module-default-device-restore is loaded."""

    def stop(self) -> None:
        """Levels are neither given nor kept any more."""
        self.restores = frozenset()

    def stop_defaults(self) -> None:
        """Defaults are not kept any more; the one of now is still known by name."""
        self.keeps_defaults = False

    def load(self, kept: Mapping[Key, Value]) -> None:
        """Take up what was kept."""
        self.kept, self.now = dict(kept), dict(kept)

    def learn(self, key: Key, value: Value) -> None:
        """It has been kept, and put in force, by somebody else."""
        self._put(self.now, key, value)
        self._put(self.kept, key, value)

    def set(self, key: Key, value: Value, done: Callable[[bool], None]) -> None:
        """A change was made: `done` hears whether it is kept."""
        before = self.now.get(key)
        self._put(self.now, key, value)
        kept = self.keeps_defaults if key[0] == DEFAULT else bool(self.restores)
        if not kept or before == value == self.kept.get(key):
            done(True)
        else:
            self._submit(DeviceUpdate(key, done))

    def was_kept(self, values: Mapping[Key, Value]) -> None:
        """These are on disk."""
        for key, value in values.items():
            self._put(self.kept, key, value)

    def was_not_kept(self, values: Mapping[Key, Value]) -> None:
        """These could not be kept: what has not changed again since goes back."""
        for key, value in values.items():
            if self.now.get(key) != value:
                continue
            if key in self.kept:
                self.now[key] = self.kept[key]
            else:
                del self.now[key]
            self.undo(key)

    def level(self, key: Key, positions: Positions) -> Level | None:
        """The level of a device with these channels. Of another number of them, the usual map is assumed."""
        value = self.now.get(key)
        if value is None or isinstance(value, str):
            return None
        gains, mute = value
        if len(gains) != len(positions):
            # As PulseAudio: means of the volumes as they are shown, not of what they do.
            shown = tuple(map(gain_to_cubic, gains))
            gains = tuple(map(cubic_to_gain, volume_for(shown, default_map(len(gains)), positions)))
        return gains, mute

    def default(self, kind: str) -> str:
        """The name of the default sink or source that somebody chose, '' for none."""
        value = self.now.get((DEFAULT, kind), "")
        return value if isinstance(value, str) else ""

    def undo(self, key: Key) -> None:
        """`now` has gone back for that key: so should the device."""

    def _at_once(self, update: DeviceUpdate) -> None:
        self._put(self.kept, update.key, self.now[update.key])
        update.done(True)

    @staticmethod
    def _put(values: dict[Key, Value], key: Key, value: Value) -> None:
        values.pop(key, None)
        values[key] = value
        if len(values) > LEVELS_MAX:
            for oldest in [key for key in values if key[0] != DEFAULT][:-LEVELS_MAX]:
                del values[oldest]


Keep = Callable[[Devices], Callable[[DeviceUpdate], None]]
"""Takes a table on, and gives where its updates go."""
