"""A listener's options."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from millrace.client.microphone import MicrophoneSource
from millrace.text import well_formed


@dataclass
class ListenerOptions:
    """A listener's options. `settings` are those of `millrace set`."""

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
    """The private socket of a daemon on this machine. Its owner needs neither a token nor a port there."""
    microphone: MicrophoneSource | None = None

    def __post_init__(self) -> None:
        """ConfigError if what the daemon is to be told is not UTF-8, as arguments of a command may be."""
        for what, text in (("name", self.name), ("sink", self.sink or "")):
            well_formed(text, what)
        for key, value in self.settings.items():
            well_formed(f"{key}={value}", "setting")
