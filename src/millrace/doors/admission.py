"""Admission control of one guest: which programs may connect, and what they may do. The same at every door.

A door identifies the other end of a connection by its `Subject`, created when the connection is accepted
(`io/sockets.py`). What the subject may do is decided here: by the guest's grants, by the rights of its programs, by
the room left in its budget and, where a grant says so, by a permission prompt. Doors translate the outcome: a refusal
is PA_ERR_ACCESS for a PulseAudio client, and a fault with the code `rights` for a native one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from millrace.budget import CONNECTIONS, Account, Budget
from millrace.errors import RightsError
from millrace.graph.model import Sink
from millrace.rights.grants import ANY, Grants, Identity, Permission, Subject, Verdict
from millrace.rights.model import GUEST_RIGHTS, Principal, Right
from millrace.rights.prompts import Answer, Prompt, Prompts
from millrace.symptoms import Report, refusal
from millrace.units import HostNs


class Refused(RightsError):
    """A guest's program may not do this. The refusal has already been counted and reported."""


class Asker(Protocol):
    """A connection whose request waits for a decision."""

    subject: Subject

    @property
    def name(self) -> str:
        """What the program calls itself."""
        ...

    def await_answer(self, again: Answer) -> Answer:
        """Keep the request; return the callback for the answer. BudgetError if there is no room for it."""
        ...

    def waits(self, prompt: Prompt) -> None:
        """The request has been put to a person or a policy."""
        ...


class Door(Protocol):
    """A door with open connections, some of which may have to be closed."""

    def end_forbidden(self) -> None:
        """The grants have changed: end what they now forbid."""
        ...


# A remapped or virtual source carries its master's sound. If it had a permission of its own, loading
# module-remap-source on the microphone would be a way around the rule that protects it, so the chain is followed to
# the source that is really recorded, however many remappings lie in between.
def permission_of(sink: Sink) -> Permission:
    """The permission needed to record from `sink`. A remapped source counts as its master."""
    while sink.master is not None:
        sink = sink.master
    return Permission.MICROPHONE if sink.capture else Permission.MONITOR


