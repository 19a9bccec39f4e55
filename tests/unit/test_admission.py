"""A guest's admission: the same decision, count and report for every door."""

from __future__ import annotations

import re

import pytest

from millrace.budget import Budget
from millrace.doors.admission import Admission, Refused
from millrace.errors import RightsError
from millrace.graph.model import Ids
from millrace.rights.grants import ANY, Identity, Permission, Subject, Verdict
from millrace.rights.model import Right
from millrace.rights.prompts import Answer, Prompt, Prompts
from millrace.symptoms import CAUSES, Symptom


class Asker:
    """A connection of some door."""

    def __init__(self, program: str) -> None:
        self.subject = Subject(Identity(1, 0, program))
        self.name = program
        self.waiting: list[str] = []
        self.answers: list[bool] = []

    def await_answer(self, again: Answer) -> Answer:
        return again

    def waits(self, prompt: Prompt) -> None:
        self.waiting.append(prompt.key)


FORBIDS = "the rule for any other program forbids it"


class Rig:
    def __init__(self, rights: Right | None = None) -> None:
        self.told: list[Symptom] = []
        self.prompts = Prompts(Ids().take)
        self.admission = Admission("alice", Budget(), self.prompts, self.told.append, rights)

    def authorize(self, what: Permission, asker: Asker) -> bool:
        return self.admission.authorize(what, asker, 0, asker.answers.append)


def test_refusal_names_the_rule_or_the_answer() -> None:
    rig, evil = Rig(), Asker("evil")
    rules = rig.admission.grants
    for program, verdict, why in [
        (ANY, Verdict.DENY, FORBIDS), ("evil", Verdict.DENY, "the rule for evil forbids it"),
        ("evil", Verdict.PROMPT, "it has to ask, and has not been allowed$"),
    ]:  # fmt: skip
        rules.set(Permission.CAMERA, program, verdict)
        with pytest.raises(Refused):
            rig.admission.demand(Permission.CAMERA, evil.subject)
        assert re.match(why, str(rig.told[-1].evidence["why"]))
    with pytest.raises(Refused):
        rig.admission.demand_right(Right.ADMIN, evil.subject, "load")
    assert rig.told[-1].evidence["why"] == "the programs of guest alice may not ADMIN"
    assert "token" not in CAUSES["rights", "refused"]


def test_who_is_refused_is_the_program_or_else_the_address_that_it_has_over_tcp() -> None:
    rig = Rig()
    rig.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.DENY)
    for subject, who in [
        (Subject(address="192.0.2.7"), "192.0.2.7"), (Subject(), "an unknown program"),
        (Subject(Identity(program="evil"), address="192.0.2.7"), "evil"),
    ]:  # fmt: skip
        rig.admission.wrong_secret(subject)
        with pytest.raises(Refused):
            rig.admission.demand(Permission.MICROPHONE, subject)
        assert [one.evidence["who"] for one in rig.told] == [who, who]
        rig.told.clear()


@pytest.mark.parametrize("what", list(Permission))
def test_refusal_is_counted_and_reported_once(what: Permission) -> None:
    rig, evil = Rig(), Asker("evil")
    rig.admission.grants.set(what, ANY, Verdict.DENY)
    with pytest.raises(Refused, match=r"^evil has no grant (to connect to guest alice|for the \w+)$"):
        rig.authorize(what, evil)
    logins = what is Permission.CONNECT
    assert (rig.admission.refused_logins, rig.admission.refused_captures) == (logins, not logins)
    assert [(one.stage, one.cause, one.guest, one.evidence) for one in rig.told] == [
        ("rights", "refused", "alice", {"who": "evil", "what": what.value, "why": f"{FORBIDS} (`millrace grants`)"})
    ]
    with pytest.raises(Refused):
        rig.admission.demand(what, evil.subject)
    assert len(rig.told) == 2


