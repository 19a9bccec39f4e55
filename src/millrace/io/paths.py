"""Where things live (XDG Base Directory Specification)."""

from __future__ import annotations

import os
from pathlib import Path

API_SOCKET, NATIVE_SOCKET, HANDOVER_SOCKET, RUNTIME_LOCK = "api.sock", "native.sock", "attach.sock", "lock"
RUNTIME_NAMES = frozenset({API_SOCKET, NATIVE_SOCKET, HANDOVER_SOCKET, RUNTIME_LOCK})
"""The daemon's own files in the runtime folder, where each guest has a folder of its name too."""


def runtime_dir() -> Path:
    """$XDG_RUNTIME_DIR/millrace, or a private place under /tmp for this user."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "millrace" if base else Path(f"/tmp/millrace-{os.getuid()}")


def state_path() -> Path:
    """$XDG_STATE_HOME/millrace/state.db."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "millrace" / "state.db"


def config_path() -> Path:
    """Where the configuration is looked for when none is named."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "millrace" / "config.toml"


def policy_path() -> Path:
    """Where the policy's configuration is looked for."""
    return config_path().with_name("policy.toml")
