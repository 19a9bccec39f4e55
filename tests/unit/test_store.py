"""The store: what it keeps, its versions, and locked, read-only and damaged files, of which it destroys none."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace as changed
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from millrace.control import store as store_module
from millrace.control import storefile
from millrace.control.schema import MIGRATIONS
from millrace.control.store import Store, StoredDoor
from millrace.control.storefaults import remedy_of
from millrace.control.storefile import NotSaved
from millrace.errors import ConfigError
from millrace.io.locks import FileLock
from millrace.rights.grants import Verdict
from millrace.rights.model import EVERYTHING, Right
from millrace.rights.tokens import Token, digest_of
from tests.storefiles import MONITOR, healthy, still_has_its_rule

AS_0_1_0 = """
CREATE TABLE IF NOT EXISTS tokens (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, digest BLOB UNIQUE, rights INTEGER,
  guests TEXT, created_s INTEGER, expires_s INTEGER);
CREATE TABLE IF NOT EXISTS guests (name TEXT PRIMARY KEY, options TEXT);
CREATE TABLE IF NOT EXISTS grants (guest TEXT, what TEXT, program TEXT, allow INTEGER,
  PRIMARY KEY (guest, what, program));
CREATE TABLE IF NOT EXISTS levels (guest TEXT, kind TEXT, name TEXT, gains TEXT, mute INTEGER,
  PRIMARY KEY (guest, kind, name));
