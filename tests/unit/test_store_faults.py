"""The store: changes that are whole or not made, full disks, and files that are replaced."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from millrace.control.store import Store, StoredDoor
from millrace.control.storefile import ROOM_BYTES, NotSaved
from millrace.errors import ConfigError
from millrace.rights.grants import Verdict
from millrace.rights.model import Right
from millrace.rights.tokens import Token
from tests.places import fill, lack, small_disk
from tests.storefiles import MONITOR, healthy, still_has_its_rule

# -- whole changes ---------------------------------------------------------------------------------


def killed(change: Callable[[], object], at: int, db: sqlite3.Connection) -> bool:
    """Make a change in a process killed after `at` steps of SQLite's virtual machine; returns whether it was killed."""
    child = os.fork()
    if child == 0:
        left = at

        def step() -> int:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return 0

        db.set_progress_handler(step, 1)
        change()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def new_token(digest: bytes, *guests: str) -> Token:
    return Token(0, "x" * 90, digest, Right.SEE, frozenset(guests), 1, 0)


@pytest.mark.parametrize("what", ["rule", "guest"])
def test_kill_at_any_step_leaves_complete_change_or_none(what: str, tmp_path: Path) -> None:
    path, prepared = tmp_path / "state.db", tmp_path / "prepared"
    rules = [(MONITOR, "pacat", Verdict.DENY)]
    store = Store(prepared)
    store.keep_guest("alice", {"rate": 44_100})
    store.keep_sink("alice", "music", "Music")
    store.keep_grant("alice", *rules[0])
    store.keep_door("alice", StoredDoor("vnc://vm:5901", "", "", "", False))
    store.add_token(new_token(b"1", "alice"))
    store.add_token(new_token(b"2", "alice", "bob"))
    store.close()
    at, outcomes = 0, set()
    while True:
        shutil.copy(prepared, path)
        store = Store(path)
        change = partial(store.keep_grant, "alice", MONITOR, "pacat", Verdict.PROMPT)
        ended = killed(change if what == "rule" else partial(store.remove_guest, "alice"), at, store._db)
        store.close()
        store = Store(path)
        alice = store.guest("alice")
        if what == "rule":
            assert alice.grants in (rules, [(MONITOR, "pacat", Verdict.PROMPT)]), at
        else:
            may_in = [sorted(kept.guests) for kept in store.tokens()]
            there = (bool(store.guests()), bool(alice.sinks), bool(alice.grants), bool(alice.doors), may_in)
            assert there in ((True,) * 4 + ([["alice"], ["alice", "bob"]],), (False,) * 4 + ([["bob"]],)), (at, there)
        outcomes.add(str(alice.grants))
        store.close()
        if not ended:
            break
        at += 1 + at // 6
    assert len(outcomes) == 2 and at > 20


WRITER = """
import sys
from pathlib import Path
from millrace.control.store import Store, StoredDoor
from millrace.control.storefile import ROOM_BYTES, NotSaved
from millrace.control.storefaults import remedy_of
from millrace.rights.grants import Permission, Verdict
store = Store(Path(sys.argv[1]))
for n in range(10**6):
    store.keep_grant("alice", Permission.MONITOR, "pacat", (Verdict.DENY, Verdict.PROMPT)[n % 2])
    store.keep_sink("alice", f"sink{n}", "x" * 500)
    print(n, flush=True)
"""


def test_acknowledged_change_survives_kill_at_any_time(tmp_path: Path) -> None:
    chance = random.Random(12)
    path = tmp_path / "state.db"
    for _ in range(3):
        path.unlink(missing_ok=True)
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(chance.uniform(0.0, 0.1))
            writer.kill()
            acknowledged = int(("0\n" + writer.stdout.read()).rpartition("\n")[0].rpartition("\n")[2])
        store = Store(path)
        kept = {name for name, _ in store.guest("alice").sinks}
        assert {f"sink{n}" for n in range(acknowledged + 1)} <= kept
        assert len(store.guest("alice").grants) == 1
        store.close()


