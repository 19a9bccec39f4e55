"""What a listener asks for."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    microphone: MicrophoneSource | None = None
