"""Millrace: the audio/video bus for virtual machines and remote desktops.

`millrace.connect()` is the client library's door (docs/native.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from millrace.version import __version__

if TYPE_CHECKING:
    from millrace.client.bus import Bus, Change, Object, connect
    from millrace.errors import ConfigError, GraphError, MillraceError, NoDaemon, PeerLost, RightsError

__all__ = [
    "Bus", "Change", "ConfigError", "GraphError", "MillraceError", "NoDaemon", "Object", "PeerLost", "RightsError",
    "__version__", "connect",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The client library is imported when it is asked for: the commands start without it."""
    if name in ("connect", "Bus", "Change", "Object"):
        from millrace.client import bus

        return getattr(bus, name)
    if name in __all__:
        from millrace import errors

        return getattr(errors, name)
    raise AttributeError(f"module 'millrace' has no attribute {name!r}")