# -- full disks ------------------------------------------------------------------------------------


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A small disk."""
    with small_disk(tmp_path / "small"):
        yield tmp_path / "small"


def test_full_disk_refuses_changes_completely_and_recovers(full: Path) -> None:
    path = full / "state.db"
    store = Store(path)
    store.keep_grant("alice", MONITOR, "pacat", Verdict.DENY)
    fill(full)
    kept = 0
    with pytest.raises(ConfigError, match="not saved") as refused:
        for n in range(3000):
            store.keep_level("alice", "sink", f"sink{n}" * 30, ((1.0,), False))
            kept += 1
    assert str(path) in str(refused.value) and store.trouble
    assert len(store.guest("alice").levels) == kept
    store.close()
    (full / "filler").unlink()
    assert still_has_its_rule(path)
    store = Store(path)
    store.keep_sink("alice", "music", "Music")
    assert not store.trouble and len(store.guest("alice").levels) == kept
    store.close()


def test_full_disk_keeps_nobody_in(tmp_path: Path) -> None:
    """What is taken away from somebody is stored, also by a change of many pages, and also after a restart there."""
    with small_disk(tmp_path / "d", 512 * 1024):
        path = tmp_path / "d" / "state.db"
        store = Store(path)
        tokens = [store.add_token(new_token(bytes([n]) * 32)) for n in range(60)]
        fill(path.parent)
        with pytest.raises(ConfigError, match="not saved"):
            for n in range(3000):
                store.keep_level("alice", "sink", f"sink{n}" * 30, ((1.0,), False))
        for again in range(2):
            store.keep_grant("alice", MONITOR, f"program {again}", Verdict.DENY)
            for token in tokens[30 * again : 30 * again + 20]:
                store.remove_token(token.id)
            for n in range(40):
                store.keep_ended(tokens[59].digest, f"{again}-{n:020}", [])
            store.replace_token(replace(tokens[50], digest=bytes(32)))
            store.close()
            store = Store(path)
        assert (
            len(store.tokens()) == 20 and len(store.ended()) == 80 and bytes(32) in [t.digest for t in store.tokens()]
        )
        assert len(store.guest("alice").grants) == 2
        (path.parent / "filler").unlink()
        store.keep_sink("alice", "music", "Music")
        assert store._reserved and store._db.execute("SELECT length(zeros) FROM room").fetchall() == [(ROOM_BYTES,)]
        store.close()


def filled_up(store: Store) -> None:
    """Fill the disk, and what is free in the store's file."""
    fill(store.path.parent)
    with pytest.raises(NotSaved):
        for n in range(3000):
            store.keep_level("bob", "sink", f"sink{n}" * 30, ((1.0,), False))


@pytest.mark.parametrize("what", ["tokens", "levels"])
def test_full_disk_keeps_no_guest(what: str, tmp_path: Path) -> None:
    """A guest is removed, however many pages that changes."""
    with small_disk(tmp_path / "d", 2**20):
        store = Store(tmp_path / "d" / "state.db")
        store.keep_guest("alice", {})
        if what == "tokens":
            for n in range(400):
                store.add_token(new_token(n.to_bytes(32, "big"), "alice", "bob"))
        else:
            store.keep_devices("alice", {("sink", f"sink{n}" * 30): ((1.0,), False) for n in range(400)}, {})
        filled_up(store)
        store.remove_guest("alice")
        assert not store.guests() and not store.guest("alice").levels
        assert {name for kept in store.tokens() for name in kept.guests} <= {"bob"}
        store.close()


def test_full_disk_takes_changes_without_growth_once_the_room_is_taken(tmp_path: Path) -> None:
    with small_disk(tmp_path / "d", 512 * 1024):
        store = Store(tmp_path / "d" / "state.db")
        filled_up(store)
        store.keep_ended(b"key", "1", [b"key"])
        assert not store._reserved
        for n in range(2):
            store.keep_sink("alice", f"music{n}", "x" * 5000)
            assert not store._reserved, "there is no room for it again"
        assert len(store.guest("alice").sinks) == 2 and not store.trouble
        store.close()


def deny(store: Store, guest: str, program: str) -> None:
    store.keep_grant(guest, MONITOR, "p" * 300, Verdict.DENY)


def delete_rule(store: Store, guest: str, program: str) -> None:
    store.keep_grant(guest, MONITOR, program, None)


def drop_door(store: Store, guest: str, program: str) -> None:
    store.drop_door(guest, program, "")


def remove_guest(store: Store, guest: str, program: str) -> None:
    store.remove_guest(guest)


