"""File locations (XDG Base Directory Specification). A process may have no home directory, and its user no name."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from millrace.errors import ConfigError
from millrace.text import well_formed

API_SOCKET, NATIVE_SOCKET, HANDOVER_SOCKET = "api.sock", "native.sock", "attach.sock"
RUNTIME_LOCK, KEY_FILE = "lock", "key"
RUNTIME_NAMES = frozenset({API_SOCKET, NATIVE_SOCKET, HANDOVER_SOCKET, RUNTIME_LOCK, KEY_FILE})
"""The daemon's own files in the runtime directory, where each guest has a directory named after it too."""
SYSTEM_CONFIG = Path("/etc/xdg")
TEMPORARY = Path("/tmp")


def runtime_dir() -> Path:
    """$XDG_RUNTIME_DIR/millrace, or else a private directory of this user under /tmp; ConfigError if another user made
    that."""
    base = _named("XDG_RUNTIME_DIR")
    if base:
        return base / "millrace"
    path = TEMPORARY / f"millrace-{os.getuid()}"
    # Whatever answers at a socket in there is trusted as this user's own daemon.
    with suppress(FileNotFoundError):
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise ConfigError(f"{path} is not owned by this user; set XDG_RUNTIME_DIR to a directory that is")
    return path


def state_path() -> Path:
    """$XDG_STATE_HOME/millrace/state.db; ConfigError if there is no home directory for it."""
    return _under("XDG_STATE_HOME", ".local/state") / "millrace" / "state.db"


def cache_dir() -> Path:
    """$XDG_CACHE_HOME/millrace; ConfigError if there is no home directory for it."""
    return _under("XDG_CACHE_HOME", ".cache") / "millrace"


def config_path() -> Path:
    """The default configuration file. Without a home directory, the system-wide one."""
    home = _home()
    base = _named("XDG_CONFIG_HOME") or (home / ".config" if home else SYSTEM_CONFIG)
    return base / "millrace" / "config.toml"


def policy_path() -> Path:
    """The policy's default configuration file."""
    return config_path().with_name("policy.toml")


def is_there(path: Path) -> bool:
    """Whether the file exists; ConfigError if this user has no permission to look."""
    try:
        path.stat()
    except PermissionError:
        raise ConfigError(
            f"{path}: permission denied; set HOME or XDG_CONFIG_HOME to a directory of this user"
        ) from None
    except OSError:
        return False
    return True


def expanded(text: str) -> Path:
    """Expand a path that may begin with ~; ConfigError if there is no home directory."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ConfigError(f"{text}: user {os.getuid()} has no home directory; give an absolute path") from None


# An environment variable may hold any bytes, and Python shows those that are no UTF-8 as lone surrogates: refused here,
# where the name of the variable is known.
def _named(variable: str) -> Path | None:
    """A directory from the environment. The specification says to ignore relative ones."""
    path = Path(well_formed(os.environ.get(variable, ""), f"{variable}:"))
    return path if path.is_absolute() else None


def _home() -> Path | None:
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if home.is_absolute() else None


def _under(variable: str, place: str) -> Path:
    home = _home()
    base = _named(variable) or (home / place if home else None)
    if base is None:
        raise ConfigError(f"user {os.getuid()} has no home directory: set HOME, or {variable} to a folder")
    return base
