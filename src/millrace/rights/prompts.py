"""Permission requests waiting for an answer from a session manager or a person. After a timeout they are denied."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from millrace.absent import nothing
from millrace.rights.grants import Grants, Pending, Permission, Subject, Verdict
from millrace.units import NS_PER_S, HostNs

log = logging.getLogger("millrace.rights")
PROMPT_TIMEOUT_NS: HostNs = 25 * NS_PER_S
"""libpulse gives up after 30 s; the denial must arrive before that."""
PROMPTS_MAX = 64
"""Pending requests of one guest; any beyond that are denied at once."""

Answer = Callable[[bool], None]


class RequestView(msgspec.Struct, frozen=True):
    """A request as shown to clients."""

    id: str
    guest: str
    what: str
    program: str
    sandbox: str
    name: str
    pid: int
    uid: int


@dataclass(eq=False)
class Prompt:
    """One request. `answers` are called with the verdict, once."""

    id: int
    guest: str
    what: Permission
    subject: Subject
    name: str
    expires_ns: HostNs
    answers: list[Answer] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Its name for users and the API."""
        return f"request/{self.id}"

    def view(self) -> RequestView:
        """The request as shown to clients."""
        identity = self.subject.identity
        return RequestView(
            id=self.key, guest=self.guest, what=self.what.value, program=str(identity),
            sandbox=identity.sandbox, name=self.name, pid=identity.pid, uid=identity.uid,
        )  # fmt: skip


Changed = Callable[[str, Prompt], None]
"""Called with "new" when a request appears and "remove" when it goes."""


def _untold(change: str, prompt: Prompt) -> None:
    """Ignore changes."""


class Prompts:
    """Pending requests of all guests. Time is passed in."""

    def __init__(
        self, take_id: Callable[[], int], changed: Changed = _untold, rearm: Callable[[], None] = nothing
    ) -> None:
        """`rearm` is called when the next deadline may have changed."""
        self._take_id, self._changed, self._rearm = take_id, changed, rearm
        self._timeout_ns = PROMPT_TIMEOUT_NS
        self._waiting: dict[str, Prompt] = {}

    def __iter__(self) -> Iterator[Prompt]:
        return iter(list(self._waiting.values()))

    def get(self, key: str) -> Prompt | None:
        """One by its key."""
        return self._waiting.get(key)

    def ask(
        self, guest: str, what: Permission, subject: Subject, name: str, now_ns: HostNs, answer: Answer
    ) -> Prompt | None:
        """Queue `answer` for a decision; if too many are pending, call it with False and return None."""
        mine = [p for p in self._waiting.values() if p.guest == guest]
        # A repeated request of the same connection joins the pending one: people are asked only once.
        # By identity: two connections of one program are two subjects, and each is asked about, since a one-time grant
        # ends with its connection.
        for prompt in mine:
            if prompt.subject is subject and prompt.what is what:
                prompt.answers.append(answer)
                return prompt
        if len(mine) >= PROMPTS_MAX:
            answer(False)
            return None
        known = next((one for one in subject.pending if (one.guest, one.what) == (guest, what)), None)
        if known is None:
            known = Pending(guest, what, self._take_id(), now_ns + self._timeout_ns)
            subject.pending.append(known)
        prompt = Prompt(known.id, guest, what, subject, name, known.expires_ns, [answer])
        self._waiting[prompt.key] = prompt
        self._changed("new", prompt)
        self._rearm()
        return prompt

    def decide(self, prompt: Prompt, allow: bool) -> None:
        """Decide one, for that connection only."""
        if self._waiting.pop(prompt.key, None) is None:
            return
        # The request is taken off the list, and the verdict stored, before any answer is called: an answer runs
        # protocol code that may end the client, ask again, or look at the list.
        subject = prompt.subject
        subject.pending = [one for one in subject.pending if one.id != prompt.id]
        subject.once[prompt.what] = allow
        self._changed("remove", prompt)
        for answer in prompt.answers:
            try:
                answer(allow)
            except Exception:
                # It is one connection's error: the others wait for their answers, and the rules still apply.
                log.exception("guest %s: internal error after the answer to %s", prompt.guest, prompt.key)

    def forget(self, subject: Subject) -> None:
        """A client has disconnected, or continues elsewhere: drop its requests."""
        for prompt in self:
            if prompt.subject is subject:
                del self._waiting[prompt.key]
                self._changed("remove", prompt)

    def answer_decided(self, guest: str, grants: Grants) -> None:
        """The rules have changed: decide the requests that they now settle."""
        for prompt in self:
            verdict = grants.verdict(prompt.what, prompt.subject) if prompt.guest == guest else Verdict.PROMPT
            if verdict is not Verdict.PROMPT:
                self.decide(prompt, verdict is Verdict.ALLOW)

    def next_timeout(self) -> HostNs | None:
        """When the next request times out."""
        return min((prompt.expires_ns for prompt in self._waiting.values()), default=None)

    def handle_timeout(self, now_ns: HostNs) -> None:
        """Deny the requests that have timed out."""
        for prompt in self:
            if prompt.expires_ns <= now_ns:
                self.decide(prompt, False)
