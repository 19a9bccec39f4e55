"""Machines attached by command: attached again when the daemon starts, unless that is not wanted or not allowed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec import to_builtins

from millrace.control.keptdoors import CONFIG
from millrace.daemon.app import Daemon
from millrace.errors import GraphError
from millrace.guest.config import GuestConfig
from millrace.guest.machines.address import parse_door, parse_places
from millrace.guest.machines.attached import AttachedMachine
from millrace.rights.model import OWNER, Principal, Right
from tests.bus import running
from tests.nativebus import eventually


async def ask(daemon: Daemon, method: str, **args: Any) -> Any:
    return to_builtins(await daemon.plane.commands.run(OWNER, method, args))


def doors(daemon: Daemon) -> dict[str, tuple[str, bool]]:
    """By address: the machine's name on its bus, and whether it is attached again at the next start."""
    alice = [one for one in daemon.worker.guest("alice").machines if isinstance(one, AttachedMachine)]
    return {one.spec.text: (one.spec.vm, one.view().kept) for one in alice}


def test_attached_machines_are_attached_again_when_the_daemon_starts(tmp_path: Path) -> None:
    secret = tmp_path / "a pass.txt"

    async def attach(daemon: Daemon) -> None:
        async def at(door: str, **more: Any) -> str:
            return str((await ask(daemon, "attach", guest="alice", door=door, **more))["id"])

        await at("dbus:unix:path=/run/bus", vm="win11")
        await at("vnc+unix:///tmp/with%20space%3F", password_file=str(secret), ca_file="/ca.pem")
        await at("spice://[::1]:5930")
        await at("vnc://127.0.0.1:901", once=True)
        await at("vnc://127.0.0.1:902", password="only in memory")
        await at("vnc://127.0.0.1:903")
        await at("vnc://127.0.0.1:903", once=True)
        for door in (await at("vnc://127.0.0.1:904"), await at("vnc://127.0.0.1:905", once=True)):
            await ask(daemon, "detach", door=door)
        assert doors(daemon) == {
            "dbus:unix:path=/run/bus": ("win11", True), "vnc+unix:///tmp/with%20space%3F": ("", True),
            "spice://[::1]:5930": ("", True), "vnc://127.0.0.1:901": ("", False), "vnc://127.0.0.1:902": ("", False),
            "vnc://127.0.0.1:903": ("", False),
        }  # fmt: skip
        assert b"only in memory" not in daemon.worker.store.path.read_bytes()

    async def again(daemon: Daemon) -> None:
        assert doors(daemon) == {
            "dbus:unix:path=/run/bus": ("win11", True), "vnc+unix:///tmp/with%20space%3F": ("", True),
            "spice://[::1]:5930": ("", True),
        }  # fmt: skip
        vnc = next(
            one for one in daemon.worker.guest("alice").machines
            if isinstance(one, AttachedMachine) and one.spec.kind == "vnc"
        )  # fmt: skip
        assert vnc.spec.address == "/tmp/with space?" and vnc.spec.password_file == str(secret)
        assert vnc.spec.ca_file == "/ca.pem"

    running(tmp_path, attach)
    running(tmp_path, again)
    running(tmp_path, again)


def test_machine_of_a_guests_own_admin_is_attached_again_only_where_the_configuration_allows_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    admin = Principal("certificate/a", Right.SEE | Right.ADMIN, frozenset({"alice"}))

    def guests(*places: str) -> dict[str, Any]:
        return {"guests": (GuestConfig("alice", attach=parse_places(places, "attach")),)}

    async def attach(daemon: Daemon) -> None:
        await daemon.plane.commands.run(admin, "attach", {"guest": "alice", "door": "vnc://127.0.0.7:1"})

    async def allowed(daemon: Daemon) -> None:
        assert doors(daemon) == {"vnc://127.0.0.7:1": ("", True)}

    async def forbidden(daemon: Daemon) -> None:
        assert doors(daemon) == {}

    running(tmp_path, attach, **guests("127.0.0.7"))
    running(tmp_path, allowed, **guests("127.0.0.7"))
    running(tmp_path, forbidden, **guests("127.0.0.8"))
    assert "vnc://127.0.0.7:1 is not attached again: only a token with every right" in caplog.text


def test_machine_with_a_ca_file_that_a_guests_own_admin_attaches_again_is_not_lost(tmp_path: Path) -> None:
    admin = Principal("certificate/a", Right.SEE | Right.ADMIN, frozenset({"alice"}))
    guests = (GuestConfig("alice", attach=parse_places(("127.0.0.7",), "attach")),)

    async def attach(daemon: Daemon) -> None:
        given = {"guest": "alice", "door": "vnc://127.0.0.7:1"}
        await ask(daemon, "attach", **given, ca_file="/ca.pem")
        await daemon.plane.commands.run(admin, "attach", given)
        await daemon.plane.commands.run(admin, "attach", {**given, "once": True})
        assert doors(daemon) == {"vnc://127.0.0.7:1": ("", True)}

    async def again(daemon: Daemon) -> None:
        (vnc,) = (one for one in daemon.worker.guest("alice").machines if isinstance(one, AttachedMachine))
        assert vnc.spec.ca_file == "/ca.pem"

    running(tmp_path, attach, guests=guests)
    running(tmp_path, again, guests=guests)


