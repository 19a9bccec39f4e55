"""Origins of pages and addresses of proxies, parsed and compared by value rather than as text. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

import msgspec

from millrace.errors import ConfigError
from millrace.text import parse_address, quoted
from millrace.text import parse_host as text_host

PORTS = {"http": 80, "https": 443}
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Origin(msgspec.Struct, frozen=True):
    """Where a page comes from (RFC 6454)."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == PORTS[self.scheme] else f":{self.port}")


def _plain_host(host: str) -> str:
    """The canonical spelling of a host: an address as `ipaddress` writes it, a name in lower case, no final dot."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower().removesuffix(".")


def parse_host(text: str) -> tuple[str, int | None] | None:
    """Parse HOST or HOST:PORT, as in a Host header; None if it is neither."""
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
    """Parse scheme://HOST[:PORT], as in an Origin header; None for anything else, including `null`."""
    scheme, separator, rest = text.partition("://")
    found = parse_host(rest) if separator and scheme.lower() in PORTS else None
    if found is None:
        return None
    host, port = found
    scheme = scheme.lower()
    return Origin(scheme, host, port if port is not None else PORTS[scheme])


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Parse addresses and networks of proxies; ConfigError for anything else."""
    out = []
    for text in texts:
        try:
            out.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            raise ConfigError(
                f"daemon.trusted_proxies: {quoted(text)} is not an address such as 10.0.0.1 or 10.0.0.0/24"
            ) from None
    return tuple(out)


class Addresses(msgspec.Struct, frozen=True):
    """The daemon's public origins, and the proxies whose forwarding headers are trusted."""

    public_url: str = ""
    allowed: frozenset[Origin] = frozenset()
    """Origins accepted besides the request's own `Host`: those of `public_url` and `allowed_origins`."""
    proxies: tuple[Network, ...] = ()

    def trusted(self, address: str) -> bool:
        """Whether forwarding headers from this peer are trusted."""
        try:
            ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        return any(ip in network for network in self.proxies)

    # Each proxy appends the address that it saw, so the header reads from the client to the last proxy. Only what a
    # trusted proxy has appended can be believed, and everything to the left of that is the client's own claim. So it
    # is read from the right, as long as the address reached is a trusted proxy's.
    def client(self, peer: str, forwarded_for: str) -> str:
        """The client's address: the last one in X-Forwarded-For that is not a trusted proxy."""
        address = peer
        for one in reversed([part.strip() for part in forwarded_for.split(",") if part.strip()]):
            if not self.trusted(address):
                break
            address = one.strip("[]")
        return address

    def same_site(self, origin: Origin, host: str, scheme: str) -> bool:
        """Whether a page of `origin` is ours, for a request to `host`; `scheme` is empty if unknown.

        A Host without a port means the scheme's default port, unless a proxy has stripped the port (nginx's `$host`).
        The two can't be told apart, so with `public_url` set, only the configured origins count in that case.
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
    """Parse the configured addresses; ConfigError says which is wrong."""
    origins = set()
    if public_url:
        parts = urlsplit(public_url)
        own = parse_origin(f"{parts.scheme}://{parts.netloc}")
        if own is None or parts.query or parts.fragment:
            raise ConfigError(
                f"daemon.public_url: {quoted(public_url)} is not an address such as https://example.org/millrace/"
            )
        origins.add(own)
        public_url = public_url.rstrip("/")
    for text in allowed:
        origin = parse_origin(text.rstrip("/"))
        if origin is None:
            raise ConfigError(f"daemon.allowed_origins: {quoted(text)} is not an origin such as https://example.org")
        origins.add(origin)
    return Addresses(public_url, frozenset(origins), parse_networks(proxies))
