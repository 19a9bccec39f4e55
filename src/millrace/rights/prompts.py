"""Requests that wait for somebody's answer: a policy's, or a person's. Whoever is not answered in time is denied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from millrace.rights.grants import Grants, Permission, Subject, Verdict
from millrace.units import NS_PER_S, HostNs

PATIENCE_NS: HostNs = 25 * NS_PER_S
"""libpulse gives up after 30 s; it should hear a no before that."""
PROMPTS_MAX = 64
"""A guest's requests that may wait at a time; more are denied at once."""

Answer = Callable[[bool], None]


class RequestView(msgspec.Struct, frozen=True):
    """What is shown of a request."""

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
        """The name users and the API use."""
        return f"request/{self.id}"

    def view(self) -> RequestView:
        """What is shown."""
        identity = self.subject.identity
        return RequestView(
            id=self.key, guest=self.guest, what=self.what.value, program=str(identity),
            sandbox=identity.sandbox, name=self.name, pid=identity.pid, uid=identity.uid,
        )  # fmt: skip


Changed = Callable[[str, Prompt], None]
"""A request is there, or is not any more: new, remove."""


def _untold(change: str, prompt: Prompt) -> None:
    """Nobody looks on."""


class Prompts:
    """All guests' requests. Time is an argument."""

    def __init__(
        self, take_id: Callable[[], int], changed: Changed = _untold, rearm: Callable[[], None] = lambda: None
    ) -> None:
        """`rearm` is called when the next deadline may be another."""
        self._take_id, self._changed, self._rearm = take_id, changed, rearm
        self._patience_ns = PATIENCE_NS
        self._waiting: dict[str, Prompt] = {}

    def __iter__(self) -> Iterator[Prompt]:
        return iter(list(self._waiting.values()))

    def get(self, key: str) -> Prompt | None:
        """One by its key."""
        return self._waiting.get(key)

    def ask(
        self, guest: str, what: Permission, subject: Subject, name: str, now_ns: HostNs, answer: Answer
    ) -> Prompt | None:
        """Let `answer` wait for a decision; None, and a no, where too many wait already."""
        mine = [p for p in self._waiting.values() if p.guest == guest]
        for prompt in mine:
            if prompt.subject is subject and prompt.what is what:
                prompt.answers.append(answer)
                return prompt
        if len(mine) >= PROMPTS_MAX:
            answer(False)
            return None
        prompt = Prompt(self._take_id(), guest, what, subject, name, now_ns + self._patience_ns, [answer])
        self._waiting[prompt.key] = prompt
        self._changed("new", prompt)
        self._rearm()
        return prompt

    def decide(self, prompt: Prompt, allow: bool) -> None:
        """Answer one, for its client."""
        if self._waiting.pop(prompt.key, None) is None:
            return
        prompt.subject.once[prompt.what] = allow
        self._changed("remove", prompt)
        for answer in prompt.answers:
            answer(allow)

    def forget(self, subject: Subject) -> None:
        """A client has gone: nobody waits for its answers."""
        for prompt in self:
            if prompt.subject is subject:
                del self._waiting[prompt.key]
                self._changed("remove", prompt)

    def answer_decided(self, guest: str, grants: Grants) -> None:
        """Rules have changed: answer those that they answer now."""
        for prompt in self:
            verdict = grants.verdict(prompt.what, prompt.subject) if prompt.guest == guest else Verdict.PROMPT
            if verdict is not Verdict.PROMPT:
                self.decide(prompt, verdict is Verdict.ALLOW)

    def next_timeout(self) -> HostNs | None:
        """When the next one is denied."""
        return min((prompt.expires_ns for prompt in self._waiting.values()), default=None)

    def handle_timeout(self, now_ns: HostNs) -> None:
        """Deny those whose time is over."""
        for prompt in self:
            if prompt.expires_ns <= now_ns:
                self.decide(prompt, False)
