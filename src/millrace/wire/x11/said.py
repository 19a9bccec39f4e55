"""What a part of the client says to the server, and what follows from the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias
from weakref import WeakMethod

REPLY_MAX = 2 * 1024 * 1024


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


def weakly(method: Callable[..., Sequence[Said]], *first: object) -> Then:
    """A method of whoever keeps the requests, with these arguments before the answer.

    A request that referred to it would be a cycle (daemon/collector.py).
    """
    known = WeakMethod(method)

    def then(part: bytes) -> Sequence[Said]:
        bound = known()
        return () if bound is None else bound(*first, part)

    return then
