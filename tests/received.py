"""What a session has received, processed to its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from millrace.units import HostNs


def received(wire: Any, data: Any, now_ns: HostNs, after: Callable[[], object] = lambda: None) -> None:
    """Give it `data`, then nothing as long as it is `unfinished`; `after` follows each time, as in io/client.py."""
    wire.receive(data, now_ns)
    after()
    while getattr(wire, "unfinished", False):
        wire.receive(b"", now_ns)
        after()
