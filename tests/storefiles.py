"""Stores, and rules in them."""

from __future__ import annotations

from pathlib import Path

from millrace.control.store import Store
from millrace.rights.grants import Permission, Verdict

MONITOR = Permission.MONITOR


def healthy(path: Path) -> bytes:
    """A store with a rule in it; its bytes."""
    store = Store(path)
    store.keep_grant("alice", MONITOR, "pacat", Verdict.DENY)
    store.close()
    return path.read_bytes()


def still_has_its_rule(path: Path) -> bool:
    store = Store(path)
    try:
        return store.guest("alice").grants == [(MONITOR, "pacat", Verdict.DENY)]
    finally:
        store.close()
