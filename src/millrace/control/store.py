"""State that survives a restart, in SQLite: tokens, grants, added guests and sinks, volumes, session managers' data.

Every change is one transaction, on disk before it is acknowledged: kill -9 loses no change and leaves none half done.
The file belongs to one daemon, which holds a lock file next to it. Between changes the journal is empty, so the file
alone is complete. Media processing never waits for it.

An error neither destroys data nor grants access. If the file is locked, read-only, damaged or replaced, or its disk is
full, the change (or the daemon's start) fails with an explanation. Carrying on without the stored rules would admit
programs that they deny, so only the operator can decide that, by moving the file away.
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

import msgspec

from millrace.control.schema import MIGRATIONS
from millrace.control.sessions import ENDED_MAX
from millrace.control.storefaults import OURS, mend_of
from millrace.errors import ConfigError
from millrace.guest.config import stream_table
from millrace.io.locks import FileLock
from millrace.remembered.devices import LEVELS_MAX, Level
from millrace.rights.grants import Permission, Verdict
from millrace.rights.model import EVERYTHING, Right
from millrace.rights.tokens import Token
from millrace.text import quoted

log = logging.getLogger("millrace.store")


class NotSaved(ConfigError):
    """A change that can't be written, and so was not made."""

    status, word, exit_code = 503, "graph", 3


class NotRead(NotSaved):
    """Stored data can't be read."""

    # This prevents the daemon from starting, so it is the exit status of `serve`.
    exit_code = 2


MEMORY_MAX = 20_000
"""Keys stored for session managers; beyond that the oldest are dropped."""
BUSY_S = 2.0
IN_MEMORY = Path(":memory:")


class StoredGuest(msgspec.Struct, frozen=True):
    """Stored state of one guest."""

    sinks: list[tuple[str, str]] = msgspec.field(default_factory=list)
    """(name, description)."""
    levels: dict[tuple[str, str], Level] = msgspec.field(default_factory=dict)
    """By (kind, name) of sinks and sources."""
    defaults: dict[str, str] = msgspec.field(default_factory=dict)
    """Names of the chosen default sink and source, by kind."""
    grants: list[tuple[Permission, str, Verdict]] = msgspec.field(default_factory=list)
    """(what, program, verdict)."""


class _Damaged(sqlite3.DatabaseError):
    """SQLite's integrity check found faults in the file."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


class _Odd(Exception):
    """A row is not in Millrace's format."""


class _Replaced(Exception):
    """The file is no longer the one that this daemon has read."""


