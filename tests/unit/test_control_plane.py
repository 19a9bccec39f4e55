"""The control plane of one worker, and how its commands are described."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest

from millrace.control.local import LocalPlane
from millrace.control.plane import ControlPlane, Held, LocalGuests
from millrace.control.plane import Session as Program
from millrace.control.registry import Shown
from millrace.control.worker import Worker
from millrace.errors import ConfigError, RightsError
from millrace.graph.model import Stream
from millrace.guest.guest import Guest
from millrace.rights.grants import Subject
from millrace.rights.model import OWNER, Principal, Right
from millrace.server.http.openapi import describe
from millrace.symptoms import refusal, violation
from millrace.version import __version__
from tests.bare import members_of
from tests.hall import PLACE, Hall, guest_of, with_guests

# -- the plane -----------------------------------------------------------------------------------


class Session:
    """A program's connection."""

    def __init__(self, principal: Principal = OWNER) -> None:
        self.name, self.principal, self.subject = "program", principal, Subject()
        self.told: list[tuple[str, bool]] = []
        self.kinds: frozenset[str] | None = None
        self.shown = 0

    @staticmethod
    def encode(objects: list[Shown], gone: list[int], synced: bool) -> bytes:
        return bytes(len(objects))

    def send_objects(self, made: bytes) -> None:
        self.shown += len(made)

    def is_behind(self) -> bool:
        return False

    def give_up(self) -> None:
        """See `Watcher`."""

    def claim_changed(self, name: str, have: bool) -> None:
        self.told.append((name, have))

    def end_forbidden(self, guest: str) -> None:
        """See `Session`."""


async def settled() -> None:
    """All pending notifications are delivered."""
    for _ in range(200):
        await asyncio.sleep(0)


