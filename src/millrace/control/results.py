"""What each command of the API answers, as types; those of objects are in `observe/objects.py`."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from millrace.observe.explain import Step
from millrace.observe.objects import GuestView


class Done(msgspec.Struct, frozen=True):
    """It is done."""

    ok: bool = True


class DaemonView(msgspec.Struct, frozen=True):
    """The daemon, where it is found, and who asks."""

    version: str
    you: str
    listen: str
    page: str


class PageLink(msgspec.Struct, frozen=True):
    """An address that lets a browser in once."""

    link: str


class PolicyView(msgspec.Struct, frozen=True):
    """The session manager that is in charge."""

    name: str
    pid: int


class StateView(msgspec.Struct):
    """Everything that may be seen, or one guest; `names` are of all guests. From `refused` on: who has every right."""

    version: str
    listen: str
    guests: list[GuestView]
    you: str
    names: list[str]
    refused: int | UnsetType = UNSET
    trouble: str | UnsetType = UNSET
    policy: PolicyView | UnsetType | None = UNSET
    requests: int | UnsetType = UNSET


class NewSink(msgspec.Struct, frozen=True):
    """A sink that was added."""

    id: str
    name: str


class GrantView(msgspec.Struct, frozen=True):
    """A rule about a program: `allow` is true, false or "prompt"."""

    guest: str
    what: str
    program: str
    allow: bool | str


class Explanation(msgspec.Struct, frozen=True):
    """Why a stream or a recorder sounds as it does."""

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
    """A token and its secret, which is told only once."""

    token: str


class NewSecret(msgspec.Struct, frozen=True):
    """A token's new secret."""

    token: str
