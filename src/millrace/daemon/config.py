"""Configuration: the TOML file, the token, and the XDG locations of files."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from millrace.budget import GUEST_BYTES_MAX, GUEST_BYTES_MIN
from millrace.errors import ConfigError
from millrace.guest.config import GuestConfig, checked_guest_name, graph_channels, graph_rate
from millrace.guest.machines.address import DoorSpec, parse_door, parse_places
from millrace.io.files import read_secret, read_toml
from millrace.io.paths import config_path, expanded, is_there, runtime_dir, state_path
from millrace.rights.grants import Permission, Verdict, parse_permission
from millrace.rights.model import ALL_GUESTS, GUEST_RIGHTS, Certificate, Right, parse_rights
from millrace.server.http.origins import Addresses, parse_addresses
from millrace.text import checked_int, parse_address, parse_size, printable, quoted

DEFAULT_LISTEN = "127.0.0.1:8642"
TOKEN_CHARS_MIN = 16
MEMORY_MAX = 1_000_000_000_000


@dataclass(frozen=True, slots=True)
class Config:
    """The daemon's configuration."""

    listen: str = DEFAULT_LISTEN
    guests: tuple[GuestConfig, ...] = (GuestConfig("default"),)
    tls_cert: str = ""
    tls_key: str = ""
    client_ca: str = ""
    """The CA that signs the certificates of TLS clients."""
    certificates: tuple[Certificate, ...] = ()
    addresses: Addresses = field(default_factory=Addresses)
    token: str = field(default="", repr=False)
    runtime: Path = field(default_factory=runtime_dir)
    state: Path = field(default_factory=state_path)


def _take(table: dict[str, Any], key: str, kind: type, where: str) -> Any:
    value = table.pop(key, None)
    if value is not None and not isinstance(value, kind):
        raise ConfigError(f"{where and f'{where}.'}{key} must be {kind.__name__}, not {quoted(value)}")
    return value