def rotate(store: Store, guest: str, program: str) -> None:
    """All secrets have their new place in the index beside one another."""
    store.replace_token(replace(new_token(bytes([3, 200]) + guest.encode() + bytes(25)), id=int(guest[1:]) + 1))


@pytest.mark.parametrize("take", [deny, delete_rule, drop_door, remove_guest, rotate])
def test_what_takes_away_may_use_the_room(take: Callable[[Store, str, str], None], tmp_path: Path) -> None:
    """Deleting may need pages as well: the key that takes the place of another in an index may be longer."""
    store, chance = Store(tmp_path / "state.db"), random.Random(6)
    rules = [(f"g{n:04}", "p" * chance.choice((1, 1, 600))) for n in range(1500)]
    with store._writing() as db:
        allowed = [(guest, MONITOR.value, program, Verdict.ALLOW.value) for guest, program in rules]
        db.executemany("INSERT INTO grants VALUES (?, ?, ?, ?)", allowed)
        db.executemany("INSERT INTO doors VALUES (?, ?, '', '', '', 0)", rules)
        digests = [(n.to_bytes(2, "big") * 16,) for n in range(1500)]
        db.executemany("INSERT INTO tokens (name, digest, rights, guests) VALUES ('t', ?, 1, '[]')", digests)
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count={pages}")
    chance.shuffle(rules)
    for guest, program in rules[: 12 if take is deny else 300]:
        take(store, guest, program)
    store.close()


def test_start_on_full_disk_leaves_file_alone(full: Path) -> None:
    path = full / "state.db"
    healthy(path)
    # With the room that its rule had taken.
    Store(path).close()
    before = path.read_bytes()
    fill(full)
    assert still_has_its_rule(path)
    assert path.read_bytes() == before and not list(full.glob("*broken*"))


def test_first_start_on_full_disk_is_refused(tmp_path: Path) -> None:
    with small_disk(tmp_path / "d") as mounted:
        if not mounted:
            lack("a disk that can be mounted")
        path = tmp_path / "d" / "state.db"
        path.with_name("state.db.lock").touch()
        fill(path.parent)
        with pytest.raises(ConfigError, match=r"state\.db.*(full|I/O)"):
            Store(path)


# -- replaced files -------------------------------------------------------------------------------


def replaced(path: Path) -> None:
    other = path.with_name("other")
    shutil.copy(path, other)
    other.rename(path)


def overwritten(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path.with_name("other"))) as db:
        db.execute("CREATE TABLE t (x)")
    path.write_bytes(path.with_name("other").read_bytes())


def changed(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM grants")
        db.commit()


@pytest.mark.parametrize("swap", [replaced, overwritten, changed, Path.unlink])
def test_file_replaced_while_running_refuses_changes(swap: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    healthy(path)
    store = Store(path)
    swap(path)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"not saved: .*(moved, removed or changed|not a database|malformed)"):
            store.keep_sink("alice", "music", "Music")
    store.close()


def test_file_moved_away_and_back_accepts_changes_again(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = Store(path)
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="moved"):
        store.keep_sink("alice", "music", "Music")
    (tmp_path / "elsewhere").rename(path)
    store.keep_sink("alice", "film", "Film")
    store.close()
    store = Store(path)
    assert store.guest("alice").sinks == [("film", "Film")]
    store.close()


@pytest.mark.parametrize("before", ["INSERT", "DELETE", "COMMIT"])
def test_file_moved_away_during_change_refuses_it(before: str, tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "state.db", tmp_path / "elsewhere"
    store = Store(path)
    store._db.set_trace_callback(lambda sql: path.rename(elsewhere) if sql.startswith(before) else None)
    with pytest.raises(NotSaved, match="moved"):
        store.keep_devices("alice", {("sink", "music"): ((0.5,), False)}, {})
    store._db.set_trace_callback(None)
    elsewhere.rename(path)
    # What is refused has no effect, as far as that is known in time.
    assert bool(store.guest("alice").levels) == (before == "COMMIT")
    store.close()


def test_overwritten_file_is_reported_whatever_it_contains(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = Store(path)
    overwritten(path)
    with pytest.raises(NotSaved, match="another program has moved, removed or changed it"):
        store.keep_sink("alice", "music", "Music")
    store.close()
