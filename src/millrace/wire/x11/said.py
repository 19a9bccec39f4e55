"""What a part of the client says to the server, and what follows from the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from millrace.wire.x11.numbered import REPLY_MAX


class Said(NamedTuple):
    """A request. Answers and errors come in the order of the requests."""

    request: bytes
    then: Then | None = None
    """What to say to its answer; None: it has none."""
    refused: Then | None = None
    """What to say if the server refuses it; None: that ends the connection."""
    bytes_max: int = REPLY_MAX
    """What its answer may have."""
    head_only: bool = False
    """Of an answer that has more, only the head is taken."""


Then: TypeAlias = Callable[[bytes], Sequence[Said]]


def no_more(part: bytes) -> Sequence[Said]:
    """Nothing follows from an answer, or from a refusal."""
    return ()
