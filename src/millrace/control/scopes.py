"""Where a command has to run, and whether it writes to disk: both depend on its arguments."""

from __future__ import annotations

from typing import Protocol

from millrace.control import requests as r
from millrace.control.table import InGuest, OnObject, Scope, Whole
from millrace.guest.config import table_of


class OfGuest(Protocol):
    """Arguments that name a guest."""

    guest: str


class OfTarget(Protocol):
    """Arguments that name an object, perhaps with its guest."""

    target: str
    guest: str | None


def in_guest(args: OfGuest) -> Scope:
    """A command on a guest."""
    return InGuest(args.guest)


def on_target(args: OfTarget) -> Scope:
    """A command on an object."""
    return _on_object(args.target, args.guest)


def on_source(args: r.LinkTo) -> Scope:
    """A command on a link, which belongs to what it comes from."""
    return _on_object(args.source, args.guest)


def _on_object(key: str, guest: str | None) -> Scope:
    return OnObject(key) if guest is None else InGuest(guest)


def on_door(args: r.Detach) -> Scope:
    """A command on a machine."""
    return OnObject(door_key(args.door))


def on_request(args: r.Decide) -> Scope:
    """A command on a pending request."""
    return OnObject(request_key(args.request))


def on_text(args: r.Remember) -> Scope:
    """A command on a stored text. Those about a guest's streams are in force there, the others only kept."""
    name = table_of(args.key)
    return InGuest(name) if name else Whole.HOST


def everywhere(_: object) -> Scope:
    """A command on all guests."""
    return Whole.WORKERS


def at_host(_: object) -> Scope:
    """A command on what is kept once for the host."""
    return Whole.HOST


def door_key(text: str) -> str:
    """The key of a machine that may be given by its number alone."""
    return f"door/{text.removeprefix('door/')}"


def request_key(text: str) -> str:
    """The key of a request that may be given by its number alone."""
    return f"request/{text.removeprefix('request/')}"


def kept(_: object) -> bool:
    """Whether it writes to disk: always."""
    return True


def not_kept(_: object) -> bool:
    """Whether it writes to disk: never."""
    return False


def keeps_level(args: r.Set) -> bool:
    """Whether it writes to disk: levels of sinks and sources survive restarts, those of streams do not."""
    return not args.target.startswith(("stream/", "listener/"))


def keeps_rule(args: r.Decide) -> bool:
    """Whether it writes to disk: an answer does if it becomes a rule."""
    return args.always
