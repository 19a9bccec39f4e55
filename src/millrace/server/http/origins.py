"""Addresses of pages and proxies, compared as what they mean and not as text. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from millrace.errors import ConfigError
from millrace.text import parse_address, quoted
from millrace.text import parse_host as text_host

PORTS = {"http": 80, "https": 443}
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a page comes from (RFC 6454)."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == PORTS[self.scheme] else f":{self.port}")


def _plain_host(host: str) -> str:
    """A host's one spelling: an address as `ipaddress` writes it, a name in small letters and without a last dot."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower().removesuffix(".")


def parse_host(text: str) -> tuple[str, int | None] | None:
    """HOST or HOST:PORT, as in a Host header; None for what is neither."""
    try:
        if text.startswith("[") and text.endswith("]"):
            host, port = text[1:-1], None
            if ":" not in host:
                return None
        else:
            host, port = parse_address(text, "Host") if ":" in text else (text, None)
        return _plain_host(text_host(host, "Host")), port
    except ConfigError:
        return None


def parse_origin(text: str) -> Origin | None:
    """scheme://HOST[:PORT], as in an Origin header; None for anything else, `null` too."""
    scheme, separator, rest = text.partition("://")
    found = parse_host(rest) if separator and scheme.lower() in PORTS else None
    if found is None:
        return None
    host, port = found
    scheme = scheme.lower()
    return Origin(scheme, host, port if port is not None else PORTS[scheme])


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and networks of proxies; ConfigError for what is neither."""
    out = []
    for text in texts:
        try:
            out.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            raise ConfigError(
                f"trusted_proxies: {quoted(text)} is not an address such as 10.0.0.1 or 10.0.0.0/24"
            ) from None
    return tuple(out)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where this daemon is known to be, and whose word about a request is taken."""

    public_url: str = ""
    allowed: frozenset[Origin] = frozenset()
    """Where the page is found besides the request's own `Host`: the origins of `public_url` and `allowed_origins`."""
    proxies: tuple[Network, ...] = ()

    def trusted(self, address: str) -> bool:
        """Whether what that peer says of its own client counts."""
        try:
            ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        return any(ip in network for network in self.proxies)

    def client(self, peer: str, forwarded_for: str) -> str:
        """The client's address by X-Forwarded-For: the last one that is not a trusted proxy's."""
        address = peer
        for one in reversed([part.strip() for part in forwarded_for.split(",") if part.strip()]):
            if not self.trusted(address):
                break
            address = one.strip("[]")
        return address

    def same_site(self, origin: Origin, host: str, scheme: str) -> bool:
        """Whether a page of `origin` is ours, where the request is for `host`, by `scheme` where that is known.

        A Host without a port is the scheme's own one, or a proxy has taken it away (`$host` of nginx): then what
        `public_url` says counts, if it is there.
        """
        if origin in self.allowed:
            return True
        found = parse_host(host)
        if found is None or found[0] != origin.host or scheme not in ("", origin.scheme):
            return False
        if found[1] is None:
            return not self.public_url and origin.port == PORTS[origin.scheme]
        return found[1] == origin.port


def parse_addresses(public_url: str, allowed: Iterable[str], proxies: Iterable[str]) -> Addresses:
    """From the configuration; ConfigError says which is wrong."""
    origins = set()
    if public_url:
        parts = urlsplit(public_url)
        own = parse_origin(f"{parts.scheme}://{parts.netloc}")
        if own is None or parts.query or parts.fragment:
            raise ConfigError(
                f"public_url: {quoted(public_url)} is not an address such as https://example.org/millrace/"
            )
        origins.add(own)
        public_url = public_url.rstrip("/")
    for text in allowed:
        origin = parse_origin(text.rstrip("/"))
        if origin is None:
            raise ConfigError(f"allowed_origins: {quoted(text)} is not an origin such as https://example.org")
        origins.add(origin)
    return Addresses(public_url, frozenset(origins), parse_networks(proxies))
