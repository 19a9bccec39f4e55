"""What survives a restart, in SQLite: tokens, grants, guests and sinks that were added, volumes, what policies keep.

WAL with full synchronisation: a change is on disk when it is acknowledged, and kill -9 loses none.
Media never waits for it. A store that can't be read is put aside and said so; one that can't be written
(a full disk) refuses the change with a clear error, and sound goes on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from millrace.errors import ConfigError
from millrace.rights.model import Right
from millrace.rights.tokens import Token

log = logging.getLogger("millrace.store")
VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS tokens (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, digest BLOB UNIQUE, rights INTEGER,
  guests TEXT, created_s INTEGER, expires_s INTEGER);
CREATE TABLE IF NOT EXISTS guests (name TEXT PRIMARY KEY, options TEXT);
CREATE TABLE IF NOT EXISTS grants (guest TEXT, what TEXT, program TEXT, allow INTEGER,
  PRIMARY KEY (guest, what, program));
CREATE TABLE IF NOT EXISTS levels (guest TEXT, kind TEXT, name TEXT, gains TEXT, mute INTEGER,
  PRIMARY KEY (guest, kind, name));
CREATE TABLE IF NOT EXISTS sinks (guest TEXT, name TEXT, description TEXT, PRIMARY KEY (guest, name));
CREATE TABLE IF NOT EXISTS memory (key TEXT PRIMARY KEY, value TEXT);
"""
MEMORY_MAX = 20_000
"""Keys that session managers may keep; beyond that the oldest go."""


