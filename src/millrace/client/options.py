"""What a listener asks for."""

from __future__ import annotations

from dataclasses import dataclass, field

from millrace.client.microphone import MicrophoneSource
from millrace.clock.jitter import PROFILES, profile_of
from millrace.units import NS_PER_MS

FIXED_LOW_NS = 25 * NS_PER_MS


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


def daemon_profile(latency: str) -> str:
    """What to ask of the daemon for a profile or a fixed latency; ConfigError where it is neither."""
    if latency in PROFILES:
        return latency
    return "low" if profile_of(latency).start_ns < FIXED_LOW_NS else "normal"
