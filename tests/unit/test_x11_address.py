"""X displays: where one is, and the cookie that lets us in."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from millrace.errors import ConfigError
from millrace.guest.machines.address import parse_door
from millrace.guest.machines.x11 import read_cookie
from millrace.wire.x11.setup import COOKIE, find_cookie


@pytest.mark.parametrize(
    ("text", "path"),
    [("x11::1", "/tmp/.X11-unix/X1"), ("x11:unix:2.0", "/tmp/.X11-unix/X2"), ("x11:/run/a/X0", "/run/a/X0")],
)
def test_display_is_a_number_or_a_path(text: str, path: str) -> None:
    spec = parse_door(text)
    assert (spec.kind, spec.address, spec.text) == ("x11", path, f"x11:{path}")


@pytest.mark.parametrize("text", ["x11:", "x11:1", "x11:host:0", "x11::x", "x11::123456"])
def test_display_elsewhere_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write"):
        parse_door(text)


def entry(number: bytes, name: bytes, data: bytes) -> bytes:
    return struct.pack(">H", 256) + b"".join(struct.pack(">H", len(one)) + one for one in (b"host", number, name, data))


def test_cookie_is_found_for_its_display() -> None:
    other = entry(b"1", b"XDM-AUTHORIZATION-1", b"x")
    authority = other + entry(b"", COOKIE, b"any") + entry(b"1", COOKIE, b"one")
    assert [find_cookie(authority, display) for display in ("1", "2")] == [b"one", b"any"]
    assert find_cookie(authority[:20], "1") == b"" == find_cookie(b"", "1")


def test_authority_file_must_be_private_and_have_a_cookie(tmp_path: Path) -> None:
    path = tmp_path / "authority"
    path.write_bytes(entry(b"1", COOKIE, b"one"))
    os.chmod(path, 0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_cookie(path, "1")
    os.chmod(path, 0o600)
    assert read_cookie(path, "1") == b"one"
    with pytest.raises(ConfigError, match="no cookie for display :2"):
        read_cookie(path, "2")
    with pytest.raises(ConfigError, match="No such file"):
        read_cookie(path.with_name("none"), "1")