class Store:
    """One daemon's database; used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trouble = ""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as error:
            aside = path.with_suffix(".broken")
            self.trouble = f"{path} could not be read ({error}); it is kept as {aside}, and everything begins anew"
            log.error("%s", self.trouble)
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
            self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        before = os.umask(0o177)
        try:
            db = sqlite3.connect(self.path, timeout=2.0, isolation_level=None, check_same_thread=False)
        except sqlite3.OperationalError as error:
            raise ConfigError(f"{self.path}: {error}; set XDG_STATE_HOME to a directory of this user") from None
        finally:
            os.umask(before)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA quick_check").fetchone()
            (found,) = db.execute("PRAGMA user_version").fetchone()
            if found > VERSION:
                raise ConfigError(
                    f"{self.path} was written by a newer Millrace (version {found}); this one knows {VERSION}"
                )
            db.executescript(_SCHEMA)
            db.execute(f"PRAGMA user_version={VERSION}")
        except BaseException:
            db.close()
            raise
        return db

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One change; on disk when the block ends. ConfigError where the disk does not take it."""
        try:
            yield self._db
        except sqlite3.Error as error:
            self.trouble = f"{self.path}: {error}"
            log.error("%s", self.trouble)
            raise ConfigError(f"not kept: {self.trouble}") from None
        self.trouble = ""

    def close(self) -> None:
        """Finish."""
        self._db.close()

    # -- tokens ------------------------------------------------------------------------------------

    def tokens(self) -> list[Token]:
        """All that are kept."""
        rows = self._db.execute("SELECT id, name, digest, rights, guests, created_s, expires_s FROM tokens")
        return [Token(i, n, d, Right(r), frozenset(json.loads(g)), c, e) for i, n, d, r, g, c, e in rows]

    def add_token(self, token: Token) -> Token:
        """Keep one; it comes back with its number, which is never given again."""
        values = (token.name, token.digest, token.rights.value, json.dumps(sorted(token.guests)))
        with self._writing() as db:
            made = db.execute(
                "INSERT INTO tokens (name, digest, rights, guests, created_s, expires_s) VALUES (?, ?, ?, ?, ?, ?)",
                (*values, token.created_s, token.expires_s),
            )
        return replace(token, id=made.lastrowid or 0)

    def replace_token(self, token: Token) -> None:
        """Keep another hash for one."""
        with self._writing() as db:
            db.execute("UPDATE tokens SET digest = ? WHERE id = ?", (token.digest, token.id))

    def remove_token(self, id_: int) -> None:
        """Forget one."""
        with self._writing() as db:
            db.execute("DELETE FROM tokens WHERE id = ?", (id_,))

    # -- guests and levels -------------------------------------------------------------------------

    def guests(self) -> dict[str, dict[str, Any]]:
        """Guests that were added while running, with their options."""
        return {name: json.loads(options) for name, options in self._db.execute("SELECT name, options FROM guests")}

    def keep_guest(self, name: str, options: dict[str, Any]) -> None:
        """A guest was added."""
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO guests VALUES (?, ?)", (name, json.dumps(options)))

    def drop_guest(self, name: str) -> None:
        """A guest was removed, and with it what was kept of it."""
        with self._writing() as db:
            db.execute("DELETE FROM guests WHERE name = ?", (name,))
            db.execute("DELETE FROM levels WHERE guest = ?", (name,))
            db.execute("DELETE FROM sinks WHERE guest = ?", (name,))
            db.execute("DELETE FROM grants WHERE guest = ?", (name,))

    def levels(self, guest: str) -> dict[tuple[str, str], tuple[tuple[float, ...], bool]]:
        """(kind, name) to gains and mute, of a guest's sinks and sources."""
        rows = self._db.execute("SELECT kind, name, gains, mute FROM levels WHERE guest = ?", (guest,))
        return {(kind, name): (tuple(json.loads(gains)), bool(mute)) for kind, name, gains, mute in rows}

    def keep_level(self, guest: str, kind: str, name: str, gains: tuple[float, ...], mute: bool) -> None:
        """A level was set."""
        with self._writing() as db:
            values = (guest, kind, name, json.dumps(gains), int(mute))
            db.execute("INSERT OR REPLACE INTO levels VALUES (?, ?, ?, ?, ?)", values)

    def sinks(self, guest: str) -> list[tuple[str, str]]:
        """(name, description) of the sinks that were added to a guest."""
        return list(self._db.execute("SELECT name, description FROM sinks WHERE guest = ?", (guest,)))

    def keep_sink(self, guest: str, name: str, description: str | None) -> None:
        """A sink was added, or with None removed."""
        with self._writing() as db:
            if description is None:
                db.execute("DELETE FROM sinks WHERE guest = ? AND name = ?", (guest, name))
            else:
                db.execute("INSERT OR REPLACE INTO sinks VALUES (?, ?, ?)", (guest, name, description))

    def remember(self, key: str, value: str | None) -> None:
        """Keep a text, or with None forget it."""
        with self._writing() as db:
            db.execute("DELETE FROM memory WHERE key = ?", (key,))
            if value is not None:
                db.execute("INSERT INTO memory VALUES (?, ?)", (key, value))
                (kept,) = db.execute("SELECT count(*) FROM memory").fetchone()
                if kept > MEMORY_MAX:
                    db.execute("DELETE FROM memory WHERE rowid = (SELECT min(rowid) FROM memory)")

    def recall(self, prefix: str) -> dict[str, str]:
        """What is kept under keys that begin with `prefix`."""
        rows = self._db.execute("SELECT key, value FROM memory WHERE substr(key, 1, ?) = ?", (len(prefix), prefix))
        return dict(rows.fetchall())

    def grants(self, guest: str) -> list[tuple[str, str, int]]:
        """(what, program, verdict) of a guest's rules."""
        rows = self._db.execute("SELECT what, program, allow FROM grants WHERE guest = ?", (guest,))
        return [(what, program, int(verdict)) for what, program, verdict in rows]

    def keep_grant(self, guest: str, what: str, program: str, verdict: int | None) -> None:
        """A rule was made, or with None taken away."""
        with self._writing() as db:
            db.execute("DELETE FROM grants WHERE guest = ? AND what = ? AND program = ?", (guest, what, program))
            if verdict is not None:
                db.execute("INSERT INTO grants VALUES (?, ?, ?, ?)", (guest, what, program, verdict))
