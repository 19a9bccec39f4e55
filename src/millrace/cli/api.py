"""Requests to the daemon: HTTP over its private unix socket, with the standard library only, which starts fast."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from millrace.errors import ConfigError, GraphError, MillraceError, RightsError
from millrace.io.paths import API_SOCKET, runtime_dir
from millrace.text import well_formed

WRONG = frozenset({400, 413, 414, 422, 431})
"""Statuses that mean that the request is malformed or too large."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        """See http.client."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def path_of(*names: str) -> str:
    """The API path of an object, with its names quoted: they may contain any character."""
    return "/api/v1/" + "/".join(quote(name, safe="", errors="surrogateescape") for name in names)


def query_of(path: str, **given: str | None) -> str:
    """`path` with a query string of the arguments that are not None."""
    kept = {key: value for key, value in given.items() if value is not None}
    return f"{path}?{urlencode(kept, errors='surrogateescape')}" if kept else path


def refusal(status: int) -> type[MillraceError]:
    """The error class for an HTTP status: ConfigError if the request itself is wrong (exit code 2), GraphError if the
    daemon refuses it in its current state (3)."""
    if status in (401, 403):
        return RightsError
    return ConfigError if status in WRONG else GraphError


def _texts(value: Any) -> Iterator[str]:
    """All texts of a body."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        yield from _texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def call(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Send a request to this user's daemon. For errors see `refusal`; ConfigError if no daemon runs."""
    for text in _texts(body):
        well_formed(text, "the argument")
    where = runtime_dir() / API_SOCKET
    connection = _UnixConnection(where)
    try:
        data = json.dumps(body).encode() if body is not None else None
        connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
    except (FileNotFoundError, ConnectionRefusedError):
        raise ConfigError(f"no daemon answers at {where}; start one with `millrace serve`") from None
    except (OSError, http.client.HTTPException) as error:
        raise ConfigError(f"{where}: {error or type(error).__name__}") from None
    finally:
        connection.close()
    try:
        parsed = json.loads(text) if text else {}
    except json.JSONDecodeError:
        parsed = {"error": text.strip()}
    if response.status >= 400:
        why = parsed.get("error") if isinstance(parsed, dict) else None
        raise refusal(response.status)(why or f"the daemon answered {response.status}")
    return parsed
