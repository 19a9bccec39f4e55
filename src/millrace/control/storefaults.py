"""What is wrong with the store's file, and how to repair it, by SQLite's error."""

from __future__ import annotations

import sqlite3

_DAMAGED = (
    "is damaged or is not a database: restore it from a backup."
    " To start without its tokens, rules, guests and volumes, move it away; programs"
    " that its rules deny are then allowed until new rules are set"
)
OURS = "make it readable and writable for this user, or set XDG_STATE_HOME to another directory"
_MENDS = {
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_BUSY: "is locked: another program has it open for writing; close that program",
    sqlite3.SQLITE_IOERR: "can't be read or written: the disk is failing or has become read-only; see the kernel log",
    sqlite3.SQLITE_FULL: "can't grow: free some space on that disk",
    sqlite3.SQLITE_READONLY: f"can't be written: {OURS}",
    sqlite3.SQLITE_CANTOPEN: f"can't be opened: {OURS}",
    sqlite3.SQLITE_PERM: f"can't be opened: {OURS}",
}


def remedy_of(error: Exception) -> str:
    """The end of a sentence that begins with the file's path; empty if the error's own text has to do."""
    code: int = getattr(error, "sqlite_errorcode", -1)
    return _MENDS.get(code & 0xFF, "") if code >= 0 else ""
