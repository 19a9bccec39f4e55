"""Who may come in to one guest, and what its programs may do there: the same at every door.

A door knows who is at the other end of a connection as a `Subject`, made once where the connection was accepted
(`io/sockets.py`). What that one may is decided here: by the guest's grants, by the rights of its programs, by what its
budget has room for, and where a grant says so by somebody who is asked. Doors translate: a refusal is PA_ERR_ACCESS to
a PulseAudio client, a fault with the code `rights` to a native one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from millrace.budget import CONNECTIONS, Account, Budget
from millrace.errors import RightsError
from millrace.graph.model import Sink
from millrace.rights.grants import Grants, Identity, Permission, Subject, Verdict
from millrace.rights.model import GUEST_RIGHTS, Principal, Right
from millrace.rights.prompts import Answer, Prompt, Prompts
from millrace.symptoms import Report, refusal
from millrace.units import HostNs


class Refused(RightsError):
    """A program of a guest may not do that; it was counted and reported already."""


class Asker(Protocol):
    """A connection whose request waits until somebody has decided."""

    subject: Subject

    @property
    def name(self) -> str:
        """What the program calls itself."""
        ...

    def await_answer(self, again: Answer) -> Answer:
        """Keep the request: what is to be called with the answer. BudgetError where there is no room for it."""
        ...

    def waits(self, prompt: Prompt) -> None:
        """It is being asked."""
        ...


class Door(Protocol):
    """Where programs have come in, that may have to go again."""

    def end_forbidden(self) -> None:
        """The grants have changed: what they forbid ends."""
        ...

    def close(self) -> None:
        """The guest is stopping: its connections end when they have been told."""
        ...


def permission_of(sink: Sink) -> Permission:
    """What recording from `sink` is; a remapped source is what it was made of."""
    while sink.master is not None:
        sink = sink.master
    return Permission.MICROPHONE if sink.capture else Permission.MONITOR


class Admission:
    """One guest's."""

    def __init__(
        self, guest: str, budget: Budget, prompts: Prompts, report: Report, rights: Right | None = None
    ) -> None:
        self.guest, self.budget, self.prompts = guest, budget, prompts
        self.report = report
        self.grants = Grants()
        self.principal = Principal(f"guest/{guest}", GUEST_RIGHTS if rights is None else rights, frozenset({guest}))
        """What the programs of this guest may."""
        self.doors: list[Door] = []
        self.refused_logins = self.refused_captures = 0

    def account(self, parts: Mapping[Any, int]) -> Account:
        """What a new connection makes the daemon hold; BudgetError where the guest has no room for it."""
        return self.budget.open("connection", parts, CONNECTIONS)

    # -- by the grants -----------------------------------------------------------------------

    def verdict(self, what: Permission, subject: Subject) -> Verdict:
        """What the grants say; see `Grants.verdict`."""
        return self.grants.verdict(what, subject)

    def allows(self, what: Permission, subject: Subject) -> bool:
        """Whether it may without anybody being asked."""
        return self.grants.verdict(what, subject) is Verdict.ALLOW

    def demand(self, what: Permission, subject: Subject) -> None:
        """Refused unless it may without anybody being asked."""
        if not self.allows(what, subject):
            raise self.refusal(what, subject)

    def authorize(self, what: Permission, asker: Asker, now_ns: HostNs, again: Answer) -> bool:
        """Whether it may. Where somebody is to be asked: False for now, and `again` hears the answer. Else Refused."""
        verdict = self.grants.verdict(what, asker.subject)
        if verdict is Verdict.PROMPT:
            self.ask(what, asker, now_ns, again)
            return False
        if verdict is Verdict.DENY:
            raise self.refusal(what, asker.subject)
        return True

    def ask(self, what: Permission, asker: Asker, now_ns: HostNs, again: Answer) -> None:
        """Let somebody decide."""
        answered = asker.await_answer(again)
        prompt = self.prompts.ask(self.guest, what, asker.subject, asker.name, now_ns, answered)
        if prompt is not None:
            asker.waits(prompt)

    def refusal(self, what: Permission, subject: Subject) -> Refused:
        """For a door to answer with."""
        if what is Permission.CONNECT:
            self.refused_logins += 1
            needed = f"to connect to guest {self.guest}"
        else:
            self.refused_captures += 1
            needed = f"for the {what.value}"
        return self._refused(subject, what.value, f"{subject.identity} has no grant {needed}")

    def _refused(self, subject: Subject, what: str, why: str) -> Refused:
        self.report(refusal(self.guest, str(subject.identity), what))
        return Refused(why)

    def wrong_secret(self) -> None:
        """Somebody came with another guest's cookie, or with none."""
        self.refused_logins += 1

    def enforce(self) -> None:
        """The grants have changed: what waits is answered as far as they say, and what they forbid ends."""
        self.prompts.answer_decided(self.guest, self.grants)
        for door in self.doors:
            door.end_forbidden()

    # -- by who it is ------------------------------------------------------------------------

    def knows(self, subject: Subject) -> bool:
        """Whether it is known which program speaks, or any program may connect."""
        return not subject.identity.unproven or self.allows(Permission.CONNECT, Subject())

    def demand_right(self, right: Right, subject: Subject, what: str) -> None:
        """Refused unless the programs of this guest have that right, and it is known that one of them asks."""
        if not (self.principal.may(right, self.guest) and self.knows(subject)):
            raise self._refused(subject, what, f"the programs of guest {self.guest} may not {right.name}")

    def demand_known(self, subject: Subject) -> None:
        """RightsError where a program's own rule let it in, and it has not yet been seen to write."""
        if not self.knows(subject):
            raise RightsError("this program is not identified yet: wait for welcome")

    @staticmethod
    def identify(subject: Subject, identity: Identity) -> bool:
        """The program that speaks. What was granted once to another is not its own: True where it was another."""
        before, subject.identity = subject.identity, identity
        if identity.names == before.names:
            return False
        subject.once.clear()
        return True

    def may_speak(self, principal: Principal) -> bool:
        """Whether a listener's microphone may be heard in this guest."""
        return principal.may(Right.SPEAK, self.guest)
