"""A source of a microphone's sound, and what is sent of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from millrace.dsp.convert import Samples
from millrace.media.audio import AudioPacket
from millrace.units import NS_PER_MS, NS_PER_S, default_map
from millrace.wire.peer.messages import (
    FromListener,
    decode_from_listener,
    unpack_media,
)

NOW = 7 * NS_PER_S
MS = NS_PER_MS


class Source:
    """A microphone that captures what the test gives it."""

    name = "source"

    def __init__(self, channels: int = 1) -> None:
        self.positions = default_map(channels)
        self.push: Callable[[Samples], None] | None = None

    def start(self, push: Callable[[Samples], None]) -> None:
        self.push = push

    def stop(self) -> None:
        self.push = None


def parts(sent: list[str | bytes]) -> Iterator[FromListener | AudioPacket]:
    for message in sent:
        made = decode_from_listener(message) if isinstance(message, str) else unpack_media(message)
        assert made is not None
        yield made
