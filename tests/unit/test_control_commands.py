"""Commands: the rights that they need and their effects, on a worker and its guests without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from millrace.control.commands import KEY_MAX, VALUE_MAX
from millrace.control.results import Changed, Done, StateView
from millrace.errors import ConfigError, GraphError, RightsError
from millrace.guest.notfound import NotFound
from millrace.io.clock import now_ns
from millrace.observe.objects import GuestView
from millrace.rights.grants import ANY, Permission, Subject, Verdict
from millrace.rights.model import ALL_GUESTS, EVERYTHING, NOBODY, OWNER, Principal, Right, implied
from millrace.symptoms import Symptom
from millrace.units import NS_PER_S
from millrace.version import __version__
from tests.hall import PLACE, Hall, guest_of, with_guests
from tests.watch import Painter

# What each command needs, where, and with which arguments; {n} is a stream of alice's, {d} a machine's door, {r} a
# request of hers that waits, {s} a screen.
IN_GUEST: list[tuple[str, dict[str, Any], Right]] = [
    ("state", {"guest": "alice"}, Right.SEE), ("latency", {"target": "{n}"}, Right.SEE),
    ("explain", {"target": "{n}"}, Right.SEE), ("explain", {"target": "{s}"}, Right.SEE),
    ("latency", {"target": "{s}"}, Right.SEE), ("flight", {"guest": "alice"}, Right.SEE),
    ("set", {"target": "{n}", "settings": {"mute": True}}, Right.CONTROL),
    ("set", {"target": "sink/millrace", "settings": {"mute": True}, "guest": "alice"}, Right.CONTROL),
    ("move", {"target": "{n}", "to": "sink/other"}, Right.CONTROL),
    ("link", {"source": "{n}", "to": "sink/other"}, Right.LINK),
    ("unlink", {"source": "{n}", "to": "sink/other"}, Right.LINK),
    ("sink.add", {"guest": "alice", "name": "new"}, Right.LINK),
    ("sink.remove", {"guest": "alice", "sink": "other"}, Right.LINK),
    ("attach", {"guest": "alice", "door": "vnc://vms.example:5900"}, Right.ADMIN),
    ("detach", {"door": "{d}"}, Right.ADMIN),
    ("grant", {"guest": "alice", "what": "camera", "allow": False}, Right.ADMIN),
    ("decide", {"request": "{r}", "allow": True}, Right.ADMIN),
]  # fmt: skip
OUTSIDE = [
    ("guest.add", {"name": "carol"}), ("guest.remove", {"guest": "alice"}), ("tokens", {}),
    ("token.new", {"may": "hear"}), ("token.rotate", {"token": "1"}), ("token.revoke", {"token": "1"}),
    ("remember", {"key": "k"}), ("recall", {}), ("page.link", {}),
]  # fmt: skip
FOR_ANYBODY = {"about", "state", "grants", "requests", "incidents"}


async def furnished(hall: Hall, args: dict[str, Any]) -> dict[str, Any]:
    """The arguments, with what they name there."""
    alice = hall.worker.guests["alice"]
    await hall.worker.add_sink(alice, "other", "")
    stream = hall.play()
    await hall.ask("link", source=stream.key, to="sink/other")
    door = await hall.ask("attach", guest="alice", door="vnc+unix:///nowhere")
    request = hall.worker.prompts.ask("alice", Permission.CAMERA, Subject(), "tool", 0, lambda allow: None)
    assert request is not None
    screen = alice.screens.add(Painter(), "VGA", door.id)
    named = {"{n}": stream.key, "{d}": door.id, "{r}": request.key, "{s}": screen.key}
    return {key: named.get(value, value) if isinstance(value, str) else value for key, value in args.items()}


@pytest.mark.parametrize(
    ("name", "args", "right"), IN_GUEST, ids=[f"{n}-{n_}" for n_, (n, _, _) in enumerate(IN_GUEST)]
)
def test_command_needs_its_right_in_that_guest(name: str, args: dict[str, Any], right: Right, tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        given = await furnished(hall, args)
        others = EVERYTHING & ~right & ~Right.ADMIN
        if right is not Right.SEE:
            with pytest.raises(RightsError, match="certificate/five may not"):
                await hall.ask(name, guest_of(others | Right.SEE), **given)
        for stranger in (NOBODY, guest_of(EVERYTHING, "bob"), guest_of(EVERYTHING, "carol")):
            with pytest.raises(NotFound):
                await hall.ask(name, stranger, **given)
        await hall.ask(name, guest_of(implied(right)), **given)

    with_guests(tmp_path, test)


def test_daemon_wide_commands_need_all_rights_everywhere(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        for name, args in OUTSIDE:
            for who in (NOBODY, guest_of(EVERYTHING), guest_of(EVERYTHING & ~Right.ADMIN, ALL_GUESTS)):
                with pytest.raises(RightsError):
                    await hall.ask(name, who, **args)
        with pytest.raises(RightsError, match="may not make links: a link gives a browser the owner's rights"):
            await hall.ask("page.link", guest_of(EVERYTHING, ALL_GUESTS))
        assert set(hall.worker.guests) == {"alice", "bob"} and not list(hall.worker.access.tokens)

    with_guests(tmp_path, test)
    tried = {name for name, *_ in IN_GUEST} | {name for name, _ in OUTSIDE} | FOR_ANYBODY

    async def every(hall: Hall) -> None:
        assert set(hall.commands.table) == tried, "every command must be in this table"

    with_guests(tmp_path, every)


def test_caller_sees_only_what_its_rights_allow(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        hall.play("bob")
        for guest in hall.worker.guests.values():
            guest.admission.grants.set(Permission.CAMERA, ANY, Verdict.DENY)
            hall.worker.prompts.ask(guest.name, Permission.CAMERA, Subject(), "tool", 0, lambda allow: None)
            hall.worker.report(Symptom("client", "wrote late", guest.name, "stream/1", {}, NS_PER_S))
        hall.worker.report(Symptom("store", "can't write", "", "", {}, NS_PER_S))
        for who, seen in ((NOBODY, []), (guest_of(Right.SEE), ["alice"]), (OWNER, ["alice", "bob"])):
            state: StateView = await hall.ask("state", who)
            assert state.names == [one.name for one in state.guests] == seen and state.you == who.key
            assert [one.guest for one in await hall.ask("grants", who)] == seen
            incidents = {one.guest for one in await hall.ask("incidents", who)}
            assert incidents == {*seen, *([""] if who is OWNER else [])}
            assert [one.name for one in hall.plane.visible(who)] == seen
            assert (state.requests is msgspec.UNSET) is (who is not OWNER)
        assert await hall.ask("requests", guest_of(Right.SEE)) == []
        assert [one.guest for one in await hall.ask("requests", guest_of(EVERYTHING))] == ["alice"]
        told = await hall.ask("state")
        assert (told.requests, told.refused, told.trouble, told.policy) == (2, 0, "", None)
        one: StateView = await hall.ask("state", guest="bob")
        assert [guest.name for guest in one.guests] == ["bob"] and one.names == ["alice", "bob"]
        about = await hall.ask("about", guest_of(Right.SEE))
        assert (about.version, about.you, about.listen, about.page) == (
            __version__,
            "certificate/five",
            PLACE.address,
            PLACE.page_url,
        )
        hall.plane.forbidden()
        assert (await hall.ask("state")).refused == 1 == hall.commands.refused()
        metrics = hall.plane.metrics(guest_of(Right.SEE)).decode()
        assert "alice" in metrics and "bob" not in metrics and "bob" in hall.plane.metrics(OWNER).decode()

    with_guests(tmp_path, test)


def test_incidents_are_filtered_by_guest_or_object(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        for guest, subject in (("alice", "stream/1"), ("alice", "stream/2"), ("gone", "stream/1")):
            hall.worker.report(Symptom("client", "wrote late", guest, subject, {}, NS_PER_S))
        assert [one.subject for one in await hall.ask("incidents", guest="alice")] == ["stream/1", "stream/2"]
        assert [one.guest for one in await hall.ask("incidents", subject="stream/1")] == ["alice", "gone"]
        assert len(await hall.ask("incidents", guest="gone")) == 1, "they survive their guest"
        assert await hall.ask("incidents", guest="bob") == []
        for who, guest in ((OWNER, "never"), (guest_of(Right.SEE, "bob"), "alice")):
            with pytest.raises(NotFound):
                await hall.ask("incidents", who, guest=guest)

    with_guests(tmp_path, test)


def test_incidents_of_removed_guest_are_owners_until_name_is_reused(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        tenant = guest_of(Right.SEE, "alice")
        node, diagnosis = hall.play("alice"), hall.worker.diagnosis
        hall.worker.report(Symptom("client", "wrote late", "alice", "stream/1", {}, NS_PER_S))
        hall.worker.report(Symptom("client", "wrote late", "bob", "stream/1", {}, NS_PER_S))
        assert len(await hall.ask("incidents", tenant)) == 1
        diagnosis.report_node(hall.worker.guests["alice"], node, "late", 0)
        diagnosis.report_node(hall.worker.guests["alice"], node, "underrun", 0)
        await hall.ask("guest.remove", guest="alice")
        assert await hall.ask("incidents", tenant) == []
        assert len(await hall.ask("incidents", guest="alice")) >= 1
        await hall.ask("guest.add", name="alice")
        diagnosis.handle_timeout(now_ns() + NS_PER_S)
        assert await hall.ask("incidents", tenant) == await hall.ask("incidents", guest="alice") == []
        assert {guest for guest, *_ in diagnosis.incidents.totals()} == {"bob"}
        told = [line for line in hall.plane.metrics(OWNER).splitlines() if line.startswith(b"millrace_incidents")]
        assert told and not any(b"alice" in line for line in told)
        assert [one.guest for one in await hall.ask("incidents")] == ["bob"]

    with_guests(tmp_path, test)


def test_changes_are_applied_and_announced(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        alice = hall.worker.guests["alice"]
        stream = hall.play()
        sink = await hall.ask("sink.add", guest="alice", name="other", description="Another")
        assert (sink.name, sink.id.split("/")[0]) == ("other", "sink")
        with pytest.raises(ConfigError, match="sink description"):
            await hall.ask("sink.add", guest="alice", name="third", description="\x1b")
        changed = Changed(target=stream.key, guest="alice")
        assert await hall.ask("link", source=stream.key, to="sink/other", matrix=[[1, 0], [0, 0.5]]) == changed
        assert [link.target.name for link in stream.links] == ["millrace", "other"]
        assert stream.links[1].matrix is not None and stream.links[1].matrix.tolist() == [[1, 0], [0, 0.5]]
        assert await hall.ask("unlink", source=stream.key, to="sink/other") == changed and len(stream.links) == 1
        assert await hall.ask("move", target=stream.key, to="sink/other") == changed and stream.sink.name == "other"
        assert await hall.ask("set", target=stream.key, settings={"volume": "50%", "mute": True}) == changed
        assert stream.gains == pytest.approx((0.125, 0.125)) and stream.mute
        assert (await hall.ask("latency", target=stream.key)).stream == stream.key
        explained = await hall.ask("explain", target=stream.key, guest="alice")
        assert (explained.target, explained.guest) == (stream.key, "alice") and explained.steps
        assert await hall.ask("flight", guest="alice") == []
        assert await hall.ask("sink.remove", guest="alice", sink="other") == Done()
        assert [one.name for one in alice.graph.sinks.values()] == ["millrace"]
        made: GuestView = await hall.ask("guest.add", name="carol", rate=44_100, channels=1)
        assert (made.name, made.rate) == ("carol", 44_100) and len(made.sinks) == 1
        with pytest.raises(GraphError, match="already exists"):
            await hall.ask("guest.add", name="carol")
        assert await hall.ask("guest.remove", guest="carol") == Done() and "carol" not in hall.worker.guests

    with_guests(tmp_path, test)


@pytest.mark.parametrize(("name", "args", "kind", "why"), [
    ("fly", {}, ConfigError, "no command 'fly'; there are: about, "),
    ("set", {"target": "stream/999", "settings": {"mute": True}}, NotFound, "stream/999"),
    ("set", {"target": "sink/millrace", "settings": {}, "guest": "never"}, NotFound, "never"),
    ("latency", {"target": "sink/millrace"}, ConfigError, "give a stream"),
    ("explain", {"target": "sink/millrace"}, ConfigError, "give a stream"),
    ("explain", {"target": "recorder/999"}, NotFound, "recorder/999"),
    ("explain", {"target": "screen/999"}, NotFound, "screen/999"),
    ("latency", {"target": "viewer/999"}, NotFound, "viewer/999"),
    ("explain", {"target": "recorder/x"}, NotFound, "recorder/x"),
    ("explain", {"target": "listener/999"}, NotFound, "listener/999"),
    ("latency", {"target": "listener/999"}, NotFound, "listener/999"),
    ("detach", {"door": "999"}, NotFound, "door/999"),
    ("decide", {"request": "9", "allow": True}, NotFound, "request/9"),
    ("token.rotate", {"token": "9"}, NotFound, "token/9"), ("token.revoke", {"token": "token/x"}, NotFound, "token/x"),
    ("grant", {"guest": "alice", "what": "camera", "allow": "maybe"}, ConfigError, "allow must be"),
    ("grant", {"guest": "alice", "what": "fly", "allow": True}, ConfigError, "'fly' is not a right"),
    ("token.new", {"may": "fly"}, ConfigError, "no right 'fly'"),
    ("token.new", {"may": []}, ConfigError, "no right ''"),
    ("token.new", {"may": "hear", "name": "x" * 101}, ConfigError, "100 characters"),
    ("token.new", {"may": "hear", "expires": "soon"}, ConfigError, "soon"),
    ("token.new", {"may": "hear", "guests": ["alice", "alcie"]}, NotFound, "no guest 'alcie'"),
    ("remember", {"key": ""}, ConfigError, "has 1 to 200 characters, a value 4096"),
    ("remember", {"key": "x" * (KEY_MAX + 1)}, ConfigError, "200"),
    ("remember", {"key": "x", "value": "x" * (VALUE_MAX + 1)}, ConfigError, "4096"),
])  # fmt: skip
def test_impossible_changes_are_refused_with_reason(
    name: str, args: dict[str, Any], kind: type[Exception], why: str, tmp_path: Path
) -> None:
    async def test(hall: Hall) -> None:
        with pytest.raises(kind, match=why):
            await hall.ask(name, **args)

    with_guests(tmp_path, test)


def test_source_can_not_be_linked_or_moved(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        stream, program = hall.play(), guest_of(EVERYTHING & ~Right.ADMIN)
        tries = [("link", {"source": "source/microphone", "to": "sink/millrace", "guest": "alice"}),
                 ("move", {"target": stream.key, "to": "source/microphone"})]  # fmt: skip
        for name, args in tries:
            with pytest.raises(
                RightsError, match=r"five may not link or move a source, .* to one; record it"
            ) as lacking:
                await hall.ask(name, program, **args)
            assert (lacking.value.right, lacking.value.guest) == ("admin", "alice")
        await hall.ask("link", **tries[0][1])

    with_guests(tmp_path, test)


def test_guest_admin_attaches_allowed_machines_only(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        owner = guest_of(EVERYTHING)
        door = await hall.ask("attach", owner, guest="alice", door="vnc://vms.example:5900", password="x")
        assert (door.door, door.state) == ("vnc://vms.example:5900", "waiting")
        known = "vnc://vms.example:5900"
        for wrong, why in (
            ({"door": "vnc://vms.example:5901"}, "may attach"), ({"door": "qmp:/root/q"}, "may attach"),
            ({"door": known, "ca_file": "/etc/shadow"}, "may name a CA file"),
            ({"door": known, "password_file": "/etc/shadow"}, "send the password instead"),
        ):  # fmt: skip
            with pytest.raises(RightsError, match=why) as lacking:
                await hall.ask("attach", owner, guest="alice", **wrong)
            assert (lacking.value.right, lacking.value.guest) == ("admin", ""), "it lacks it outside its guests"
        other = await hall.ask("attach", guest="bob", door="vnc+unix:///nowhere", password_file="/nowhere")
        assert await hall.ask("detach", owner, door=door.id) == Done()
        assert hall.worker.guests["alice"].machines == []
        assert await hall.ask("detach", door=other.id.removeprefix("door/")) == Done()

    with_guests(tmp_path, test)


def test_request_is_answered_once_or_for_that_program(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        heard: list[bool] = []
        for always in (False, True):
            prompt = hall.worker.prompts.ask("alice", Permission.CAMERA, Subject(), "tool", 0, heard.append)
            assert prompt is not None
            number = prompt.key.removeprefix("request/")
            await hall.ask("decide", guest_of(EVERYTHING), request=number, allow=always, always=False)
        assert heard == [False, True] and list(hall.worker.guests["alice"].admission.grants) == []
        await hall.ask("grant", guest="alice", what="camera", allow="prompt", program="tool")
        await hall.ask("grant", guest="alice", what="monitor", allow=False)
        rules = {(one.program, one.what): one.allow for one in await hall.ask("grants")}
        assert rules == {("tool", "camera"): "prompt", (ANY, "monitor"): False}
        await hall.ask("grant", guest="alice", what="monitor", allow=None)
        with pytest.raises(NotFound, match="guest alice has no such rule; `millrace grants`"):
            await hall.ask("grant", guest="alice", what="monitor", allow=None)
        assert len(await hall.ask("grants")) == 1

    with_guests(tmp_path, test)


def test_token_is_created_listed_without_secret_rotated_and_revoked(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        made = await hall.ask("token.new", may="hear", guests=["alice"], name="desk")
        assert made.may == ["see", "hear"] and made.guests == ["alice"] and made.token.startswith("mr_")
        assert made.expires is not None and made.expires - made.created == pytest.approx(30 * 86_400, abs=5)
        again = await hall.ask("token.new", may=made.may, guests=["alice"])
        assert again.may == made.may
        await hall.ask("token.revoke", token=again.id)
        whole = await hall.ask("token.new", may="all", expires="1h")
        assert whole.guests == [ALL_GUESTS] and whole.id != made.id
        shown = await hall.ask("tokens")
        assert [one.id for one in shown] == [made.id, whole.id] and made.token not in repr(shown)
        again = await hall.ask("token.rotate", token=made.id)
        assert again.token != made.token and again.token.startswith("mr_")
        assert await hall.ask("token.revoke", token=made.id.removeprefix("token/")) == Done()
        assert [one.id for one in await hall.ask("tokens")] == [whole.id]

    with_guests(tmp_path, test)


def test_configured_token_is_listed_and_can_only_be_changed_where_it_is_set(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        (shown,) = await hall.ask("tokens")
        assert (shown.id, shown.guests, shown.expires) == ("configured token", [ALL_GUESTS], None)
        assert "admin" in shown.may and "$MILLRACE_TOKEN" in shown.name
        for name in ("token.revoke", "token.rotate"):
            with pytest.raises(NotFound, match=r"^the configured token is set by token_file, .*: change that"):
                await hall.ask(name, token=shown.id)

    with_guests(tmp_path, test, "chosen-by-its-owner")


def test_session_manager_stores_texts_and_finds_them_by_prefix(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        for key in ("notes/a", "notes/b", "other"):
            await hall.ask("remember", key=key, value=f"{key}!")
        assert await hall.ask("recall", prefix="notes/") == {"notes/a": "notes/a!", "notes/b": "notes/b!"}
        await hall.ask("remember", key="notes/a")
        assert await hall.ask("recall") == {"notes/b": "notes/b!", "other": "other!"}
        await hall.ask("remember", key="x" * KEY_MAX, value="x" * VALUE_MAX)

    with_guests(tmp_path, test)


def test_link_signs_browser_in_at_page(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        one, two = [(await hall.ask("page.link")).link for _ in range(2)]
        assert one.startswith("http://127.0.0.1:9/#in=") and one != two and len(one) > 40

    with_guests(tmp_path, test)


def test_pending_disk_write_delays_only_its_requester(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        running: list[str] = []
        most: dict[str, int] = {}

        async def slow(args: Any, principal: Principal) -> Done:
            running.append(principal.key)
            most[principal.key] = max(most.get(principal.key, 0), running.count(principal.key))
            most["all"] = max(most.get("all", 0), len(running))
            await asyncio.sleep(0)
            running.remove(principal.key)
            return Done()

        def several(name: str, /, **args: Any) -> list[Awaitable[Any]]:
            hall.commands._runs[name] = slow
            return [hall.ask(name, who, **args) for who in (OWNER, OWNER, OWNER, guest_of(EVERYTHING))]

        for name, args in [("remember", {"key": "x"}), ("set", {"target": "sink/a", "settings": {}})]:
            most.clear()
            await asyncio.gather(*several(name, **args))
            assert most == {"owner": 1, "certificate/five": 1, "all": 1}, name
        for name, args in [("recall", {}), ("set", {"target": "stream/1", "settings": {}}),
                           ("set", {"target": "listener/1", "settings": {}})]:  # fmt: skip
            most.clear()
            await asyncio.gather(*several(name, **args))
            assert most == {"owner": 3, "certificate/five": 1, "all": 4}, name
        assert not hall.worker.writer._own, "finished requesters are forgotten"

    with_guests(tmp_path, test)


def test_refusal_names_what_can_be_explained_and_what_has_a_latency(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        for name, kinds in (
            ("explain", "stream, listener, recorder, screen or viewer"),
            ("latency", "stream, listener, screen or viewer"),
        ):
            for target in ("sink/4", "alice"):
                with pytest.raises(ConfigError, match=f"'{target}': give a {kinds} as"):
                    await hall.ask(name, target=target)

    with_guests(tmp_path, test)
