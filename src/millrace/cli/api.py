"""Talking to the daemon: HTTP over its private unix socket, with the standard library alone (quick to start)."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from millrace.errors import ConfigError, GraphError
from millrace.io.paths import API_SOCKET, runtime_dir


class _UnixConnection(http.client.HTTPConnection):
    """HTTP on a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        """See http.client."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def call(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Ask the daemon of this user; GraphError carries its refusal, ConfigError says that there is none."""
    where = runtime_dir() / API_SOCKET
    connection = _UnixConnection(where)
    try:
        data = json.dumps(body).encode() if body is not None else None
        connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
        response = connection.getresponse()
        text = response.read().decode()
    except (FileNotFoundError, ConnectionRefusedError):
        raise ConfigError(f"no daemon answers at {where}; start one with `millrace serve`") from None
    except OSError as error:
        raise ConfigError(f"{where}: {error}") from None
    finally:
        connection.close()
    try:
        parsed = json.loads(text) if text else {}
    except json.JSONDecodeError:
        parsed = {"error": text.strip()}
    if response.status >= 400:
        raise GraphError(parsed.get("error", f"the daemon answered {response.status}"))
    return parsed
