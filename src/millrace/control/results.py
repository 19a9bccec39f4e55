"""Result types of the API's commands; those of objects are in `observe/objects.py`."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from millrace.observe.explain import Step
from millrace.observe.objects import GuestView


class Done(msgspec.Struct, frozen=True):
    """Success."""

    ok: bool = True


class Changed(Done, frozen=True):
    """The object that was changed, and its guest."""

    target: str = ""
    guest: str = ""


class DaemonView(msgspec.Struct, frozen=True):
    """The daemon's version and addresses, and the caller's identity."""

    version: str
    you: str
    listen: str
    page: str


class PageLink(msgspec.Struct, frozen=True):
    """A single-use link that signs a browser in."""

    link: str


class PolicyView(msgspec.Struct, frozen=True):
    """The session manager in charge."""

    name: str
    pid: int


class StateView(msgspec.Struct):
    """Everything visible, or one guest. `names` lists all visible guests, `may` your rights in them.

    Lists of several workers are joined, so `may` is a tuple. From `refused` on: only with every right.
    """

    version: str
    listen: str
    guests: list[GuestView]
    you: str
    may: tuple[str, ...]
    names: list[str]
    refused: int | UnsetType = UNSET
    trouble: str | UnsetType = UNSET
    policy: PolicyView | UnsetType | None = UNSET
    requests: int | UnsetType = UNSET


class NewSink(msgspec.Struct, frozen=True):
    """The sink that was added."""

    id: str
    name: str


class GrantView(msgspec.Struct, frozen=True):
    """A rule about a program: `allow` is true, false or "prompt".

    `note`, in the list of rules and for those who may change the rule: why it applies to no program as things are.
    """

    guest: str
    what: str
    program: str
    allow: bool | str
    note: str | UnsetType = UNSET


class RuleSet(Done, frozen=True):
    """The rule was set or deleted, for `program`; `note` says what is worth knowing about that name."""

    program: str = ""
    note: str = ""


class Explanation(msgspec.Struct, frozen=True):
    """What is done to the sound of a stream, listener or recorder, or to the picture of a screen or viewer."""

    target: str
    guest: str
    steps: list[Step]


class TokenView(msgspec.Struct, frozen=True):
    """A token, without its secret. Times are in seconds since 1970."""

    id: str
    name: str
    may: list[str]
    guests: list[str]
    created: int
    expires: int | None
    expired: bool


class NewToken(TokenView, frozen=True):
    """A token with its secret, which is shown only this once."""

    token: str


class NewSecret(msgspec.Struct, frozen=True):
    """A token's new secret."""

    token: str