# How a request that needs a decision runs. `authorize` answers at once where the grants do. Where they say `prompt`,
# it returns False and the door gives the request up for now, having created and changed nothing: the answer may come
# 25 s later, when streams, sinks and grants are no longer the same. A recording is therefore not resumed but begun
# anew, with all its checks. The second time, the verdict is the answer itself, kept in `Subject.once` for that
# connection; a rule that denies overrides it.
#
# Grants and rights are different things. A grant is about one program (may it connect, may it record); a right is
# about all programs of the guest together (may they speak, control, link), as the owner configured it. A door asks
# for both.
class Admission:
    """The admission control of one guest."""

    def __init__(
        self, guest: str, budget: Budget, prompts: Prompts, report: Report, rights: Right | None = None
    ) -> None:
        self.guest, self.budget, self.prompts = guest, budget, prompts
        self.report = report
        self.grants = Grants()
        self.principal = Principal(f"guest/{guest}", GUEST_RIGHTS if rights is None else rights, frozenset({guest}))
        """The rights of this guest's programs."""
        self.doors: list[Door] = []
        self.refused_logins = self.refused_captures = 0

    def account(self, parts: Mapping[Any, int], reach: float = CONNECTIONS, subject: Subject | None = None) -> Account:
        """Open an account for a new connection's memory; BudgetError if the guest has no room for it."""
        return self.budget.open("connection", parts, reach, self.whose(subject))

    # One program of a guest is not to take the others' room for what is incomplete.
    def whose(self, subject: Subject | None) -> str:
        """Whose the memory of a connection is: that of one process of the guest, if it is known, or of the guest."""
        pid = 0 if subject is None else subject.identity.pid
        return f"{self.principal.key}/{pid}" if pid else self.principal.key

    # -- by grants ---------------------------------------------------------------------------

    def verdict(self, what: Permission, subject: Subject) -> Verdict:
        """See `Grants.verdict`."""
        return self.grants.verdict(what, subject)

    def allows(self, what: Permission, subject: Subject) -> bool:
        """Whether the grants allow it without a prompt."""
        return self.grants.verdict(what, subject) is Verdict.ALLOW

    def demand(self, what: Permission, subject: Subject) -> None:
        """Raise Refused unless the grants allow it without a prompt."""
        if not self.allows(what, subject):
            raise self.refusal(what, subject)

    def authorize(self, what: Permission, asker: Asker, now_ns: HostNs, again: Answer) -> bool:
        """True if allowed. If it takes a prompt, False for now, and `again` is called with the answer. Else Refused."""
        verdict = self.grants.verdict(what, asker.subject)
        if verdict is Verdict.PROMPT:
            self.ask(what, asker, now_ns, again)
            return False
        if verdict is Verdict.DENY:
            raise self.refusal(what, asker.subject)
        return True

    def ask(self, what: Permission, asker: Asker, now_ns: HostNs, again: Answer) -> None:
        """Prompt for a decision."""
        answered = asker.await_answer(again)
        prompt = self.prompts.ask(self.guest, what, asker.subject, asker.name, now_ns, answered)
        if prompt is not None:
            asker.waits(prompt)

    def refusal(self, what: Permission, subject: Subject) -> Refused:
        """Count and report a refusal; return the error for the door to answer with."""
        if what is Permission.CONNECT:
            self.refused_logins += 1
            needed = f"to connect to guest {self.guest}"
        else:
            self.refused_captures += 1
            needed = f"for the {what.value}"
        refused = f"{subject.identity} has no grant {needed}"
        return self._refused(subject, what.value, refused, self._reason(what, subject))

    def _reason(self, what: Permission, subject: Subject) -> str:
        """Why its rules don't allow it."""
        name, ruled = self.grants.ruling(what, subject)
        if ruled is not Verdict.DENY:
            return "it has to ask, and has not been allowed"
        return f"the rule for {'any other program' if name == ANY else name} forbids it (`millrace grants`)"

    def _refused(self, subject: Subject, what: str, refused: str, why: str) -> Refused:
        self.report(refusal(self.guest, subject.who, what, why))
        return Refused(refused)

    def wrong_secret(self, subject: Subject) -> None:
        """A client sent another guest's cookie, or none."""
        self.refused_logins += 1
        self.report(refusal(self.guest, subject.who, Permission.CONNECT.value, "wrong cookie"))

    # A withdrawn rule must not leave anything in place that it had allowed. Pending requests that the new rules
    # decide are settled first, because they no longer need a person. Then each door checks everything in progress
    # again: that a recorder was allowed when it began says nothing about now.
    def enforce(self) -> None:
        """The grants have changed: answer the prompts they now decide, and end what they now forbid."""
        try:
            self.prompts.answer_decided(self.guest, self.grants)
        finally:
            for door in self.doors:
                door.end_forbidden()

    # -- by identity -------------------------------------------------------------------------

    # The kernel says which process connected, not which program it runs by the time it writes (it may have called
    # execve in between). Until the first bytes have proven the sender, an identity is only a claim. It is good enough
    # where any program may connect, which is what a verdict for an empty `Subject` asks.
    def knows(self, subject: Subject) -> bool:
        """Whether the program is identified, or any program may connect."""
        return not subject.identity.unproven or self.allows(Permission.CONNECT, Subject())

    def demand_right(self, right: Right, subject: Subject, what: str) -> None:
        """Raise Refused unless this guest's programs have the right, and the subject is known to be one of them."""
        if not (self.principal.may(right, self.guest) and self.knows(subject)):
            refused = f"the programs of guest {self.guest} may not {right.name}"
            raise self._refused(subject, what, refused, refused)

    def demand_known(self, subject: Subject) -> None:
        """RightsError if the connection was accepted by a program's own rule, but its program is not proven yet."""
        if not self.knows(subject):
            raise RightsError("this program is not identified yet: wait for welcome")

    # A one-time grant was given to the program that a person saw in the prompt. The connection outlives the program:
    # a process may exec another one, or pass the socket on. So the grants go as soon as the sender turns out to be a
    # different program, and the door must check the connection again (True).
    @staticmethod
    def identify(subject: Subject, identity: Identity) -> bool:
        """Set the subject's program. If it is a different one, drop the previous one's one-time grants; return True."""
        before, subject.identity = subject.identity, identity
        if identity.names == before.names:
            return False
        subject.once.clear()
        return True

    def may_speak(self, principal: Principal) -> bool:
        """Whether a listener with these rights may send its microphone to this guest."""
        return principal.may(Right.SPEAK, self.guest)
