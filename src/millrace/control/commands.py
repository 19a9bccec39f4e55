"""The daemon's commands, independent of transport: the HTTP API and the native protocol run the same ones.

Each looks its object up among those visible to the principal, demands the right, and acts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar, get_type_hints

import msgspec

from millrace.control import requests as r
from millrace.control import results, rules, scopes, verbs
from millrace.control.plane import Place
from millrace.control.table import Command, Scope
from millrace.control.tokens import CONFIGURED, CONFIGURED_BY, token_view
from millrace.control.worker import Worker
from millrace.errors import ConfigError, RightsError
from millrace.graph.model import Stream
from millrace.guest.config import DEFAULT_GUEST, table_of
from millrace.guest.find import split_key
from millrace.guest.guest import Guest
from millrace.guest.home import MachineView
from millrace.guest.listener import ListenerSession
from millrace.guest.machines.address import parse_door
from millrace.guest.notfound import NotFound, ambiguous, missing, missing_guest
from millrace.io.clock import now_ns
from millrace.io.turns import with_pauses
from millrace.observe.explain import explain_recorder
from millrace.observe.explainlistener import explain_heard
from millrace.observe.explainpicture import explain_seen
from millrace.observe.flight import Sample
from millrace.observe.incidents import IncidentView
from millrace.observe.latency import Breakdown, breakdown, heard_breakdown
from millrace.observe.objects import GuestView
from millrace.observe.picturelatency import picture_breakdown
from millrace.observe.views import guest_view
from millrace.rights.grants import parse_permission, parse_verdict
from millrace.rights.model import ALL_GUESTS, OWNER, Principal, Right, parse_rights, show_rights
from millrace.rights.prompts import RequestView
from millrace.rights.tokens import parse_expiry
from millrace.text import key_number, parse_label, quoted
from millrace.version import __version__

TOKEN_DAYS = "30d"
KEY_MAX, VALUE_MAX = 200, 4096
SEEN, HEARD = ("screen/", "viewer/"), ("stream/", "listener/")
OK = results.Done()
Run = Callable[[Any, Principal], Awaitable[Any]]
T = TypeVar("T")


class _Row(NamedTuple):
    """One command: see `Command`, which has the types of `run` in its place."""

    name: str
    method: str
    path: str
    scope: Callable[[Any], Scope]
    run: Run
    summary: str
    kept: Callable[[Any], bool] = scopes.not_kept


# Each command does four things in this order: convert its arguments (`requests`), find the object among those that
# the principal may see, demand the right in that object's guest, and act. An object that may not be seen is missing,
# not forbidden, or names could be found out by asking. Nothing may await between the last check and the change. A
# command that writes to disk therefore runs whole in the writer's turn, where nothing that it has checked can change:
# the rights of its principal are looked up only then (`run`).
class Commands:
    """All commands of one daemon."""

    def __init__(self, worker: Worker, place: Place) -> None:
        self._worker, self._place = worker, place
        self.table: dict[str, Command] = {}
        self._runs: dict[str, Run] = {}
        for name, method, path, scope, run, summary, kept in self._rows():
            types = get_type_hints(run)
            self.table[name] = Command(name, method, path, types["args"], types["return"], scope, kept, summary)
            self._runs[name] = run

    def _rows(self) -> list[_Row]:
        guest = "/guests/{guest}"
        host, workers, guest_ = scopes.at_host, scopes.everywhere, scopes.in_guest
        target, source, kept = scopes.on_target, scopes.on_source, scopes.kept
        return [
            _Row("about", "GET", "/about", host, self._about, "Return the version, the addresses, and the caller"),
            _Row("page.link", "POST", "/page-links", host, self._page_link, "Make a link for one browser"),
            _Row("state", "GET", "/state", workers, self._state, "Return the state of all visible guests, or of one"),
            _Row(
                "set", "POST", "/set", target, self._set, "Change volume, mute, or a listener's settings",
                scopes.keeps_level,
            ),
            _Row("move", "POST", "/move", target, self._move, "Move a stream or a listener to another sink"),
            _Row("link", "POST", "/links", source, self._link, "Also link a stream or a sink to a sink"),
            _Row("unlink", "DELETE", "/links", source, self._unlink, "Remove a link"),
            _Row("guest.add", "POST", "/guests", host, self._guest_add, "Add a guest", kept),
            _Row("guest.remove", "DELETE", guest, host, self._guest_remove, "Remove a guest", kept),
            _Row("attach", "POST", f"{guest}/doors", guest_, self._attach, "Attach a machine to a guest", kept),
            _Row("detach", "DELETE", "/doors/{door}", scopes.on_door, self._detach, "Detach a machine", kept),
            _Row("sink.add", "POST", f"{guest}/sinks", guest_, self._sink_add, "Add a sink", kept),
            _Row("sink.remove", "DELETE", f"{guest}/sinks/{{sink}}", guest_, self._sink_remove, "Remove a sink", kept),
            _Row("grants", "GET", "/grants", workers, self._grants, "List the rules for programs"),
            _Row("grant", "POST", f"{guest}/grants", guest_, self._grant, "Set or delete a rule for a program", kept),
            _Row("requests", "GET", "/requests", workers, self._requests, "List pending requests"),
            _Row(
                "decide", "POST", "/requests/{request}", scopes.on_request, self._decide, "Answer a pending request",
                scopes.keeps_rule,
            ),
            _Row("latency", "GET", "/latency", target, self._latency, "Break down the latency of sound or picture"),
            _Row("explain", "GET", "/explain", target, self._explain, "Explain what is done to sound or picture"),
            _Row(
                "flight", "GET", f"{guest}/flight", guest_, self._flight,
                "Return the flight recorder of a guest's last minute",
            ),
            _Row("incidents", "GET", "/incidents", workers, self._incidents, "List recent incidents"),
            _Row("tokens", "GET", "/tokens", host, self._tokens, "List tokens, without their secrets"),
            _Row(
                "token.new", "POST", "/tokens", host, self._token_new,
                "Create a token; the secret is returned once", kept,
            ),
            _Row("token.rotate", "POST", "/tokens/{token}/rotate", host, self._token_rotate, "Rotate a token", kept),
            _Row("token.revoke", "DELETE", "/tokens/{token}", host, self._token_revoke, "Revoke a token", kept),
            _Row(
                "remember", "POST", "/memory", scopes.on_text, self._remember,
                "Store a text under a key, or delete it", kept,
            ),
            _Row("recall", "GET", "/memory", host, self._recall, "Return stored texts by key prefix"),
        ]  # fmt: skip

    async def run(self, principal: Principal, name: str, args: Any) -> Any:
        """Run a command for `principal`. Refusals are raised as ConfigError, GraphError or RightsError."""
        command = self.table.get(name)
        if command is None:
            raise ConfigError(f"there is no command {quoted(name)}; there are: {', '.join(self.table)}")
        parsed, run = r.parsed(command.takes, args), self._runs[name]
        principal = self._worker.current(principal)
        if not command.kept(parsed):
            return await run(parsed, principal)
        return await self._run_in_turn(principal, run, parsed)

    async def _run_in_turn(self, principal: Principal, run: Run, args: Any) -> Any:
        """Run a command that writes to disk, with the rights that its principal has when its turn comes."""
        turns = self._worker.principal_turns.of(principal)

        async def whole() -> Any:
            return await run(args, self._worker.current(principal))

        # The share is waited for first, and never while the change has its turn, for which everybody else waits. A disk
        # commits a few changes a second. One queue per share makes a client with many wait only for its own.
        await turns.turn()
        return await self._worker.writer.change(turns, lambda: turns.charged(whole()))

    def page_link(self) -> str:
        """A single-use link that signs a browser in as the owner.

        The code is in the fragment (after #), which browsers do not send, so it is in no request and no proxy's log.
        """
        return f"{self._place.page_url}#in={self._worker.access.new_link()}"

    def refused(self) -> int:
        """Requests that failed authentication or lacked a right."""
        return self._worker.forbidden + self._worker.access.refused

    # -- finding -----------------------------------------------------------------------------

    def visible(self, principal: Principal) -> list[Guest]:
        """The guests that `principal` may see."""
        return self._worker.visible(principal)

    def guest(self, principal: Principal, name: str, right: Right) -> Guest:
        """A guest in which `principal` has `right`. One that it may not see is reported as missing."""
        seen = self.visible(principal)
        found = next((guest for guest in seen if guest.name == name), None)
        if found is None:
            raise missing_guest(name, (guest.name for guest in seen))
        principal.demand(right, name)
        return found

    def find(self, principal: Principal, key: str, guest: str | None, right: Right) -> verbs.Found:
        """The object named `key` among those visible to `principal`, in a guest where it has `right`."""
        kind, name = split_key(key)
        return self._only(principal, key, lambda one: verbs.find(one, kind, name), right, guest)[1]

    def _only(
        self, principal: Principal, key: str, look: Callable[[Guest], T | None], right: Right, name: str | None = None
    ) -> tuple[Guest, T]:
        """What `look` finds in guest `name`, or without that in the one that a key means: see `OnObject`.

        RightsError without `right` in that guest.
        """
        seen = [guest for guest in self.visible(principal) if name in (None, guest.name)]
        having = {guest.name: (guest, thing) for guest in seen if (thing := look(guest)) is not None}
        if not having:
            raise missing(key, name)
        found = having.get(DEFAULT_GUEST) or next(iter(having.values()))
        if len(having) > 1 and DEFAULT_GUEST not in having:
            raise ambiguous(key, having)
        principal.demand(right, found[0].name)
        return found

    @staticmethod
    def _demand_no_source(principal: Principal, found: verbs.Found, to: str = "") -> None:
        """Reserve links and moves of sources to admins: a program could use them to record one despite a denial."""
        if verbs.about_source(found, to):
            why = f"{principal.key} may not link or move a source, or move anything to one; record it instead"
            principal.demand(Right.ADMIN, found.guest.name, why)

    # -- state -------------------------------------------------------------------------------

    async def _about(self, args: r.Nothing, principal: Principal) -> results.DaemonView:
        place = self._place
        return results.DaemonView(__version__, principal.key, place.address, place.page_url)

    async def _page_link(self, args: r.Nothing, principal: Principal) -> results.PageLink:
        if principal != OWNER:
            raise RightsError(f"{principal.key} may not make links: a link gives a browser the owner's rights")
        return results.PageLink(self.page_link())

    async def _state(self, args: r.State, principal: Principal) -> results.StateView:
        seen = self.visible(principal)
        shown = seen if args.guest is None else [self.guest(principal, args.guest, Right.SEE)]
        guests: list[GuestView] = [await with_pauses(guest_view(guest)) for guest in shown]
        names = [guest.name for guest in seen]
        rights = tuple(show_rights(principal.rights))
        state = results.StateView(__version__, self._place.address, guests, principal.key, rights, names)
        if principal.may(Right.ADMIN):
            state.refused, state.trouble = self.refused(), self._worker.trouble
            state.policy, state.requests = self._worker.policy(), len(list(self._worker.prompts))
        return state

    # -- changes -----------------------------------------------------------------------------

    async def _set(self, args: r.Set, principal: Principal) -> results.Changed:
        found = self.find(principal, args.target, args.guest, Right.CONTROL)
        await self._worker.set(found, {key: verbs.setting_text(value) for key, value in args.settings.items()})
        return _changed(found)

    async def _move(self, args: r.Move, principal: Principal) -> results.Changed:
        found = self.find(principal, args.target, args.guest, Right.CONTROL)
        self._demand_no_source(principal, found, args.to)
        verbs.move(found, args.to)
        return _changed(found)

    async def _link(self, args: r.LinkTo, principal: Principal) -> results.Changed:
        found = self.find(principal, args.source, args.guest, Right.LINK)
        self._demand_no_source(principal, found)
        verbs.link(found, args.to, verbs.parse_matrix(args.matrix))
        return _changed(found)

    async def _unlink(self, args: r.LinkTo, principal: Principal) -> results.Changed:
        found = self.find(principal, args.source, args.guest, Right.LINK)
        verbs.unlink(found, args.to)
        return _changed(found)

    async def _sink_add(self, args: r.SinkAdd, principal: Principal) -> results.NewSink:
        guest = self.guest(principal, args.guest, Right.LINK)
        sink = await self._worker.add_sink(guest, args.name, parse_label(args.description, "sink description"))
        return results.NewSink(sink.key, sink.name)

    async def _sink_remove(self, args: r.SinkRemove, principal: Principal) -> results.Done:
        guest = self.guest(principal, args.guest, Right.LINK)
        await self._worker.remove_sink(guest, args.sink)
        return OK

    # -- guests and their machines -------------------------------------------------------------

    async def _guest_add(self, args: r.GuestAdd, principal: Principal) -> GuestView:
        principal.demand(Right.ADMIN)
        options = {key: value for key in ("rate", "channels") if (value := getattr(args, key)) is not None}
        return await with_pauses(guest_view(await self._worker.add_guest(args.name, options)))

    async def _guest_remove(self, args: r.OfGuest, principal: Principal) -> results.Done:
        principal.demand(Right.ADMIN)
        await self._worker.remove_guest(args.guest)
        return OK

    async def _attach(self, args: r.Attach, principal: Principal) -> MachineView:
        guest = self.guest(principal, args.guest, Right.ADMIN)
        spec = parse_door(args.door, vm=args.vm, password=args.password or "", ca_file=args.ca_file or "")
        if args.password_file:
            why = "only a token with every right may name a password file; send the password instead"
            principal.demand(Right.ADMIN, why=why)
            spec = replace(spec, password_file=args.password_file)
        confined = not principal.may(Right.ADMIN)
        machine = await self._worker.doors.attach(guest, spec, confined, args.once, args.also)
        return machine.view()

    async def _detach(self, args: r.Detach, principal: Principal) -> results.Done:
        key = scopes.door_key(args.door)
        await self._worker.doors.detach(
            *self._only(principal, key, lambda guest: verbs.machine_of(guest, key), Right.ADMIN)
        )
        return OK

    # -- grants --------------------------------------------------------------------------------

    async def _grants(self, args: r.Nothing, principal: Principal) -> list[results.GrantView]:
        shown: list[results.GrantView]
        shown = await with_pauses(rules.views(self.visible(principal), self._worker.sessions, principal))
        return shown

    async def _grant(self, args: r.Grant, principal: Principal) -> results.RuleSet:
        guest, what = self.guest(principal, args.guest, Right.ADMIN), parse_permission(args.what)
        if args.allow is None:
            program = rules.stored(args.program, what, guest)
            if program is None:
                raise NotFound(f"guest {guest.name} has no such rule; `millrace grants` lists them")
            await self._worker.grant(guest, what, program, None)
            return results.RuleSet(program=program)
        verdict = parse_verdict(args.allow)
        found = rules.ruled(args.program, guest, self._worker.access.tokens, self._worker.sessions)
        await self._worker.grant(guest, what, found.program, verdict)
        return results.RuleSet(program=found.program, note=found.note)

    async def _requests(self, args: r.Nothing, principal: Principal) -> list[RequestView]:
        return [q.view() for q in self._worker.prompts if principal.may(Right.ADMIN, q.guest)]

    async def _decide(self, args: r.Decide, principal: Principal) -> results.Done:
        key = scopes.request_key(args.request)
        asked = self._worker.prompts.get(key)
        if asked is None or not principal.may(Right.SEE, asked.guest):
            raise missing(key, why=": it was answered or has expired")
        principal.demand(Right.ADMIN, asked.guest)
        await self._worker.decide(asked, args.allow, args.always, principal.key)
        return OK

    # -- explanations ------------------------------------------------------------------------------

    def _heard(self, args: r.About, principal: Principal, more: str = "") -> tuple[Guest, Stream | ListenerSession]:
        if not args.target.startswith(HEARD):
            kinds = f"stream, listener,{more} screen or viewer"
            raise ConfigError(f"{quoted(args.target)}: give a {kinds} as `millrace ls` shows it, such as stream/7")
        found = self.find(principal, args.target, args.guest, Right.SEE)
        assert isinstance(found.thing, Stream | ListenerSession)
        return found.guest, found.thing

    async def _latency(self, args: r.About, principal: Principal) -> Breakdown:
        if args.target.startswith(SEEN):
            guest, seen = self._seen(args, principal)
            sessions = [one for one in guest.viewers.sessions if seen.session in (None, one)]
            return picture_breakdown(args.target, seen.listed, sessions)
        guest, heard = self._heard(args, principal)
        return breakdown(guest, heard, now_ns()) if isinstance(heard, Stream) else heard_breakdown(heard)

    def _seen(self, args: r.About, principal: Principal) -> tuple[Guest, verbs.Seen]:
        return self._only(principal, args.target, lambda one: verbs.seen(one, args.target), Right.SEE, args.guest)

    async def _explain(self, args: r.About, principal: Principal) -> results.Explanation:
        if args.target.startswith(SEEN):
            guest, seen = self._seen(args, principal)
            return results.Explanation(args.target, guest.name, explain_seen(guest, *seen))
        kind, _, text = args.target.partition("/")
        if kind == "recorder":
            number = key_number(text)
            guest, told = self._only(principal, args.target, lambda one: verbs.recorder_tap(one, number), Right.SEE)
            return results.Explanation(args.target, guest.name, explain_recorder(guest, *told))
        guest, heard = self._heard(args, principal, " recorder,")
        return results.Explanation(heard.key, guest.name, explain_heard(guest, heard))

    async def _flight(self, args: r.OfGuest, principal: Principal) -> list[Sample]:
        return self._worker.flight.of(self.guest(principal, args.guest, Right.SEE).name)

    # -- incidents ---------------------------------------------------------------------------------

    async def _incidents(self, args: r.Incidents, principal: Principal) -> list[IncidentView]:
        # Incidents outlive their guest. Then only those see them who see all guests: a token for a guest that is yet to
        # be made may name a removed one.
        there = self._worker.guests
        seen = [
            incident for incident in self._worker.diagnosis.incidents
            if principal.may(Right.SEE, incident.guest if incident.guest in there else None)
        ]  # fmt: skip
        found = [i.view() for i in seen if args.guest in (None, i.guest) and args.subject in (None, i.subject)]
        if args.guest is not None and not found:
            # So check that the guest exists only if none are found.
            self.guest(principal, args.guest, Right.SEE)
        return found

    # -- tokens --------------------------------------------------------------------------------

    async def _tokens(self, args: r.Nothing, principal: Principal) -> list[results.TokenView]:
        principal.demand(Right.ADMIN)
        return self._worker.access.views()

    async def _token_new(self, args: r.TokenNew, principal: Principal) -> results.NewToken:
        principal.demand(Right.ADMIN)
        may = args.may if isinstance(args.may, str) else ",".join(args.may)
        rights, lasts_s = parse_rights(may), parse_expiry(args.expires or TOKEN_DAYS)
        name, guests = parse_label(args.name, "token name", 100), args.guests or [ALL_GUESTS]
        for guest in guests:
            # A token made for a mistyped name would be valid in whatever guest is added by that name later.
            if guest != ALL_GUESTS and guest not in self._worker.guests:
                raise missing_guest(guest, self._worker.guests)
        token, secret = await self._worker.access.new(name, rights, guests, lasts_s)
        return results.NewToken(**msgspec.structs.asdict(token_view(token)), token=secret)

    async def _token_rotate(self, args: r.OfToken, principal: Principal) -> results.NewSecret:
        principal.demand(Right.ADMIN)
        secret = await self._worker.access.rotate(_number(args.token))
        if secret is None:
            raise _no_token(args.token)
        return results.NewSecret(secret)

    async def _token_revoke(self, args: r.OfToken, principal: Principal) -> results.Done:
        principal.demand(Right.ADMIN)
        if not await self._worker.access.revoke(_number(args.token)):
            raise _no_token(args.token)
        return OK

    # -- storage for session managers --------------------------------------------------------------

    async def _remember(self, args: r.Remember, principal: Principal) -> results.Done:
        principal.demand(Right.ADMIN)
        if not 0 < len(args.key) <= KEY_MAX or len(args.value or "") > VALUE_MAX:
            raise ConfigError(f"a key has 1 to {KEY_MAX} characters, a value {VALUE_MAX} at most")
        name = table_of(args.key)
        guest = self._worker.guests.get(name)
        if guest is not None:
            await self._worker.learn(guest, args.key, args.value)
        elif name and args.value is not None:
            # A later guest of that name would load it.
            raise missing_guest(name, self._worker.guests)
        else:
            await self._worker.writer.write(self._worker.store.remember, args.key, args.value)
        return OK

    async def _recall(self, args: r.Recall, principal: Principal) -> dict[str, str]:
        principal.demand(Right.ADMIN)
        return await self._worker.writer.write(self._worker.store.recall, args.prefix)


def _no_token(text: str) -> NotFound:
    if text == CONFIGURED.key:
        return NotFound(f"the {text} is set {CONFIGURED_BY}: change that, and start the daemon again")
    return missing(f"token/{text.removeprefix('token/')}")


def _changed(found: verbs.Found) -> results.Changed:
    return results.Changed(target=found.key, guest=found.guest.name)


def _number(text: str) -> int:
    return key_number(text.removeprefix("token/"))
