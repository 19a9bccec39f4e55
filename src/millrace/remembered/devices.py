"""Stored settings of a guest's sinks and sources: their levels, and which are the defaults, all by name.

They work as in PulseAudio's module-device-restore and module-default-device-restore, and outlive the sink: one that
returns under the same name gets its level back, and is the default again if it was.

A change takes effect at once, since sound can't wait for the disk, and is acknowledged when it has been stored. If it
can't be stored, it is undone and the client gets an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from millrace.dsp.channels import volume_for
from millrace.dsp.mix import cubic_to_gain, gain_to_cubic
from millrace.units import Positions, default_map

Level = tuple[tuple[float, ...], bool]
"""Gains and mute."""
Key = tuple[str, str]
"""(what, name). Levels are those of a `sink` or `source`, or at which it is `recorded`; a `default` has a kind."""
Value = Level | str
RECORDED, DEFAULT = "recorded", "default"
LEVELS_MAX = 1000
"""Levels stored for one guest, including those of removed sinks. Beyond this, the oldest are dropped."""
RESTORED = frozenset({"volume", "muted"})


class DeviceUpdate(NamedTuple):
    """A value to store; `done` is called with whether that succeeded."""

    key: Key
    done: Callable[[bool], None]


# Two states of every value. `now` is in force: it is heard, and is what an update saves. `kept` is on disk. While
# values are kept at all, the two differ only if an update for that key waits or is being written. If the write fails,
# `now` returns to `kept`, and the device with it, unless the value has changed again since: then a later update is on
# its way, and decides. A value is set and heard before it is stored because a volume that waited for the disk would
# lag behind the slider.
class Devices:
    """The stored device settings of one guest."""

    def __init__(self, keep: Keep | None = None) -> None:
        """`keep` provides storage on disk; without it, settings last only as long as this object."""
        self.now: dict[Key, Value] = {}
        """Current values, also for devices that are not there now."""
        self.kept: dict[Key, Value] = {}
        self._submit = self._at_once if keep is None else keep(self)
        self.restores = RESTORED
        """Which level settings are restored; none while module-device-restore is not loaded."""
        self.keeps_defaults = True
        """Whether module-default-device-restore is loaded."""

    def stop(self) -> None:
        """Stop restoring and storing levels."""
        self.restores = frozenset()

    def stop_defaults(self) -> None:
        """Stop storing defaults. The current one is still known by name."""
        self.keeps_defaults = False

    def load(self, kept: Mapping[Key, Value]) -> None:
        """Load stored values."""
        self.kept, self.now = dict(kept), dict(kept)

    def learn(self, key: Key, value: Value) -> None:
        """Take over a value that was stored and applied elsewhere."""
        self._put(self.now, key, value)
        self._put(self.kept, key, value)

    def set(self, key: Key, value: Value, done: Callable[[bool], None]) -> None:
        """Record a change; `done` is called with whether it was stored."""
        before = self.now.get(key)
        self._put(self.now, key, value)
        kept = self.keeps_defaults if key[0] == DEFAULT else bool(self.restores)
        if not kept or before == value == self.kept.get(key):
            done(True)
        else:
            self._submit(DeviceUpdate(key, done))

    def was_kept(self, values: Mapping[Key, Value]) -> None:
        """These values have been stored."""
        for key, value in values.items():
            self._put(self.kept, key, value)

    def was_not_kept(self, values: Mapping[Key, Value]) -> None:
        """These values could not be stored: revert those that have not changed again since."""
        for key, value in values.items():
            if self.now.get(key) != value:
                continue
            if key in self.kept:
                self.now[key] = self.kept[key]
            else:
                del self.now[key]
            self.undo(key)

    def level(self, key: Key, positions: Positions) -> Level | None:
        """The stored level, fitted to these channels. Levels are stored without a map: the default one is assumed."""
        value = self.now.get(key)
        if value is None or isinstance(value, str):
            return None
        gains, mute = value
        if len(gains) != len(positions):
            # As in PulseAudio: average the cubic volumes that are shown to users, not the linear gains.
            shown = tuple(map(gain_to_cubic, gains))
            gains = tuple(map(cubic_to_gain, volume_for(shown, default_map(len(gains)), positions)))
        return gains, mute

    def default(self, kind: str) -> str:
        """The name of the chosen default sink or source; '' if none was chosen."""
        value = self.now.get((DEFAULT, kind), "")
        return value if isinstance(value, str) else ""

    def restore_all(self) -> None:
        """Apply the stored settings to all existing devices."""

    def undo(self, key: Key) -> None:
        """Apply a reverted value of `now` to the device."""

    def _at_once(self, update: DeviceUpdate) -> None:
        self._put(self.kept, update.key, self.now[update.key])
        update.done(True)

    # The order of the table is that of the last change, and the oldest levels are dropped. Defaults are not counted
    # among them: there are two, and any number of volume changes must not displace the choice of a sink.
    @staticmethod
    def _put(values: dict[Key, Value], key: Key, value: Value) -> None:
        values.pop(key, None)
        values[key] = value
        if len(values) > LEVELS_MAX:
            for oldest in [key for key in values if key[0] != DEFAULT][:-LEVELS_MAX]:
                del values[oldest]


Keep = Callable[[Devices], Callable[[DeviceUpdate], None]]
"""Registers a table for storage; returns the function to submit its updates to."""
