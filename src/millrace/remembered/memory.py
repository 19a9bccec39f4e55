"""Storage for what a guest remembers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from millrace.remembered.devices import Devices, DeviceUpdate
from millrace.remembered.streams import Rules, RuleUpdate


class Memory(Protocol):
    """Stores one guest's tables on disk."""

    def keep_rules(self, table: Rules) -> Callable[[RuleUpdate], None]:
        """See `streams.Keep`."""
        ...

    def keep_devices(self, table: Devices) -> Callable[[DeviceUpdate], None]:
        """See `devices.Keep`."""
        ...
