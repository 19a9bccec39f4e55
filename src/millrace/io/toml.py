"""TOML configuration files. A table is read key by key, so that an error can list the keys it may have."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from millrace.errors import ConfigError
from millrace.io.paths import expanded, is_there
from millrace.text import printable, quoted

T = TypeVar("T")
NAMES = {str: "a string", bool: "true or false", list: "a list", dict: "a table"}


@contextmanager
def under(where: str) -> Iterator[None]:
    """Name the key `where` in errors of its value's own parser."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def read_config(path: Path | None, default: Path, parse: Callable[[dict[str, Any]], T]) -> T | None:
    """Parse the file at `path`, or the default one if there is one. ConfigError names the file, and what is wrong."""
    source = path or default
    if path is None and not is_there(source):
        return None
    with under(str(source)):
        return parse(_toml(source))


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(str(error.strerror)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(error)) from None
    except (ValueError, RecursionError):
        raise ConfigError("a number has too many digits, or brackets are nested too deeply") from None


class Table:
    """Values by key. Read every key that may occur, then call `end`; `where` is the table's name in messages."""

    def __init__(self, values: dict[str, Any], where: str = "") -> None:
        self._left, self.where = dict(values), where
        self._known: list[str] = []

    def name(self, key: str) -> str:
        """The full name of a key."""
        return f"{self.where}.{key}" if self.where else key

    def any(self, key: str, default: Any = None) -> Any:
        """A value of whatever type."""
        self._known.append(key)
        return self._left.pop(key, default)

    def take(self, key: str, kind: type, default: Any = None) -> Any:
        """A value of type `kind`, or the default if there is none; ConfigError if it has another type."""
        value = self.any(key)
        if value is None:
            return default
        if not isinstance(value, kind):
            raise ConfigError(f"{self.name(key)} must be {NAMES[kind]}, not {quoted(value)}")
        return value

    def text(self, key: str) -> str:
        """A string; empty if there is none."""
        return str(self.take(key, str, ""))

    def path(self, key: str) -> str:
        """A file's path, which may begin with ~; empty if there is none."""
        text = self.text(key)
        return str(expanded(text)) if text else ""

    def texts(self, key: str, default: tuple[str, ...] = ()) -> list[str]:
        """A list of strings."""
        found: list[str] = self.take(key, list, list(default))
        if not all(isinstance(item, str) for item in found):
            raise ConfigError(f"{self.name(key)} must be a list of strings, not {quoted(found)}")
        return found

    def table(self, key: str) -> Table:
        """A table within this one; empty if there is none."""
        return Table(self.take(key, dict, {}), self.name(key))

    def rest(self) -> dict[str, Any]:
        """What is left, for a table whose keys are names."""
        left, self._left = self._left, {}
        return left

    def end(self) -> None:
        """ConfigError if anything is left."""
        if self._left:
            unknown, known = ", ".join(map(printable, sorted(self._left))), ", ".join(self._known)
            where = f"{self.where}: " if self.where else ""
            near = [hit for key in sorted(self._left) for hit in get_close_matches(key, self._known, 1)]
            meant = f" (did you mean {', '.join(dict.fromkeys(near))}?)" if near else ""
            raise ConfigError(f"{where}unknown {unknown}{meant}; known: {known}")
