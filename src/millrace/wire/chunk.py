"""The output of a core that sends descriptors."""

from __future__ import annotations

from dataclasses import dataclass, field


# The unit of output where descriptors travel: the bytes that carry them must be the first of their own `sendmsg`, so
# two messages with descriptors may not be joined into one write.
@dataclass(slots=True)
class Chunk:
    """Bytes to write, with the descriptors to send along; with `give`, those are closed here once they are sent."""

    data: bytearray = field(default_factory=bytearray)
    fds: tuple[int, ...] = ()
    give: bool = False