def test_answer_that_raises_leaves_others_answered_and_rule_enforced(caplog: pytest.LogCaptureFixture) -> None:
    rig, first, second = Rig(), Asker("first"), Asker("second")
    rig.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.PROMPT)

    def fail(allow: bool) -> None:
        raise OSError(24, "Too many open files")

    assert not rig.admission.authorize(Permission.MICROPHONE, first, 0, fail)
    assert not rig.authorize(Permission.MICROPHONE, first) and not rig.authorize(Permission.MICROPHONE, second)
    ended: list[str] = []

    class Door:
        def end_forbidden(self) -> None:
            ended.append("here")

    rig.admission.doors += [Door()]
    rig.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.DENY)
    rig.admission.enforce()
    assert (first.answers, second.answers, ended) == ([False], [False], ["here"])
    assert "Too many open files" in caplog.text


def test_prompted_program_waits_for_answer_or_for_rule() -> None:
    rig, first, second = Rig(), Asker("first"), Asker("second")
    rig.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.PROMPT)
    assert not rig.authorize(Permission.MICROPHONE, first) and not rig.authorize(Permission.MICROPHONE, second)
    asked = rig.prompts.get(first.waiting[0])
    assert asked is not None and asked.guest == "alice"
    rig.prompts.decide(asked, True)
    assert first.answers == [True] and rig.authorize(Permission.MICROPHONE, first) and not second.answers
    ended: list[str] = []

    class Door:
        def end_forbidden(self) -> None:
            ended.append("here")

    rig.admission.doors += [Door(), Door()]
    rig.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.DENY)
    rig.admission.enforce()
    assert second.answers == [False] and len(ended) == 2, "every door is notified"
    with pytest.raises(Refused):
        rig.authorize(Permission.MICROPHONE, first)


def test_one_time_grant_ends_when_process_becomes_another_program() -> None:
    rig, asker = Rig(), Asker("player")
    asker.subject.once[Permission.MONITOR] = True
    assert not rig.admission.identify(asker.subject, Identity(1, 0, "player")) and asker.subject.once
    assert rig.admission.identify(asker.subject, Identity(2, 0, "other")) and not asker.subject.once
    assert asker.subject.identity.program == "other"


def test_guest_rights_apply_to_identified_programs_only() -> None:
    rig = Rig(Right.SEE | Right.SPEAK)
    known, unproven = Subject(Identity(1, 0, "player")), Subject(Identity(1, 0, "player", unproven=True))
    rig.admission.demand_right(Right.SPEAK, known, "play")
    rig.admission.demand_right(Right.SPEAK, unproven, "play")
    with pytest.raises(Refused, match="may not CONTROL"):
        rig.admission.demand_right(Right.CONTROL, known, "set volume")
    rig.admission.grants.set(Permission.CONNECT, ANY, Verdict.DENY)
    rig.admission.grants.set(Permission.CONNECT, "player", Verdict.ALLOW)
    rig.admission.demand_right(Right.SPEAK, known, "play")
    rig.admission.demand_known(known)
    with pytest.raises(Refused):
        rig.admission.demand_right(Right.SPEAK, unproven, "play")
    with pytest.raises(RightsError, match="not identified yet"):
        rig.admission.demand_known(unproven)


def test_two_connections_of_one_program_are_prompted_separately() -> None:
    """What is granted once ends with its connection, so it must not reach another."""
    rig, first, second = Rig(), Asker("player"), Asker("player")
    rig.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.PROMPT)
    assert first.subject.identity == second.subject.identity
    for asker in (first, first, second):
        assert not rig.authorize(Permission.MICROPHONE, asker)
    assert len(list(rig.prompts)) == 2 and first.waiting[0] == first.waiting[1] != second.waiting[0]
    asked = rig.prompts.get(first.waiting[0])
    assert asked is not None
    rig.prompts.decide(asked, True)
    assert first.answers == [True, True] and second.answers == [] and not second.subject.once
    rig.prompts.forget(first.subject)
    assert [prompt.subject for prompt in rig.prompts] == [second.subject]