CREATE TABLE IF NOT EXISTS sinks (guest TEXT, name TEXT, description TEXT, PRIMARY KEY (guest, name));
CREATE TABLE IF NOT EXISTS memory (key TEXT PRIMARY KEY, value TEXT);
PRAGMA user_version=1;
INSERT INTO tokens VALUES (7, 'alice at home', x'0102', 3, '["alice"]', 5, 0);
INSERT INTO guests VALUES ('alice', '{"rate": 44100, "channels": 2}');
INSERT INTO grants VALUES ('alice', 'monitor', 'pacat', 0);
INSERT INTO levels VALUES ('alice', 'sink', 'default', '[0.5, 0.25]', 1);
INSERT INTO sinks VALUES ('alice', 'music', 'Music');
INSERT INTO memory VALUES ('level/mpv', '0.5');
"""
"""What Millrace 0.1.0 wrote, in the words that it wrote it in."""


def made(secret: str, expires_s: int = 0) -> Token:
    return Token(0, "t", digest_of(secret), Right.HEAR, frozenset({"alice"}), 0, expires_s)


def test_stored_admin_may_do_what_there_was_no_right_for_then(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    before = Right.SEE | Right.HEAR | Right.SPEAK | Right.CONTROL | Right.LINK | Right.ADMIN
    for rights in (before, before ^ Right.ADMIN):
        store.add_token(changed(made(str(rights)), rights=rights))
    assert [token.rights for token in store.tokens()] == [EVERYTHING, before ^ Right.ADMIN]
    store.close()


def test_state_survives_restart_in_private_file(tmp_path: Path) -> None:
    path = tmp_path / "state" / "state.db"
    store = Store(path)
    token = store.add_token(made("secret", 5))
    assert token.id == 1
    store.remove_token(token.id)
    token = store.add_token(made("another"))
    store.keep_guest("alice", {"rate": 44_100, "channels": 2})
    store.keep_level("alice", "sink", "default", ((0.5, 0.25), True))
    door = StoredDoor("vnc://vm:5901", "", "/vm.pass", "", False)
    store.keep_guest("bob", {"rate": 48_000, "channels": 2})
    store.keep_door("bob", door)
    store.remove_guest("bob")
    store.keep_door("alice", door)
    store.keep_door("alice", replace(door, confined=True))
    store.keep_door("alice", StoredDoor("dbus:unix:path=/b", "win11", "", "", False))
    store.drop_door("alice", "dbus:unix:path=/b", "win10")
    store.close()
    again = Store(path)
    assert again.tokens() == [token]
    assert again.guests() == {"alice": {"rate": 44_100, "channels": 2}}
    assert again.guest("alice").levels == {("sink", "default"): ((0.5, 0.25), True)}
    assert again.guest("alice").doors == [
        replace(door, confined=True), StoredDoor("dbus:unix:path=/b", "win11", "", "", False),
    ] and not again.guest("bob").doors  # fmt: skip
    again.close()
    assert all(file.stat().st_mode & 0o077 == 0 for file in (*path.parent.iterdir(), path.parent))
    assert b"another" not in path.read_bytes()


def test_latest_signed_out_sessions_are_kept_while_secret_is_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "ENDED_MAX", 3)
    store = Store(tmp_path / "s.db")
    store.keep_ended(b"old key", "0", [b"old key"])
    for n in range(5):
        store.keep_ended(b"token", str(n), [b"old key", b"token"])
    store.keep_ended(b"key", "0", [b"key", b"token"])
    store.close()
    assert Store(tmp_path / "s.db").ended() == [(b"token", "2"), (b"token", "3"), (b"token", "4"), (b"key", "0")]


def test_levels_of_temporary_sinks_do_not_accumulate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LEVELS_MAX", 10)
    store = Store(tmp_path / "state.db")
    store.keep_level("bob", "sink", "millrace", ((0.5,), False))
    for number in range(30):
        store.keep_level("alice", "sink", f"s{number}", ((0.5,), False))
        store.keep_level("alice", "sink", "millrace", ((number / 30,), False))
    kept = store.guest("alice").levels
    assert len(kept) == 10 and kept["sink", "millrace"] == ((29 / 30,), False) and ("sink", "s29") in kept
    assert store.guest("bob").levels == {("sink", "millrace"): ((0.5,), False)}
    store.close()


def test_stored_doors_of_a_guest_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "DOORS_KEPT_MAX", 3)
    store = Store(tmp_path / "s.db")
    store.keep_door("bob", StoredDoor("x11:/tmp/.X11-unix/X1", "", "", "", False))
    for number in range(5):
        store.keep_door("alice", StoredDoor(f"vnc://vm:{5900 + number}", "", "", "", False))
    assert [door.door[-1] for door in store.guest("alice").doors] == ["2", "3", "4"]
    assert len(store.guest("bob").doors) == 1
    store.close()


def test_ids_are_never_reused(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    first = store.add_token(made("a"))
    second = store.add_token(made("b"))
    store.remove_token(second.id)
    third = store.add_token(made("c"))
    assert len({first.id, second.id, third.id}) == 3
    store.close()


# -- versions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_file_of_0_1_0_is_read_even_after_kill(journal: str, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    writing = f"""
import os, signal, sqlite3
db = sqlite3.connect({str(path)!r}, isolation_level=None)
db.execute("PRAGMA journal_mode={journal}")
db.executescript({AS_0_1_0!r})
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", writing], check=False)
    assert (tmp_path / "state.db-wal").exists() == (journal == "wal")
    store = Store(path)
    assert [(t.id, t.name, t.digest, t.guests) for t in store.tokens()] == [
        (7, "alice at home", b"\1\2", frozenset({"alice"}))
    ]
    alice = store.guest("alice")
    assert store.guests() == {"alice": {"rate": 44_100, "channels": 2}} and alice.sinks == [("music", "Music")]
    assert alice.levels == {("sink", "default"): ((0.5, 0.25), True)} and store.recall("") == {"level/mpv": "0.5"}
    assert alice.grants == [(MONITOR, "pacat", Verdict.DENY)]
    assert store.add_token(made("next")).id == 8
    store.close()
    assert not (tmp_path / "state.db-wal").exists()


def test_versions_are_migrated_one_by_one_and_failure_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    first = Store(path)
    first.keep_sink("alice", "music", "Music")
    first.close()
    more = ("ALTER TABLE sinks ADD COLUMN rate INTEGER DEFAULT 7",)
    monkeypatch.setattr(storefile, "MIGRATIONS", (*MIGRATIONS, (*more, "no statement")))
    with pytest.raises(ConfigError, match="syntax error"):
        Store(path)
    monkeypatch.setattr(storefile, "MIGRATIONS", (*MIGRATIONS, more))
    Store(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT * FROM sinks").fetchall() == [("alice", "music", "Music", 7)]
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="newer"):
        Store(path)


def test_tokens_of_admins_get_new_rights_and_others_keep_theirs(tmp_path: Path) -> None:
    path, kept = tmp_path / "s.db", Right.SEE | Right.HEAR | Right.CONTROL
    Store(path).close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA user_version=3")
        for number, rights in enumerate((63, kept.value)):
            db.execute("INSERT INTO tokens VALUES (?, '', ?, ?, '[]', 0, 0)", (number, bytes([number]), rights))
    store = Store(path)
    assert [token.rights for token in store.tokens()] == [EVERYTHING, kept]
    store.close()


