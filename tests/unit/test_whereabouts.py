"""Where a machine is, whatever its address is called (`guest/machines/whereabouts.py`)."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from millrace.guest.machines.address import parse_door
from millrace.guest.machines.whereabouts import HERE, Whereabouts, canonical_host, of_connection, of_spec


def of(door: str) -> Whereabouts | None:
    return of_spec(parse_door(door))


@pytest.mark.parametrize("host", [
    "127.0.0.1", "localhost", "LOCALHOST", "localhost.", "vm.localhost", "127.1", "127.0.0.2", "0x7f000001", "[::1]",
    "[::ffff:127.0.0.1]", "0.0.0.0",
])  # fmt: skip
def test_all_spellings_of_loopback_are_one_host(host: str) -> None:
    assert of(f"vnc://{host}:5901") == ("tcp", HERE, 5901) == of("spice://127.0.0.1:5901")


@pytest.mark.parametrize(("host", "same"), [
    ("10.1", "10.0.0.1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("2001:DB8:0::1", "2001:db8::1"),
    ("VM.Example.", "vm.example"),
])  # fmt: skip
def test_each_host_has_one_spelling_and_names_are_not_looked_up(host: str, same: str) -> None:
    assert canonical_host(host) == same == canonical_host(same)


def test_a_connection_tells_where_it_leads() -> None:
    assert of_connection(("10.0.0.7", 5900), ("10.0.0.3", 40000)) == ("tcp", "10.0.0.7", 5900)
    assert of_connection(("10.0.0.3", 5900), ("10.0.0.3", 40000)) == of("vnc://localhost:5900")
    assert of_connection(("::ffff:10.0.0.7", 5900, 0, 0), ("::", 1, 0, 0)) == of("vnc://10.0.0.7:5900")


def test_links_and_folders_that_lead_to_a_socket_are_resolved(tmp_path: Path) -> None:
    folder, link, other = tmp_path / "real", tmp_path / "linked", tmp_path / "vm"
    folder.mkdir()
    link.symlink_to(folder)
    other.symlink_to(folder / "X1")
    spellings = [f"{folder}/X1", f"{link}/X1", f"{folder}/../real//./X1"]
    assert {of(f"x11:{path}") for path in spellings} == {("unix", f"{folder}/X1", 0)}
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(os.fspath(folder / "X1"))
        assert {of(f"x11:{path}") for path in (*spellings, other)} == {("unix", f"{folder}/X1", 0)}
    assert of(f"dbus:unix:path={link}/X1") == of(f"qmp:{folder}/X1") == of(f"vnc+unix://{other}")
    assert of("dbus:unix:abstract=bus") == ("unix", "\0bus", 0) and of("x11:/nowhere/../X1") == ("unix", "/X1", 0)


def test_a_connection_that_was_handed_over_is_nowhere_else() -> None:
    assert of_spec(replace(parse_door("qmp:/run/vm"), kind="p2p")) is None
