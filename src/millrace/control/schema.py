"""The tables of the store, and how a file of an earlier version becomes one of this."""

from __future__ import annotations

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE IF NOT EXISTS tokens (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, digest BLOB UNIQUE,"
        " rights INTEGER, guests TEXT, created_s INTEGER, expires_s INTEGER)",
        "CREATE TABLE IF NOT EXISTS guests (name TEXT PRIMARY KEY, options TEXT)",
        "CREATE TABLE IF NOT EXISTS grants (guest TEXT, what TEXT, program TEXT, allow INTEGER,"
        " PRIMARY KEY (guest, what, program))",
        "CREATE TABLE IF NOT EXISTS levels (guest TEXT, kind TEXT, name TEXT, gains TEXT, mute INTEGER,"
        " PRIMARY KEY (guest, kind, name))",
        "CREATE TABLE IF NOT EXISTS sinks (guest TEXT, name TEXT, description TEXT, PRIMARY KEY (guest, name))",
        "CREATE TABLE IF NOT EXISTS memory (key TEXT PRIMARY KEY, value TEXT)",
    ),
    ("CREATE TABLE IF NOT EXISTS ended (secret BLOB, number TEXT, PRIMARY KEY (secret, number))",),
    ("CREATE TABLE IF NOT EXISTS defaults (guest TEXT, kind TEXT, name TEXT, PRIMARY KEY (guest, kind))",),
    # Tokens with admin (32) get the new rights to watch (64) and to type (128), as admin covers everything.
    ("UPDATE tokens SET rights = rights | 192 WHERE rights & 32",),
    (
        "CREATE TABLE IF NOT EXISTS doors (guest TEXT, door TEXT, vm TEXT, password_file TEXT, ca_file TEXT,"
        " confined INTEGER, PRIMARY KEY (guest, door, vm))",
    ),
)
"""Statements that migrate a file from version n (its `user_version`) to n + 1. Append only: files rely on the order."""