def test_door_of_the_configuration_is_not_stored_as_well(tmp_path: Path) -> None:
    listed = {"guests": (GuestConfig("alice", doors=(parse_door("vnc://127.0.0.1:901"),)),)}

    async def attach(daemon: Daemon) -> None:
        await ask(daemon, "attach", guest="alice", door="vnc://127.0.0.1:901", once=True)
        assert doors(daemon) == {"vnc://127.0.0.1:901": ("", True)}
        assert [one.kept for one in daemon.worker.guest("alice").machines if isinstance(one, AttachedMachine)] == [
            CONFIG
        ]
        assert not daemon.worker.store.guest("alice").doors

    running(tmp_path, attach, **listed)


@pytest.mark.parametrize("spelling", ["vnc://localhost:{}", "vnc://127.1:{}", "vnc://[::ffff:127.0.0.1]:{}"])
def test_machine_of_another_guest_is_known_by_each_spelling_of_its_address(spelling: str, tmp_path: Path) -> None:
    async def attach(daemon: Daemon) -> None:
        await ask(daemon, "attach", guest="bob", door="vnc://127.0.0.1:9")
        with pytest.raises(GraphError, match=r"is attached to another guest.*with --also"):
            await ask(daemon, "attach", guest="alice", door=spelling.format(9))
        await ask(daemon, "attach", guest="alice", door=spelling.format(10))

    running(tmp_path, attach, guests=(GuestConfig("alice"), GuestConfig("bob")))


def test_machine_of_another_guest_that_is_known_once_it_is_reached_is_not_attached_and_not_kept(tmp_path: Path) -> None:
    """Its host has a name, or a link leads to it that did not then: nobody logs in, or reaches it again."""
    said: list[bytes] = []
    """What each connection sent, in the order of their first words, or of their ends without any."""
    done = asyncio.Event()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"RFB 003.008\n")
        said.append(await reader.read(100))
        await done.wait()
        writer.close()

    async def attach(daemon: Daemon) -> None:
        link = tmp_path / "link"
        async with await asyncio.start_unix_server(served, tmp_path / "bobs"):
            await ask(daemon, "attach", guest="bob", door=f"vnc+unix://{tmp_path}/bobs")
            await eventually(lambda: said)
            await ask(daemon, "attach", guest="alice", door=f"vnc+unix://{link}")
            (hers,) = daemon.worker.guest("alice").machines
            assert isinstance(hers, AttachedMachine)
            assert doors(daemon)[f"vnc+unix://{link}"][1]
            link.symlink_to(tmp_path / "bobs")
            await eventually(lambda: "is attached to another guest" in hers.view().error)
            await eventually(lambda: not doors(daemon)[f"vnc+unix://{link}"][1])
            assert hers.sessions == 0 and hers.view().state == "waiting"
            await eventually(lambda: len(said) > 1)
            assert said == [b"RFB 003.008\n", b""]
            assert not daemon.worker.store.guest("alice").doors and daemon.worker.store.guest("bob").doors
            await ask(daemon, "attach", guest="alice", door=f"vnc+unix://{link}", also=True)
            await eventually(lambda: said[2:] == [b"RFB 003.008\n"])
            done.set()

    running(tmp_path, attach, guests=(GuestConfig("alice"), GuestConfig("bob")))


def test_machine_of_another_guest_is_attached_only_if_that_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listed = parse_door("vnc://127.0.0.1:9")
    guests = (GuestConfig("alice", doors=(listed,)), GuestConfig("bob"), GuestConfig("carol", doors=(listed,)))

    async def attach(daemon: Daemon) -> None:
        with pytest.raises(GraphError, match=r"is attached to another guest.*with --also") as refused:
            await ask(daemon, "attach", guest="bob", door="vnc://127.0.0.1:9")
        assert "alice" not in str(refused.value) and "carol" not in str(refused.value)
        await ask(daemon, "attach", guest="bob", door="vnc://127.0.0.1:10")
        assert (await ask(daemon, "attach", guest="bob", door="vnc://127.0.0.1:9", also=True))["id"]
        assert len(list(daemon.worker.guest("bob").machines)) == 2

    running(tmp_path, attach, guests=guests)
    assert "carol: vnc://127.0.0.1:9 is attached to another guest too" in caplog.text
    assert caplog.text.count("another guest too") == 1
