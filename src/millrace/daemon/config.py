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
from millrace.io.files import read_secret
from millrace.io.paths import config_path, runtime_dir, state_path
from millrace.io.toml import Table, read_config, under
from millrace.rights.grants import Permission, Verdict, parse_permission
from millrace.rights.model import ALL_GUESTS, GUEST_RIGHTS, Certificate, Right, parse_rights
from millrace.rights.tokens import PREFIX
from millrace.server.http.origins import Addresses, parse_addresses
from millrace.text import checked_int, parse_address, parse_size, printable, quoted

DEFAULT_LISTEN = "127.0.0.1:8642"
TOKEN_VARIABLE = "MILLRACE_TOKEN"
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
    token_from: str = ""
    """Where the token is from: a file, or a variable of the environment."""
    runtime: Path = field(default_factory=runtime_dir)
    state: Path = field(default_factory=state_path)


def _addresses(value: Any, where: str) -> tuple[str, ...]:
    """One address or a list of them."""
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not all(isinstance(item, str) for item in listed):
        raise ConfigError(f"{where} must be HOST:PORT or a list of them, not {quoted(value)}")
    for item in listed:
        parse_address(item, where)
    return tuple(listed)


def _guest(name: str, values: Any) -> GuestConfig:
    with under(f"[guest.{printable(name)}]"):
        where = f"guest.{checked_guest_name(name)}"
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is a table: [{where}]")
    table = Table(values, where)
    rate = graph_rate(table.any("rate", 48_000), f"{where}.rate")
    channels = graph_channels(table.any("channels", 2), f"{where}.channels")
    tcp = _addresses(table.any("pulse_tcp", ()), f"{where}.pulse_tcp")
    doors = _doors(table)
    places = parse_places(table.texts("attach"), f"{where}.attach")
    microphone, rights = table.take("microphone", bool, True), table.take("rights", str)
    grants = _grants(table.table("grants"))
    memory = _memory(table.any("memory"), f"{where}.memory")
    table.end()
    with under(f"{where}.rights"):
        may = _rights(rights)
    return GuestConfig(name, rate, channels, tcp, doors, may, grants, places, microphone, memory)


def _memory(value: Any, where: str) -> int:
    """A guest's memory budget: "256Mi", or a number of bytes."""
    if value is None:
        return GUEST_BYTES_MAX
    if isinstance(value, str):
        return parse_size(value, where, GUEST_BYTES_MIN, MEMORY_MAX)
    return checked_int(value, where, GUEST_BYTES_MIN, MEMORY_MAX)


def _certificate(values: Any) -> Certificate:
    """One [[tls.client]]: a name in the certificate, its rights, and the guests they apply to."""
    if not isinstance(values, dict):
        raise ConfigError("tls.client is a list of tables: [[tls.client]]")
    table = Table(values, "tls.client")
    name, may, guests = table.text("name"), table.text("may"), table.texts("guests", (ALL_GUESTS,))
    table.end()
    if not name or not may or not guests:
        raise ConfigError('tls.client has a name, may = "hear,speak", and guests = ["alice"]')
    with under("tls.client.may"):
        rights = parse_rights(may)
    return Certificate(name, rights, frozenset(guests))


# Any program in the guest has these rights, so no configuration can include admin: a program could then change the
# rules that apply to it.
def _rights(text: str | None) -> Right | None:
    """The rights of a guest's programs within that guest, which never include admin."""
    return None if text is None else parse_rights(text) & GUEST_RIGHTS


def _grants(table: Table) -> tuple[tuple[Permission, Verdict], ...]:
    """Rules such as microphone = "prompt"."""
    verdicts = {"allow": Verdict.ALLOW, "deny": Verdict.DENY, "prompt": Verdict.PROMPT}
    rules = table.rest()
    for key, value in rules.items():
        if not isinstance(value, str) or value not in verdicts:
            raise ConfigError(f"{printable(table.name(key))}: {quoted(value)} is not one of {', '.join(verdicts)}")
    with under(table.where):
        return tuple((parse_permission(key), verdicts[value]) for key, value in rules.items())


def _doors(guest: Table) -> tuple[DoorSpec, ...]:
    """Parse `doors`: a list of addresses, or of tables with door, vm, password_file and ca_file."""
    where, listed = guest.name("doors"), guest.any("doors", [])
    if not isinstance(listed, list):
        raise ConfigError(f'{where} must be a list, such as ["qmp:/run/vm.qmp"]')
    out = []
    for item in listed:
        if not isinstance(item, str | dict):
            raise ConfigError(f"{where}: {quoted(item)} is neither an address in quotes nor a table with one")
        table = Table({"door": item} if isinstance(item, str) else item, where)
        door, vm, secret, ca_file = (
            table.text("door"),
            table.text("vm"),
            table.path("password_file"),
            table.path("ca_file"),
        )
        table.end()
        with under(where):
            out.append(replace(parse_door(door, vm, "", ca_file), password_file=secret))
    return tuple(out)


def read_token(path: Path) -> str:
    """Read a token from a file; ConfigError if other users can read it."""
    token = checked_token(read_secret(path, "token").strip(), str(path))
    _demand_long(token, str(path))
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
    return read_config(path, config_path(), _parsed) or with_token(Config(), None)


def _parsed(data: dict[str, Any]) -> Config:
    table = Table(data)
    daemon, tls, guests = (table.table(key) for key in ("daemon", "tls", "guest"))
    table.end()
    listen, token_file = daemon.text("listen") or DEFAULT_LISTEN, daemon.path("token_file")
    public_url, allowed, proxies = (
        daemon.text("public_url"),
        daemon.texts("allowed_origins"),
        daemon.texts("trusted_proxies"),
    )
    addresses = parse_addresses(public_url, allowed, proxies)
    daemon.end()
    cert, key, client_ca = (tls.path(name) for name in ("cert", "key", "client_ca"))
    certificates = tuple(_certificate(values) for values in tls.take("client", list, []))
    if certificates and not client_ca:
        raise ConfigError("tls.client needs tls.client_ca, the certificate of the CA that signs them")
    tls.end()
    parse_address(listen, "daemon.listen")
    made = tuple(_guest(name, values) for name, values in guests.rest().items()) or (GuestConfig("default"),)
    config = Config(listen, made, cert, key, client_ca, certificates, addresses)
    return with_token(config, Path(token_file) if token_file else None)


def with_token(config: Config, path: Path | None) -> Config:
    """Add the token: from a file, else from $MILLRACE_TOKEN."""
    if path is not None:
        return replace(config, token=read_token(path), token_from=str(path))
    token = os.environ.get(TOKEN_VARIABLE, "")
    return replace(config, token=checked_token(token, TOKEN_VARIABLE), token_from=token and f"${TOKEN_VARIABLE}")


# Listeners and viewers take the token that somebody gave them from the same variable or from such a file, with the
# rights that it has there. Here it would have every right, and whoever made it, or has it too, would come in.
def demand_own_token(config: Config) -> None:
    """ConfigError if the token is short, or looks like one that was made for a listener."""
    if config.token.startswith(PREFIX):
        raise ConfigError(
            f"{config.token_from} has a token that a daemon made, for `millrace listen` or `view`; whoever has it would"
            " have every right here: for `serve`, choose one yourself, such as `openssl rand -hex 32` prints, or none"
        )
    if config.token:
        _demand_long(config.token, config.token_from)


def _demand_long(token: str, where: str) -> None:
    if len(token) < TOKEN_CHARS_MIN:
        raise ConfigError(f"{where}: a token has at least {TOKEN_CHARS_MIN} characters")