class Store:
    """The database of one daemon; used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trouble = ""
        """Why the last change failed; cleared when one succeeds."""
        self._lock = self._locked()
        try:
            self._db = self._opened()
            # Kept open: closing any descriptor of the file would release SQLite's locks on it.
            self._raw = None if path == IN_MEMORY else path.open("rb", buffering=0)
            self._file = self._identity()
        except BaseException:
            self._let_go()
            raise

    # -- opening -----------------------------------------------------------------------------------

    def _locked(self) -> FileLock | None:
        if self.path == IN_MEMORY:
            return None
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            where = "set XDG_STATE_HOME to a directory of this user"
            raise ConfigError(f"{self.path.parent}: {error.strerror}; {where}") from None
        taken = f"{self.path} is in use by another daemon: stop it, or set XDG_STATE_HOME to another directory"
        return FileLock(self.path.with_name(self.path.name + ".lock"), taken)

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _opened(self) -> sqlite3.Connection:
        try:
            return self._connected()
        except sqlite3.Error as error:
            raise ConfigError(self._sentence(error)) from None
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror}") from None

    def _connected(self) -> sqlite3.Connection:
        before = os.umask(0o177)
        try:
            db = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        finally:
            os.umask(before)
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        if self.path != IN_MEMORY and not os.access(self.path, os.W_OK):
            raise ConfigError(f"{self.path} can't be written; {OURS}")
        # Millrace 0.1.0 used a write-ahead log; leaving WAL mode merges its latest changes into the file.
        db.execute("PRAGMA journal_mode=TRUNCATE")
        db.execute("PRAGMA synchronous=FULL")
        found = [text for (text,) in db.execute("PRAGMA quick_check(1)")]
        if found != ["ok"]:
            raise _Damaged(" ".join(" ".join(found).split()))
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            newer = f"was written by a newer Millrace (version {version}); this one knows {len(MIGRATIONS)}"
            raise ConfigError(f"{self.path} {newer}")
        with _transaction(db):
            for number, statements in enumerate(MIGRATIONS[version:], version + 1):
                for statement in statements:
                    db.execute(statement)
                db.execute(f"PRAGMA user_version={number}")
        # Changes only when another connection writes to the file.
        (self._seen,) = db.execute("PRAGMA data_version").fetchone()

    def _sentence(self, error: Exception) -> str:
        mend = mend_of(error)
        return f"{self.path} {mend} ({error})" if mend else f"{self.path}: {error}"

    def close(self) -> None:
        """Close the database and release the lock."""
        self._db.close()
        if self._raw is not None:
            self._raw.close()
        self._let_go()

    # -- transactions ------------------------------------------------------------------------------

    def _identity(self) -> tuple[int, int] | None:
        if self.path == IN_MEMORY:
            return None
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return (0, 0)
        return (found.st_dev, found.st_ino)

    def _demand_same(self) -> None:
        """Check that the file is the same: writes to a moved or overwritten one would be acknowledged, but lost."""
        (seen,) = self._db.execute("PRAGMA data_version").fetchone()
        if self._identity() != self._file or seen != self._seen:
            raise _Replaced(
                "another program has moved, removed or changed it; put it back, or restart the daemon"
                " with the file as it is"
            )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One change, on disk when the block ends; on failure ConfigError, and nothing is changed."""
        with self._told("saved", NotSaved):
            before, trouble = None, ""
            try:
                with _transaction(self._db) as db:
                    before = self._commits()
                    self._demand_same()
                    yield db
                    self._demand_same()
            except sqlite3.Error as error:
                if before is None or self._reread() == before:
                    raise
                trouble = self._confirmed(error)
            # The file may have been moved between the last check and the commit.
            self._demand_same()
            self.trouble = trouble

    # A COMMIT that fails has usually changed nothing. But if its last step fails, synchronising a journal that is empty
    # by then, the change is in the file and can't be taken back. The file's own count of commits tells which it was,
    # once SQLite has read the file again and has undone what it finds half done. To the connection, that reading looks
    # like a change by another program; nobody else could commit while this transaction had the file locked.
    def _reread(self) -> int:
        """Let SQLite undo what an error has left half done; returns the number of commits after that."""
        (self._seen,) = self._db.execute("PRAGMA data_version").fetchone()
        return self._commits()

    def _commits(self) -> int:
        """The file change counter in the header of the file (SQLite's file format, section 1.3.7)."""
        return 0 if self._raw is None else int.from_bytes(os.pread(self._raw.fileno(), 4, 24), "big")

    def _confirmed(self, error: sqlite3.Error) -> str:
        """Synchronise once more, after an error; returns what still fails."""
        log.error("%s", self._sentence(error))
        try:
            self._db.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
            return ""
        except sqlite3.Error as again:
            self._reread()
            return self._sentence(again)

    def _reading(self) -> contextlib.AbstractContextManager[None]:
        """ConfigError if stored data can't be read."""
        return self._told("read", NotRead)

    @contextlib.contextmanager
    def _told(self, what: str, kind: type[NotSaved]) -> Iterator[None]:
        """Convert database errors to `kind`. Trouble with the file stays in `trouble` until a change succeeds."""
        try:
            yield
        except (sqlite3.Error, OSError, _Replaced) as error:
            self.trouble = self._sentence(error)
            log.error("%s", self.trouble)
            raise kind(f"not {what}: {self.trouble}") from None
        except _Odd as error:
            raise ConfigError(f"not {what}: {self._sentence(error)}") from None
        except UnicodeEncodeError:
            raise ConfigError(
                f"not {what}: {self.path} keeps Unicode text, and this contains a lone surrogate"
            ) from None

    def _rows(self, query: str, *values: Any) -> list[Any]:
        return self._db.execute(query, values).fetchall()

    # -- tokens ------------------------------------------------------------------------------------

    def tokens(self) -> list[Token]:
        """All stored tokens."""
        with self._reading(), _understood("a token"):
            rows = self._rows("SELECT id, name, digest, rights, guests, created_s, expires_s FROM tokens")
            return [Token(i, n, d, _rights(r), frozenset(json.loads(g)), c, e) for i, n, d, r, g, c, e in rows]

    def add_token(self, token: Token) -> Token:
        """Store a token; returns it with its number, which is never reused."""
        values = (token.name, token.digest, token.rights.value, json.dumps(sorted(token.guests)))
        with self._writing() as db:
            made = db.execute(
                "INSERT INTO tokens (name, digest, rights, guests, created_s, expires_s) VALUES (?, ?, ?, ?, ?, ?)",
                (*values, token.created_s, token.expires_s),
            )
        return replace(token, id=made.lastrowid or 0)

    def replace_token(self, token: Token) -> None:
        """Replace the hash of a token."""
        with self._writing() as db:
            db.execute("UPDATE tokens SET digest = ? WHERE id = ?", (token.digest, token.id))

    def remove_token(self, id_: int) -> None:
        """Delete a token."""
        with self._writing() as db:
            db.execute("DELETE FROM tokens WHERE id = ?", (id_,))

    def ended(self) -> list[tuple[bytes, str]]:
        """Browser sessions that were signed out: the digest of each one's secret, and its number."""
        with self._reading():
            return self._rows("SELECT secret, number FROM ended ORDER BY rowid")

    def keep_ended(self, secret: bytes, number: str, others: list[bytes]) -> None:
        """Store a signed-out session. Those of secrets that are neither a token's nor in `others` are deleted."""
        newest = "SELECT rowid FROM ended WHERE secret = ? ORDER BY rowid DESC LIMIT ?"
        gone = f"secret NOT IN (SELECT digest FROM tokens) AND secret NOT IN ({', '.join('?' * len(others))})"
        with self._writing() as db:
            db.execute("INSERT OR IGNORE INTO ended VALUES (?, ?)", (secret, number))
            db.execute(f"DELETE FROM ended WHERE secret = ? AND rowid NOT IN ({newest})", (secret, secret, ENDED_MAX))
            db.execute(f"DELETE FROM ended WHERE {gone}", others)

    # -- guests --------------------------------------------------------------------------------------

    def guests(self) -> dict[str, dict[str, Any]]:
        """Guests added at run time, with their options."""
        with self._reading(), _understood("a guest"):
            return {name: dict(json.loads(options)) for name, options in self._rows("SELECT name, options FROM guests")}

    def guest(self, name: str) -> StoredGuest:
        """Stored state of a guest."""
        with self._reading(), _understood(f"a level or a rule of guest {quoted(name)}"):
            sinks = self._rows("SELECT name, description FROM sinks WHERE guest = ?", name)
            levels = self._rows("SELECT kind, name, gains, mute FROM levels WHERE guest = ?", name)
            grants = self._rows("SELECT what, program, allow FROM grants WHERE guest = ?", name)
            return StoredGuest(
                sinks,
                {(kind, name): (_gains(gains), bool(mute)) for kind, name, gains, mute in levels},
                dict(self._rows("SELECT kind, name FROM defaults WHERE guest = ?", name)),
                [(Permission(what), program, Verdict(verdict)) for what, program, verdict in grants],
            )

    def keep_guest(self, name: str, options: dict[str, Any]) -> None:
        """Store a guest that was added."""
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO guests VALUES (?, ?)", (name, json.dumps(options)))

    def drop_guest(self, name: str) -> None:
        """Delete a guest and its state. Tokens for it stay, since they may have been made before it."""
        with self._writing() as db:
            self._drop_guest(db, name)

    def remove_guest(self, name: str) -> None:
        """Delete a guest and all rights to it: a later guest of the same name is a different one."""
        with self._writing() as db:
            self._drop_guest(db, name)
            for id_, guests in db.execute("SELECT id, guests FROM tokens").fetchall():
                with _understood("a token"):
                    names = json.loads(guests)
                rest = [other for other in names if other != name]
                if rest and rest != names:
                    db.execute("UPDATE tokens SET guests = ? WHERE id = ?", (json.dumps(rest), id_))
                elif rest != names:
                    db.execute("DELETE FROM tokens WHERE id = ?", (id_,))

    @staticmethod
    def _drop_guest(db: sqlite3.Connection, name: str) -> None:
        db.execute("DELETE FROM guests WHERE name = ?", (name,))
        for table in ("levels", "defaults", "sinks", "grants"):
            db.execute(f"DELETE FROM {table} WHERE guest = ?", (name,))
        streams = stream_table(name)
        db.execute("DELETE FROM memory WHERE substr(key, 1, ?) = ?", (len(streams), streams))

    def keep_level(self, guest: str, kind: str, name: str, level: Level) -> None:
        """Store a level."""
        self.keep_devices(guest, {(kind, name): level}, {})

    def keep_devices(self, guest: str, levels: dict[tuple[str, str], Level], defaults: dict[str, str]) -> None:
        """Store levels, by kind and name, and defaults, by kind: all of them or none."""
        with self._writing() as db:
            for (kind, name), (gains, mute) in levels.items():
                values = (guest, kind, name, json.dumps(gains), int(mute))
                db.execute("INSERT OR REPLACE INTO levels VALUES (?, ?, ?, ?, ?)", values)
            for kind, name in defaults.items():
                db.execute("INSERT OR REPLACE INTO defaults VALUES (?, ?, ?)", (guest, kind, name))
            # REPLACE gives a row a new rowid, so the lowest ones have been unchanged for longest.
            newest = "SELECT rowid FROM levels WHERE guest = ? ORDER BY rowid DESC LIMIT ?"
            db.execute(f"DELETE FROM levels WHERE guest = ? AND rowid NOT IN ({newest})", (guest, guest, LEVELS_MAX))

    def keep_sink(self, guest: str, name: str, description: str | None) -> None:
        """Store a sink; None deletes it."""
        with self._writing() as db:
            if description is None:
                db.execute("DELETE FROM sinks WHERE guest = ? AND name = ?", (guest, name))
            else:
                db.execute("INSERT OR REPLACE INTO sinks VALUES (?, ?, ?)", (guest, name, description))

    def keep_grant(self, guest: str, what: Permission, program: str, verdict: Verdict | None) -> None:
        """Store a rule; None deletes it."""
        with self._writing() as db:
            if verdict is None:
                rule = (guest, what.value, program)
                db.execute("DELETE FROM grants WHERE guest = ? AND what = ? AND program = ?", rule)
            else:
                values = (guest, what.value, program, verdict.value)
                db.execute("INSERT OR REPLACE INTO grants VALUES (?, ?, ?, ?)", values)

    # -- storage for session managers ----------------------------------------------------------------

    def remember(self, key: str, value: str | None) -> None:
        """Store a text; None deletes it."""
        with self._writing() as db:
            db.execute("DELETE FROM memory WHERE key = ?", (key,))
            if value is not None:
                db.execute("INSERT INTO memory VALUES (?, ?)", (key, value))
                (kept,) = db.execute("SELECT count(*) FROM memory").fetchone()
                if kept > MEMORY_MAX:
                    db.execute("DELETE FROM memory WHERE rowid = (SELECT min(rowid) FROM memory)")

    def remember_all(self, texts: dict[str, str | None], prefix: str, most: int) -> None:
        """Store or delete several texts, all or none. Beyond `most` under `prefix`, the oldest are dropped."""
        begins = "substr(key, 1, ?) = ?"
        with self._writing() as db:
            for key, value in texts.items():
                db.execute("DELETE FROM memory WHERE key = ?", (key,))
                if value is not None:
                    db.execute("INSERT INTO memory VALUES (?, ?)", (key, value))
            (kept,) = db.execute(f"SELECT count(*) FROM memory WHERE {begins}", (len(prefix), prefix)).fetchone()
            if kept > most:
                oldest = f"SELECT rowid FROM memory WHERE {begins} ORDER BY rowid LIMIT ?"
                db.execute(f"DELETE FROM memory WHERE rowid IN ({oldest})", (len(prefix), prefix, kept - most))

    def recall(self, prefix: str) -> dict[str, str]:
        """Texts stored under keys that begin with `prefix`."""
        with self._reading():
            return dict(self._rows("SELECT key, value FROM memory WHERE substr(key, 1, ?) = ?", len(prefix), prefix))


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Run the block in a transaction: all of it takes effect, or none."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        # SQLite may have rolled back already, for example on a full disk.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def _understood(what: str) -> Iterator[None]:
    """Convert errors in decoding rows to `_Odd`."""
    try:
        yield
    except UnicodeEncodeError:
        raise
    except (ValueError, TypeError) as error:
        mend = "remove it with sqlite3, or restore the file from a backup"
        raise _Odd(f"{what} is not in Millrace's format ({' '.join(str(error).split())}); {mend}") from None


def _gains(text: str) -> tuple[float, ...]:
    return tuple(float(gain) for gain in json.loads(text))


# Those who may do everything may also do what there was no right for when they were stored.
def _rights(number: int) -> Right:
    """The rights of a stored token."""
    return EVERYTHING if Right.ADMIN in Right(number) else Right(number)
