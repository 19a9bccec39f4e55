"""Stand-ins that have exactly the members of a protocol: code that uses any other member fails."""

from __future__ import annotations

import inspect
from typing import Any


def members_of(protocol: type) -> set[str]:
    """The names of a protocol's members, including those of its bases."""
    names: set[str] = set()
    for base in protocol.__mro__:
        if base.__module__ not in ("typing", "builtins"):
            names |= {name for name in (*vars(base), *inspect.get_annotations(base)) if name[0] != "_"}
    return names


def bare(protocol: type, **members: Any) -> Any:
    """An object with exactly the members of `protocol`, which are given here."""
    said = members_of(protocol)
    assert members.keys() == said, f"{protocol.__name__}: {members.keys() ^ said}"
    made = type(f"Bare{protocol.__name__}", (), {"__slots__": tuple(said)})()
    for name, value in members.items():
        setattr(made, name, value)
    return made