def test_closed_connection_releases_what_it_held(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        plane, stream = hall.plane, hall.play()
        one, two = Session(), Session()
        for session in (one, two):
            plane.joined(session)
            hall.worker.claims.claim("policy", session, replace=False)
        plane.duck(one, stream.key, -20.0, None)
        assert stream.trim == pytest.approx(0.1) and set(hall.worker.sessions) == {one, two}
        for key, db in ((stream.key, 1.0), (stream.key, -97.0), (stream.key, float("nan")), ("sink/millrace", -6.0)):
            with pytest.raises(ConfigError):
                plane.duck(one, key, db, "alice")
        with pytest.raises(RightsError):
            plane.duck(Session(guest_of(Right.SEE)), stream.key, -6.0, None)
        plane.release(one)
        assert stream.trim == 1.0 and two.told == [("policy", True)] and set(hall.worker.sessions) == {two}

    with_guests(tmp_path, test)


def test_connection_continued_elsewhere_keeps_its_claims_and_ducking(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        plane, stream = hall.plane, hall.play()
        one, two, again = Session(), Session(), Session()
        nothing = plane.held(one)
        assert nothing == Held() and nothing.looked is None
        hall.worker.claims.claim("policy", one, replace=False)
        hall.worker.claims.claim("lights", two, replace=False)
        hall.worker.claims.claim("lights", one, replace=False)
        plane.duck(one, stream.key, -20.0, None)
        hall.worker.registry.watch(one, hall.worker.principal_turns.owner)
        await settled()
        held = plane.held(one)
        assert (held.claims, list(held.ducking)) == ({"policy": True, "lights": False}, [stream.id])
        assert held.looked is not None and held.looked.synced and stream.id in held.looked.numbers
        hall.worker.registry.unwatch(one)
        plane.release(one)
        hall.worker.claims.release(two)
        assert stream.trim == 1.0
        plane.resume(again, held)
        await settled()
        assert stream.trim == pytest.approx(0.1) and again.told == [("lights", True)], "everything else is unchanged"
        assert hall.worker.claims.of(again) == held.claims | {"lights": True} and again.shown > 0
        quiet = Session()
        plane.resume(quiet, Held({"policy": False}))
        await settled()
        assert quiet.told == [] and quiet.shown == 0 and hall.worker.claims.holder("policy") is again

    with_guests(tmp_path, test)


def test_plane_passes_worker_objects_on(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        plane, worker = hall.plane, hall.worker
        assert plane.take_id() < plane.take_id() and plane.place is PLACE
        assert (
            plane.turns_of(OWNER) is worker.principal_turns.owner
            and plane.strangers is worker.principal_turns.strangers
        )
        assert plane.turns_of(guest_of(Right.SEE)) is worker.guests["alice"].turns
        assert plane.budget_of().whose == "owner" and plane.budget_of(guest_of(Right.SEE)).whose == "guest alice"
        assert plane.guest(OWNER, "alice", Right.ADMIN) is worker.guests["alice"]
        ended: list[str] = []
        token = await hall.ask("token.new", may="see", guests=["alice"])
        plane.enter(Principal(token.id, Right.SEE, frozenset({"alice"})), ended.append, ended.append)
        await hall.ask("token.revoke", token=token.id)
        assert ended == ["the token was revoked"] and plane.ready
        worker.store.trouble = "disk full"
        assert not plane.ready and (await hall.ask("state")).trouble == "disk full"
        plane.report(refusal("alice", "tool", "the camera", "a rule"))
        plane.report(violation("bob", "client/1", ValueError("bad"), "client"))
        incidents = [(one.guest, one.stage) for one in await hall.ask("incidents")]
        assert [guest for guest, _ in incidents] == ["alice", "bob"]

    with_guests(tmp_path, test)


# Other people's programs depend on these.
PLACES = {
    "about": "GET /about", "attach": "POST /guests/{guest}/doors", "decide": "POST /requests/{request}",
    "detach": "DELETE /doors/{door}", "explain": "GET /explain", "flight": "GET /guests/{guest}/flight",
    "grant": "POST /guests/{guest}/grants", "grants": "GET /grants", "guest.add": "POST /guests",
    "guest.remove": "DELETE /guests/{guest}", "incidents": "GET /incidents", "latency": "GET /latency",
    "link": "POST /links", "move": "POST /move", "page.link": "POST /page-links", "recall": "GET /memory",
    "remember": "POST /memory", "requests": "GET /requests", "set": "POST /set",
    "sink.add": "POST /guests/{guest}/sinks", "sink.remove": "DELETE /guests/{guest}/sinks/{sink}",
    "state": "GET /state", "token.new": "POST /tokens", "token.revoke": "DELETE /tokens/{token}",
    "token.rotate": "POST /tokens/{token}/rotate", "tokens": "GET /tokens", "unlink": "DELETE /links",
}  # fmt: skip


def test_command_is_at_its_documented_path(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        table = hall.commands.table
        assert {name: f"{table[name].method} {table[name].path}" for name in PLACES} == PLACES

    with_guests(tmp_path, test)


# -- the description -----------------------------------------------------------------------------


def test_description_says_where_each_argument_goes(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        told = describe(hall.plane.table, "/p")
        assert told["info"]["version"] == __version__
        operations = {
            operation["operationId"]: (path, method, operation)
            for path, methods in told["paths"].items()
            for method, operation in methods.items()
        }
        assert set(operations) == set(hall.commands.table), "paths are unique"
        for command in hall.commands.table.values():
            path, method, operation = operations[command.name]
            assert (path, method, operation["summary"]) == (
                f"/p{command.path}",
                command.method.lower(),
                command.summary,
            )
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            places = [(one["in"], one["name"]) for one in operation["parameters"]]
            named = [name for _, name in places] + list(body.get("properties", {}))
            assert sorted(named) == sorted(field.name for field in msgspec.structs.fields(command.takes))
            assert ("query" in {where for where, _ in places}) <= (command.method == "GET")
            needed = {field.name for field in msgspec.structs.fields(command.takes) if field.required}
            said = {one["name"] for one in operation["parameters"] if one["required"]} | set(body.get("required", []))
            assert said == needed, command.name
            assert operation.get("requestBody", {}).get("required", bool(body.get("required"))) is bool(
                body.get("required")
            )
            assert set(operation["responses"]) >= {"200", "400", "403", "404", "409", "507"}
            assert all(one["schema"] for one in operation["parameters"]) and body.get("type", "object") == "object"
            for answer in operation["responses"].values():
                assert answer["description"] and answer["content"]["application/json"]["schema"]

    with_guests(tmp_path, test)


def inside(value: Any) -> Iterator[Any]:
    """A value, and all that is in it."""
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from inside(inner)


def test_all_references_in_description_resolve(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        told = describe(hall.plane.table, "")
        kinds = told["components"]["schemas"]
        named = {one["$ref"] for one in inside(told) if isinstance(one, dict) and "$ref" in one}
        assert named <= {f"#/components/schemas/{name}" for name in kinds}
        assert {"#/components/schemas/Refusal", "#/components/schemas/GuestView"} <= named
        assert kinds["Refusal"]["required"] == ["error"]
        assert list(kinds["Refusal"]["properties"]) == ["error", "right", "guest"]
        used = {name for one in told["security"] for name in one}
        assert used == set(told["components"]["securitySchemes"]) == {"token"} and {} in told["security"]
        assert told["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}

    with_guests(tmp_path, test)


def test_plane_exposes_nothing_of_its_worker(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        local = LocalPlane(hall.worker, PLACE)
        plane: ControlPlane = local
        guests: LocalGuests = local
        assert plane.names(OWNER) == [guest.name for guest in guests.visible(OWNER)] == ["alice", "bob"]
        inner = {
            id(one) for one in (hall.worker, *vars(hall.worker).values(), *vars(hall.worker.principal_turns).values())
        }
        shown = members_of(ControlPlane)
        assert {name for name in shown if id(getattr(plane, name)) in inner} == {"strangers"}, "a share of time"

    with_guests(tmp_path, test)


def test_plane_and_its_connections_name_guests_by_value() -> None:
    """Nothing that passes between them, either way, is an object of one process."""
    for interface in (ControlPlane, Program):
        for name in members_of(interface):
            member = getattr(interface, name, None)
            told = get_type_hints(member.fget if isinstance(member, property) else member) if member else {}
            assert not {Guest, Worker, Stream} & {*told.values()}, name
