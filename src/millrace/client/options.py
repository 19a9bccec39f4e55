"""What a listener asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from millrace.client.microphone import MicrophoneSource


@dataclass
class ListenerOptions:
    """What a listener asks for. `settings` are as in `millrace set`."""

    name: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    latency: str = "normal"
    sink: str | None = None
    token: str = field(default="", repr=False)
    insecure: bool = False
    ca_file: str = ""
    cert: str = ""
    key: str = ""
    reconnect: bool = True
    socket: Path | None = None
    """A daemon on this machine, by its private socket: its owner needs no token there, and no port."""
    microphone: MicrophoneSource | None = None