def _table(table: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """A subtable; empty if absent."""
    return _take(table, key, dict, where) or {}


def _no_more(table: dict[str, Any], where: str) -> None:
    if table:
        raise ConfigError(f"{where and f'{where}: '}unknown {', '.join(map(printable, sorted(table)))}")


def _addresses(value: Any, where: str) -> tuple[str, ...]:
    """One address or a list of them."""
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not all(isinstance(item, str) for item in listed):
        raise ConfigError(f"{where} must be HOST:PORT or a list of them, not {quoted(value)}")
    for item in listed:
        parse_address(item, where)
    return tuple(listed)


def _texts(table: dict[str, Any], key: str, where: str) -> list[str]:
    """A list of texts."""
    found = _take(table, key, list, where) or []
    if not all(isinstance(item, str) for item in found):
        raise ConfigError(f"{where}.{key} must be a list of strings, not {quoted(found)}")
    return found


def _guest(name: str, table: dict[str, Any]) -> GuestConfig:
    where = f"guest.{checked_guest_name(name)}"
    if not isinstance(table, dict):
        raise ConfigError(f"{where} is a table: [{where}]")
    rate = graph_rate(table.pop("rate", 48_000), f"{where}.rate")
    channels = graph_channels(table.pop("channels", 2), f"{where}.channels")
    tcp = _addresses(table.pop("pulse_tcp", ()), f"{where}.pulse_tcp")
    doors = _doors(table, where)
    places = parse_places(_texts(table, "attach", where), f"{where}.attach")
    microphone, rights = _take(table, "microphone", bool, where), _take(table, "rights", str, where)
    grants = _grants(_take(table, "grants", dict, where) or {}, f"{where}.grants")
    memory = _memory(table.pop("memory", None), f"{where}.memory")
    _no_more(table, where)
    may = _rights(rights)
    return GuestConfig(name, rate, channels, tcp, doors, may, grants, places, microphone is not False, memory)


def _memory(value: Any, where: str) -> int:
    """A guest's memory budget: "256Mi", or a number of bytes."""
    if value is None:
        return GUEST_BYTES_MAX
    if isinstance(value, str):
        return parse_size(value, where, GUEST_BYTES_MIN, MEMORY_MAX)
    return checked_int(value, where, GUEST_BYTES_MIN, MEMORY_MAX)


def _certificate(table: Any) -> Certificate:
    """One [[tls.client]]: a name in the certificate, its rights, and the guests they apply to."""
    if not isinstance(table, dict):
        raise ConfigError("tls.client is a list of tables: [[tls.client]]")
    left = dict(table)
    name, may = (_take(left, key, str, "tls.client") or "" for key in ("name", "may"))
    guests = _take(left, "guests", list, "tls.client") or [ALL_GUESTS]
    _no_more(left, "tls.client")
    if not name or not may or not all(isinstance(guest, str) for guest in guests):
        raise ConfigError('tls.client has a name, may = "hear,speak", and guests = ["alice"]')
    return Certificate(name, parse_rights(may), frozenset(guests))


def _rights(text: str | None) -> Right | None:
    """The rights of a guest's programs within that guest, which never include admin."""
    return None if text is None else parse_rights(text) & GUEST_RIGHTS


def _grants(table: dict[str, Any], where: str) -> tuple[tuple[Permission, Verdict], ...]:
    """Rules such as microphone = "prompt"."""
    verdicts = {"allow": Verdict.ALLOW, "deny": Verdict.DENY, "prompt": Verdict.PROMPT}
    for value in table.values():
        if not isinstance(value, str) or value not in verdicts:
            raise ConfigError(f"{where}: {quoted(value)} is not one of {', '.join(verdicts)}")
    return tuple((parse_permission(key), verdicts[value]) for key, value in table.items())


def _doors(table: dict[str, Any], where: str) -> tuple[DoorSpec, ...]:
    """Parse `doors`: a list of addresses, or of tables with door, vm, password_file and ca_file."""
    listed = table.pop("doors", [])
    if not isinstance(listed, list):
        raise ConfigError(f'{where}.doors must be a list, such as ["qmp:/run/vm.qmp"]')
    out = []
    for item in listed:
        entry = {"door": item} if isinstance(item, str) else dict(item) if isinstance(item, dict) else {}
        texts = {key: _take(entry, key, str, f"{where}.doors") or "" for key in ("door", "vm", "ca_file")}
        secret = _take(entry, "password_file", str, f"{where}.doors")
        _no_more(entry, f"{where}.doors")
        spec = parse_door(texts["door"], texts["vm"], "", texts["ca_file"])
        out.append(replace(spec, password_file=str(expanded(secret)) if secret else ""))
    return tuple(out)


def read_token(path: Path) -> str:
    """Read a token from a file; ConfigError if other users can read it."""
    token = checked_token(read_secret(path, "token").strip(), str(path))
    if len(token) < TOKEN_CHARS_MIN:
        raise ConfigError(f"{path}: a token has at least {TOKEN_CHARS_MIN} characters")
    return token


def checked_token(token: str, where: str) -> str:
    """Check that a token can be sent in a header; ConfigError otherwise."""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"{where}: a token consists of ASCII letters, digits and punctuation, without spaces or line breaks"
        )
    return token


def load(path: Path | None) -> Config:
    """Read `path`, or the default file if there is one; ConfigError names the file, and the line or key at fault."""
    source = path or config_path()
    if path is None and not is_there(source):
        return with_token(Config(), None)
    data = read_toml(source)
    try:
        return _parsed(data)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _parsed(data: dict[str, Any]) -> Config:
    daemon, tls, guests = (_table(data, key, "") for key in ("daemon", "tls", "guest"))
    _no_more(data, "")
    listen = _take(daemon, "listen", str, "daemon") or DEFAULT_LISTEN
    token_file = _take(daemon, "token_file", str, "daemon")
    public_url = _take(daemon, "public_url", str, "daemon") or ""
    allowed, proxies = (_texts(daemon, key, "daemon") for key in ("allowed_origins", "trusted_proxies"))
    addresses = parse_addresses(public_url, allowed, proxies)
    _no_more(daemon, "daemon")
    cert, key, client_ca = (_take(tls, name, str, "tls") or "" for name in ("cert", "key", "client_ca"))
    certificates = tuple(_certificate(table) for table in _take(tls, "client", list, "tls") or [])
    if certificates and not client_ca:
        raise ConfigError("tls.client needs tls.client_ca, the certificate of the CA that signs them")
    _no_more(tls, "tls")
    parse_address(listen, "daemon.listen")
    made = tuple(_guest(name, table) for name, table in guests.items()) or (GuestConfig("default"),)
    config = Config(listen, made, cert, key, client_ca, certificates, addresses)
    return with_token(config, expanded(token_file) if token_file else None)


def with_token(config: Config, path: Path | None) -> Config:
    """Add the token: from a file, else from $MILLRACE_TOKEN."""
    if path is not None:
        return replace(config, token=read_token(path))
    return replace(config, token=checked_token(os.environ.get("MILLRACE_TOKEN", config.token), "MILLRACE_TOKEN"))