# -- a temporary error destroys nothing ------------------------------------------------------------


def test_locked_file_refuses_start_and_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.db"
    before = healthy(path)
    monkeypatch.setattr(storefile, "BUSY_S", 0.01)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for _ in range(2):
            with pytest.raises(ConfigError, match="locked: another program has it open"):
                Store(path)
    assert not list(tmp_path.glob("*broken*"))
    assert path.read_bytes() == before and still_has_its_rule(path)


def test_file_locked_while_running_refuses_changes_until_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storefile, "BUSY_S", 0.01)
    store = Store(tmp_path / "s.db")
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ConfigError, match=r"not saved: .*locked"):
            store.keep_sink("alice", "music", "Music")
        with pytest.raises(ConfigError, match=r"^not read: .*locked"):
            store.guest("alice")
        assert store.trouble
        other.execute("ROLLBACK")
    store.keep_sink("alice", "music", "Music")
    assert not store.trouble and store.guest("alice").sinks == [("music", "Music")]
    store.close()


@pytest.mark.parametrize("harm", ["not a database", "a page of zeros", "half of it"])
def test_damaged_file_refuses_every_start_and_is_left_alone(harm: str, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    whole = healthy(path)
    damaged = {
        "not a database": b"this is not a database" * 1000,
        "a page of zeros": whole[:4096] + bytes(4096) + whole[8192:],
        "half of it": whole[: len(whole) // 2],
    }[harm]
    path.write_bytes(damaged)
    files = set(tmp_path.iterdir())
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"state\.db is damaged or is not a database: restore.* move it away.*\("):
            Store(path)
    assert path.read_bytes() == damaged and set(tmp_path.iterdir()) == files
    path.write_bytes(whole)
    assert still_has_its_rule(path)
    path.rename(tmp_path / "state.db.damaged")
    store = Store(path)
    assert store.guest("alice").grants == [] and store.tokens() == []
    store.close()


ODD_ROWS = {
    "tokens": "INSERT INTO tokens (name, digest, rights, guests) VALUES ('t', x'00', 1048576, '[]')",
    "guests": "INSERT INTO guests VALUES ('alice', '[1]')",
    "levels": "INSERT INTO levels VALUES ('alice', 'sink', 'millrace', '[\"loud\"]', 0)",
    "grants": "INSERT INTO grants VALUES ('alice', 'fly', '*', 0)",
    "doors": "INSERT INTO doors VALUES ('alice', NULL, '', '', '', 0)",
    "verdicts": "INSERT INTO grants VALUES ('alice', 'monitor', '*', 7)",
}


@pytest.mark.parametrize("where", ODD_ROWS)
def test_invalid_row_is_reported_and_not_read(where: str, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    healthy(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(ODD_ROWS[where])
    store = Store(path)
    read = {"tokens": store.tokens, "guests": store.guests}.get(where, partial(store.guest, "alice"))
    with pytest.raises(ConfigError, match=r"^not read: .*state\.db: .*not in Millrace's format .*sqlite3"):
        read()
    assert not store.trouble
    assert store.guest("bob").grants == []
    store.keep_sink("bob", "music", "Music")
    store.close()


def test_invalid_value_is_no_file_error_and_internal_error_is_not_hidden(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    with pytest.raises(ConfigError, match=r"^not saved: .*a lone surrogate"):
        store.keep_sink("alice", "music", "\ud800")
    assert not store.trouble and store.guest("alice").sinks == []
    with pytest.raises(ValueError, match="our own"), store._writing():
        raise ValueError("our own")
    store.close()


def test_acknowledged_change_is_synced_and_no_journal_is_left_to_undo_it(tmp_path: Path) -> None:
    """SQLite: FULL is 2: both files are synced before a change ends; the journal that stays has a header of zeros."""
    store = Store(tmp_path / "s.db")
    store.keep_sink("alice", "music", "Music")
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("persist",)
    assert (tmp_path / "s.db-journal").read_bytes()[:28] == bytes(28)
    store.close()


class Faulty:
    """A connection whose COMMIT reports an error after `instead` was done, and which then reads the file again."""

    def __init__(self, db: sqlite3.Connection, instead: str) -> None:
        self.db, self.instead, self.again = db, instead, 0

    def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        if statement == "PRAGMA data_version":
            return self.db.execute(f"SELECT data_version + {self.again} FROM pragma_data_version")
        if statement != "COMMIT":
            return self.db.execute(statement, *values)  # type: ignore[arg-type]
        self.db.execute(self.instead)
        self.again += 2 if self.instead == "COMMIT" else 0
        raise sqlite3.OperationalError("disk I/O error")

    @property
    def in_transaction(self) -> bool:
        return self.db.in_transaction

    def close(self) -> None:
        self.db.close()


@pytest.mark.parametrize("instead", ["COMMIT", "ROLLBACK"])
def test_change_is_refused_exactly_if_it_is_not_on_disk(instead: str, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = Store(path)
    store.keep_grant("alice", MONITOR, "before", Verdict.DENY)
    store._db = faulty = Faulty(store._db, instead)  # type: ignore[assignment]
    if instead == "ROLLBACK":
        with pytest.raises(NotSaved, match="disk I/O error"):
            store.keep_grant("alice", MONITOR, "pacat", Verdict.DENY)
    else:
        store.keep_grant("alice", MONITOR, "pacat", Verdict.DENY)
    faulty.instead = "COMMIT"
    expected = {"before"} | ({"pacat"} if instead == "COMMIT" else set())
    assert {program for _, program, _ in store.guest("alice").grants} == expected
    store.keep_grant("alice", MONITOR, "after", Verdict.DENY)
    assert not store.trouble
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("DELETE FROM grants WHERE program = 'after'")
    with pytest.raises(NotSaved, match=r"another program has .* changed it"):
        store.keep_grant("alice", MONITOR, "lost", Verdict.DENY)
    store.close()
    again = Store(path)
    assert {program for _, program, _ in again.guest("alice").grants} == expected
    again.close()


def test_error_while_room_is_taken_refuses_no_later_change(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    store._reserved = False
    store._db = Faulty(store._db, "COMMIT")  # type: ignore[assignment]
    for name in ("music", "film"):
        store.keep_sink("alice", name, "")
    assert len(store.guest("alice").sinks) == 2
    store.close()


def test_advice_follows_primary_error_and_other_errors_have_none() -> None:
    error = sqlite3.OperationalError("disk I/O error")
    assert not remedy_of(error) and not remedy_of(OSError("no"))
    error.sqlite_errorcode = 1034  # SQLITE_IOERR_FSYNC
    assert "the disk is failing" in remedy_of(error)


def test_unwritable_file_refuses_start(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    before = healthy(path)
    said = as_nobody(tmp_path, f"Store(Path({str(path)!r}))")
    assert "ConfigError" in said and "Permission denied" in said, said
    (tmp_path / "state.db.lock").chmod(0o666)
    path.chmod(0o644)
    said = as_nobody(tmp_path, f"Store(Path({str(path)!r}))")
    assert "ConfigError" in said and "XDG_STATE_HOME" in said, said
    path.chmod(0o600)
    assert path.read_bytes() == before and still_has_its_rule(path)


def as_nobody(folder: Path, statement: str) -> str:
    """The output of a process that may not write there; root drops its privileges for it."""
    if os.getuid() == 0:
        for parent in (folder, *folder.parents[:-2]):
            parent.chmod(parent.stat().st_mode | 0o055)
        statement = f"import os; os.setgid(65534); os.setuid(65534); {statement}"
    else:
        folder.chmod(0o500)
    code = f"from pathlib import Path; from millrace.control.store import Store; {statement}"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    finally:
        folder.chmod(0o700)
    return done.stderr


# -- one daemon at a time --------------------------------------------------------------------------


def test_store_has_one_daemon_at_a_time_and_crash_releases_lock(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    holding = f"""
from pathlib import Path; from millrace.control.store import Store, StoredDoor
from millrace.control.storefile import NotSaved
from millrace.control.storefaults import remedy_of
store = Store(Path({str(path)!r})); print("held", flush=True); input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", holding], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=rf"in use by another daemon.*process {other.pid}"):
            Store(path)
        other.kill()
    Store(path).close()


def test_removed_lock_file_is_created_anew(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock", "taken")
    with pytest.raises(ConfigError, match="taken"):
        FileLock(tmp_path / "lock", "taken")
    lock.release()
    lock.release()
    FileLock(tmp_path / "lock", "taken").release()
    with pytest.raises(ConfigError, match="can't be locked: No such file"):
        FileLock(tmp_path / "no" / "lock", "taken")
