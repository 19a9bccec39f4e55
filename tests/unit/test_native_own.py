"""What a native connection does besides streams: it watches, claims names, ducks streams, and asks for permissions."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from millrace.control.claims import Claims
from millrace.control.requests import parsed
from millrace.doors.admission import Admission
from millrace.errors import ConfigError, RightsError
from millrace.guest.notfound import NotFound
from millrace.rights.grants import ANY, Identity, Permission, Subject, Verdict
from millrace.rights.model import NOBODY, OWNER, Principal, Right
from millrace.rights.prompts import Answer, Prompt
from millrace.server.native.own import OwnMethods
from millrace.server.native.state import SessionState
from millrace.sim.rig import Rig
from millrace.wire.native.session import NativeState


class Connection:
    """One that keeps what it was told, and waits for answers as a native one does."""

    def __init__(self, name: str = "one", principal: Principal = OWNER) -> None:
        self.name, self.principal = name, principal
        self.subject = Subject(Identity(5, 1000, name))
        self.watched: list[tuple[frozenset[str] | None, int]] = []
        """What it hears of from when on, by how often it had been answered by then."""
        self.told: list[tuple[int, Any]] = []
        self.asked: list[tuple[str, Right]] = []
        self.waiting: list[Prompt] = []
        self.rig = Rig()
        self.home: Any = SimpleNamespace(admission=self.rig.admission)

    def reply(self, serial: int, value: Any = None) -> None:
        self.told.append((serial, value))

    def watch(self, kinds: frozenset[str] | None) -> None:
        self.watched.append((kinds, len(self.told)))

    def claim_changed(self, name: str, have: bool) -> None:
        self.told.append((-1, (name, have)))

    def guest(self, name: str, right: Right) -> Any:
        self.asked.append((name, right))
        if name != "default":
            raise NotFound(f"there is no guest {name}")
        return self.home

    def await_answer(self, again: Answer) -> Answer:
        return again

    def waits(self, prompt: Prompt) -> None:
        self.waiting.append(prompt)


class Plane:
    """What these methods ask of the control plane."""

    def __init__(self) -> None:
        self.claims = Claims()
        self.ducked: list[tuple[Any, ...]] = []

    def claim(self, *what: Any) -> bool:
        return self.claims.claim(*what)

    def duck(self, *what: Any) -> None:
        self.ducked.append(what)


def methods(connection: Connection, plane: Plane) -> Callable[..., None]:
    """Calls a method as the wire does."""
    session: Any = connection
    control: Any = plane
    table = OwnMethods(session, control).table
    assert set(table) == {"watch", "claim", "duck", "ask"}

    def call(method: str, serial: int, **args: Any) -> None:
        kind, run = table[method]
        run(serial, parsed(kind, args))

    return call


def test_watch_is_answered_before_first_event() -> None:
    one = Connection()
    call = methods(one, Plane())
    call("watch", 1, kinds=["sink", "grant"])
    call("watch", 2)
    with pytest.raises(ConfigError, match="moon"):
        call("watch", 3, kinds=["moon"])
    assert one.told == [(1, None), (2, None)]
    assert one.watched == [(frozenset({"sink", "grant"}), 1), (None, 2)]


def test_claiming_a_name_needs_all_rights() -> None:
    plane = Plane()
    guest = Connection("guest", Principal("token/1", Right.SEE, frozenset({"*"})))
    with pytest.raises(RightsError):
        methods(guest, plane)("claim", 1, name="policy")
    assert plane.claims.holder("policy") is None and guest.told == []
    one, two = Connection("one"), Connection("two")
    methods(one, plane)("claim", 2, name="policy")
    methods(two, plane)("claim", 3, name="policy")
    assert one.told == [(2, {"have": True})] and two.told == [(3, {"have": False})]
    methods(two, plane)("claim", 4, name="policy", replace=True)
    assert two.told[-1] == (4, {"have": True}) and one.told[-1] == (-1, ("policy", False))
    methods(one, plane)("claim", 5, name="x" * 500)
    assert plane.claims.holder("x" * 100) is one, "the length of a name is limited"


def test_stream_is_ducked_for_this_connection() -> None:
    one, plane = Connection(), Plane()
    call = methods(one, plane)
    call("duck", 1, target="stream/5", db=-20)
    call("duck", 2, target="stream/5", db=0.0, guest="alice")
    assert plane.ducked == [(one, "stream/5", -20.0, None), (one, "stream/5", 0.0, "alice")]
    assert one.told == [(1, None), (2, None)]
    with pytest.raises(ConfigError):
        call("duck", 3, target="stream/5")


@pytest.mark.parametrize(("verdict", "answer"), [(None, True), (Verdict.ALLOW, True), (Verdict.DENY, False)])
def test_camera_permission_is_answered_immediately_if_decided(verdict: Verdict | None, answer: bool) -> None:
    one = Connection()
    one.rig.admission.grants.set(Permission.CAMERA, ANY, verdict)
    methods(one, Plane())("ask", 1, what="camera")
    assert one.told == [(1, answer)] and one.asked == [("default", Right.SEE)]


@pytest.mark.parametrize("allow", [True, False])
def test_camera_permission_is_answered_when_decided(allow: bool) -> None:
    one = Connection()
    admission: Admission = one.rig.admission
    admission.grants.set(Permission.CAMERA, ANY, Verdict.PROMPT)
    methods(one, Plane())("ask", 7, what="camera")
    assert one.told == [] and [prompt.what for prompt in one.waiting] == [Permission.CAMERA]
    one.rig.prompts.decide(one.waiting[0], allow)
    assert one.told == [(7, allow)]


def test_recording_permissions_are_not_asked_for_here() -> None:
    one = Connection()
    call = methods(one, Plane())
    for what, why in (("microphone", "asks for the microphone"), ("connect", "for the camera"), ("fly", "camera")):
        with pytest.raises(ConfigError, match=why):
            call("ask", 1, what=what)
    with pytest.raises(NotFound):
        call("ask", 1, what="camera", guest="other")
    assert one.told == []


def test_connection_starts_unauthenticated_and_shares_no_state() -> None:
    one, two = (SessionState(Subject(Identity(5, 1000, "tool")), NativeState()) for _ in range(2))
    assert one.principal is NOBODY and not (one.token or one.greeted or one.ready or one.called)
    one.calls.append((1, None))  # type: ignore[arg-type]
    one.asked[1] = None
    assert not two.calls and not two.asked and one.outgoing is not two.outgoing and not two.held.claims
    again = pickle.loads(pickle.dumps(one))
    assert (
        again.subject.identity == one.subject.identity and list(again.calls) == [(1, None)] and again.asked == {1: None}
    )
