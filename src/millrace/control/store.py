"""State that survives a restart, in SQLite: tokens, grants, added guests and sinks, volumes, attached machines.

Also what session managers store. Media processing never waits for it.

An error neither destroys data nor grants access. If the file is locked, read-only, damaged or replaced, or its disk is
full, the change (or the daemon's start) fails with an explanation. Carrying on without the stored rules would admit
programs that they deny, so only the operator can decide that, by moving the file away.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from typing import Any

import msgspec

from millrace.control.sessions import ENDED_MAX
from millrace.control.storefile import StoreFile, understood
from millrace.graph.model import FIRST_SINK
from millrace.guest.config import stream_table
from millrace.remembered.devices import LEVELS_MAX, Level
from millrace.rights.grants import Permission, Verdict
from millrace.rights.model import EVERYTHING, Right
from millrace.rights.tokens import Token
from millrace.text import quoted

MEMORY_MAX = 20_000
"""Keys stored for session managers; beyond that the oldest are dropped."""
DOORS_KEPT_MAX = 64
"""Doors stored of a guest; beyond that the oldest are dropped."""

_DOOR = "door, vm, password_file, ca_file, confined"


class StoredDoor(msgspec.Struct, frozen=True):
    """A door that was attached by command."""

    door: str
    """As users write it."""
    vm: str
    password_file: str
    ca_file: str
    confined: bool
    """Whether it was attached by an admin of the guest alone, whom the configuration confines."""


class StoredGuest(msgspec.Struct, frozen=True):
    """Stored state of one guest."""

    sinks: list[tuple[str, str | None]] = msgspec.field(default_factory=list)
    """(name, description); without a description, the sink that the guest begins with was removed."""
    levels: dict[tuple[str, str], Level] = msgspec.field(default_factory=dict)
    """By (kind, name) of sinks and sources."""
    defaults: dict[str, str] = msgspec.field(default_factory=dict)
    """Names of the chosen default sink and source, by kind."""
    grants: list[tuple[Permission, str, Verdict]] = msgspec.field(default_factory=list)
    """(what, program, verdict)."""
    doors: list[StoredDoor] = msgspec.field(default_factory=list)


class Store(StoreFile):
    """The tables of one daemon; used by one thread at a time."""

    # -- tokens ------------------------------------------------------------------------------------

    def tokens(self) -> list[Token]:
        """All stored tokens."""
        with self._reading(), understood("a token"):
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
        with self._writing(takes_away=True) as db:
            db.execute("UPDATE tokens SET digest = ? WHERE id = ?", (token.digest, token.id))

    def remove_token(self, id_: int) -> None:
        """Delete a token."""
        # Takes no room: all keys of these indices have one length.
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
        with self._writing(takes_away=True) as db:
            db.execute("INSERT OR IGNORE INTO ended VALUES (?, ?)", (secret, number))
            db.execute(f"DELETE FROM ended WHERE secret = ? AND rowid NOT IN ({newest})", (secret, secret, ENDED_MAX))
            db.execute(f"DELETE FROM ended WHERE {gone}", others)

    # -- guests --------------------------------------------------------------------------------------

    def guests(self) -> dict[str, dict[str, Any]]:
        """Guests added at run time, with their options."""
        with self._reading(), understood("a guest"):
            return {name: dict(json.loads(options)) for name, options in self._rows("SELECT name, options FROM guests")}

    def guest(self, name: str) -> StoredGuest:
        """Stored state of a guest."""
        with self._reading(), understood(f"a level or a rule of guest {quoted(name)}"):
            sinks = self._rows("SELECT name, description FROM sinks WHERE guest = ? ORDER BY rowid", name)
            levels = self._rows("SELECT kind, name, gains, mute FROM levels WHERE guest = ?", name)
            grants = self._rows("SELECT what, program, allow FROM grants WHERE guest = ?", name)
            doors = self._rows(f"SELECT {_DOOR} FROM doors WHERE guest = ? ORDER BY rowid", name)
            return StoredGuest(
                sinks,
                {(kind, name): (_gains(gains), bool(mute)) for kind, name, gains, mute in levels},
                dict(self._rows("SELECT kind, name FROM defaults WHERE guest = ?", name)),
                [(Permission(what), program, Verdict(verdict)) for what, program, verdict in grants],
                [_door(*row) for row in doors],
            )

    def keep_guest(self, name: str, options: dict[str, Any]) -> None:
        """Store a guest that was added."""
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO guests VALUES (?, ?)", (name, json.dumps(options)))

    def remove_guest(self, name: str) -> None:
        """Delete a guest and all rights to it: a later guest of the same name is a different one."""
        with self._writing(takes_away=True) as db:
            db.execute("DELETE FROM guests WHERE name = ?", (name,))
            for table in ("levels", "defaults", "sinks", "grants", "doors"):
                db.execute(f"DELETE FROM {table} WHERE guest = ?", (name,))
            streams = stream_table(name)
            db.execute("DELETE FROM memory WHERE substr(key, 1, ?) = ?", (len(streams), streams))
            _remove_rights(db, name)

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
        """Store a sink; None deletes it. The sink that a guest begins with needs no row, and its removal is one."""
        with self._writing() as db:
            if description is None and name != FIRST_SINK:
                db.execute("DELETE FROM sinks WHERE guest = ? AND name = ?", (guest, name))
            else:
                db.execute("INSERT OR REPLACE INTO sinks VALUES (?, ?, ?)", (guest, name, description))

    def keep_grant(self, guest: str, what: Permission, program: str, verdict: Verdict | None) -> None:
        """Store a rule; None deletes it."""
        with self._writing(takes_away=verdict is not Verdict.ALLOW) as db:
            if verdict is None:
                rule = (guest, what.value, program)
                db.execute("DELETE FROM grants WHERE guest = ? AND what = ? AND program = ?", rule)
            else:
                values = (guest, what.value, program, verdict.value)
                db.execute("INSERT OR REPLACE INTO grants VALUES (?, ?, ?, ?)", values)

    def keep_door(self, guest: str, door: StoredDoor) -> None:
        """Store a door, in the place of one with that address and machine."""
        with self._writing() as db:
            db.execute(f"INSERT OR REPLACE INTO doors (guest, {_DOOR}) VALUES (?, ?, ?, ?, ?, ?)",
                       (guest, door.door, door.vm, door.password_file, door.ca_file, int(door.confined)))  # fmt: skip
            newest = "SELECT rowid FROM doors WHERE guest = ? ORDER BY rowid DESC LIMIT ?"
            db.execute(f"DELETE FROM doors WHERE guest = ? AND rowid NOT IN ({newest})", (guest, guest, DOORS_KEPT_MAX))

    def drop_door(self, guest: str, door: str, vm: str) -> None:
        """Delete a door."""
        with self._writing(takes_away=True) as db:
            db.execute("DELETE FROM doors WHERE guest = ? AND door = ? AND vm = ?", (guest, door, vm))

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


def _remove_rights(db: sqlite3.Connection, guest: str) -> None:
    """Drop a guest from all tokens, and delete those that cover no other."""
    for id_, guests in db.execute("SELECT id, guests FROM tokens").fetchall():
        with understood("a token"):
            names = json.loads(guests)
        rest = [other for other in names if other != guest]
        if rest and rest != names:
            db.execute("UPDATE tokens SET guests = ? WHERE id = ?", (json.dumps(rest), id_))
        elif rest != names:
            db.execute("DELETE FROM tokens WHERE id = ?", (id_,))


def _door(door: object, vm: object, password_file: object, ca_file: object, confined: object) -> StoredDoor:
    return StoredDoor(_text(door), _text(vm), _text(password_file), _text(ca_file), bool(confined))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _gains(text: str) -> tuple[float, ...]:
    return tuple(float(gain) for gain in json.loads(text))


# Those who may do everything may also do what there was no right for when they were stored.
def _rights(number: int) -> Right:
    """The rights of a stored token."""
    if number & ~EVERYTHING.value:
        # Python 3.11.2, Debian 12's, takes bits that no flag has.
        raise ValueError(f"rights {number}: not known")
    return EVERYTHING if Right.ADMIN in Right(number) else Right(number)
