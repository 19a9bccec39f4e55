"""The file of the store: opened, migrated and checked; changed in transactions, or not at all.

Every change is one transaction, on disk before it is acknowledged: kill -9 loses no change and leaves none half done.
The file belongs to one daemon, which holds a lock file next to it. Between changes the journal's header is zero, so the
file alone is complete.

What takes something away from somebody (a token, a session, a right) must be possible while that one fills the disk. So
the room for it is taken before: the journal is kept long enough for a change of every page, and a row of zeros leaves
its pages to such a change. To delete rows may need pages too: with the keys that are left, an index may become larger.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from millrace.control.schema import MIGRATIONS
from millrace.control.storefaults import OURS, remedy_of
from millrace.errors import ConfigError
from millrace.io.locks import FileLock

log = logging.getLogger("millrace.store")
BUSY_S = 2.0
IN_MEMORY = Path(":memory:")
JOURNAL_BYTES = 64 * 1024
"""By so much the journal is longer than the file, and in such steps."""
ROOM_BYTES = 32 * 1024
"""Room in the file: some hundred browsers may sign out on a full disk."""
OUR_OWN = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError)
"""Errors of SQLite that a statement of ours causes, whatever the disk does."""
PAGES_FEW = 4
"""With fewer free pages in the file, a change that takes something away may need that room."""


class NotSaved(ConfigError):
    """A change that can't be written, and so was not made."""

    status, word, exit_code = 503, "graph", 3


class NotRead(NotSaved):
    """Stored data can't be read."""

    # This prevents the daemon from starting, so it is the exit status of `serve`.
    exit_code = 2


class Defect(ConfigError):
    """A change that breaks a rule of the database: ours is the mistake, and not the disk's. It was not made."""

    status, word, exit_code = 500, "graph", 1


class _Damaged(sqlite3.DatabaseError):
    """SQLite's integrity check found faults in the file."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


class _Odd(Exception):
    """A row is not in Millrace's format."""


class _Replaced(Exception):
    """The file is no longer the one that this daemon has read."""


class StoreFile:
    """The database of one daemon; used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trouble = ""
        """Why the last change failed; cleared when one succeeds."""
        self._reserved = self._lacking = False
        """Whether the room in the file is there, and whether the disk had none for it or for the journal."""
        self._journal = 0
        """The length that the journal keeps."""
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
        db.execute("PRAGMA journal_mode=PERSIST")
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
        if self.path != IN_MEMORY:
            self._reserve(db)
        # Changes only when another connection writes to the file.
        (self._seen,) = db.execute("PRAGMA data_version").fetchone()

    # SQLite overwrites a journal from its beginning, and needs no new room for what fits: the pages of the file that
    # one change touches, each with 8 bytes, and some headers. A full disk may have none as the daemon starts: it runs
    # without, and takes that after the first change that has room.
    def _reserve(self, db: sqlite3.Connection) -> None:
        """Take the room that later changes may need, if there is any."""
        try:
            if not self._reserved:
                with _transaction(db):
                    db.execute("CREATE TABLE IF NOT EXISTS room (zeros BLOB)")
                    db.execute(f"INSERT INTO room SELECT zeroblob({ROOM_BYTES}) WHERE NOT EXISTS (SELECT 1 FROM room)")
                self._reserved = True
            self._lengthen()
            self._lacking = False
        except (OSError, sqlite3.Error) as error:
            if not self._lacking:
                log.warning("%s: no room is kept for revocations on a full disk: %s", self.path, error)
            self._lacking = True

    def _lengthen(self) -> None:
        """Let the journal keep the length that a change of every page needs."""
        size = self.path.stat().st_size
        needed = size + size // 256 + JOURNAL_BYTES
        if self._journal < needed:
            with self.path.with_name(f"{self.path.name}-journal").open("ab") as journal:
                if (there := os.fstat(journal.fileno()).st_size) < needed:
                    os.posix_fallocate(journal.fileno(), 0, there := needed + JOURNAL_BYTES)
            self._journal = there

    def _sentence(self, error: Exception) -> str:
        remedy = remedy_of(error)
        return f"{self.path} {remedy} ({error})" if remedy else f"{self.path}: {error}"

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
        # Asked first: SQLite can't read a file that is gone from beside its journal.
        same = self._identity() == self._file
        if not same or self._db.execute("PRAGMA data_version").fetchone() != (self._seen,):
            raise _Replaced(
                "another program has moved, removed or changed it; put it back, or restart the daemon"
                " with the file as it is"
            )

    @contextlib.contextmanager
    def _writing(self, takes_away: bool = False) -> Iterator[sqlite3.Connection]:
        """One change, on disk when the block ends; on failure ConfigError, and nothing is changed.

        One that `takes_away` may use the room that is kept for that.
        """
        with self._told("saved", NotSaved):
            before, trouble = None, ""
            self._demand_same()
            try:
                with _transaction(self._db) as db:
                    before = self._commits()
                    self._demand_same()
                    if takes_away:
                        self._make_room(db)
                    yield db
                    self._demand_same()
            except sqlite3.Error as error:
                if before is None or self._reread() == before:
                    raise
                trouble = self._confirmed(error)
            # The file may have been moved between the last check and the commit.
            self._demand_same()
            self.trouble = trouble
            if not (takes_away or self.path == IN_MEMORY):
                self._reserve(self._db)
                self._reread()

    def _make_room(self, db: sqlite3.Connection) -> None:
        (free,) = db.execute("PRAGMA freelist_count").fetchone()
        if self._reserved and free < PAGES_FEW:
            self._reserved = False
            db.execute("DELETE FROM room")

    # A COMMIT that fails has usually changed nothing. But if its last step fails, synchronising a journal that is void
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
        """Convert errors of the disk and the file to `kind`. They stay in `trouble` until a change succeeds.

        Our own are a `Defect`, and no trouble: the next change may well succeed.
        """
        try:
            yield
        except OUR_OWN as error:
            log.exception("%s", self._sentence(error))
            raise Defect(f"not {what}: an internal error ({error}); the daemon's log has it") from None
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
def understood(what: str) -> Iterator[None]:
    """Convert errors in decoding rows to `_Odd`."""
    try:
        yield
    except UnicodeEncodeError:
        raise
    except (ValueError, TypeError) as error:
        remedy = "remove it with sqlite3, or restore the file from a backup"
        raise _Odd(f"{what} is not in Millrace's format ({' '.join(str(error).split())}); {remedy}") from None
