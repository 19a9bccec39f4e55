"""The program that a rule is for: stored as the kernel will name it, or refused if no program can have that name."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from millrace.control.plane import Session
from millrace.errors import ConfigError
from millrace.guest.guest import Guest
from millrace.io.peers import known_as
from millrace.rights.grants import ANY, Permission
from millrace.rights.model import Right
from millrace.rights.tokens import Token
from millrace.text import quoted

PROGRAM_MAX = 4096
"""A program may be given by its path (PATH_MAX)."""
SANDBOXES = ("flatpak", "snap", "container", "token")
CONTAINER_ID = 12
"""How much of a container's ID is in its name, as `docker ps` shows it."""


SYSTEM, SYSTEMS = "/usr/bin", "system programs are known by name"


class Ruled(NamedTuple):
    """The program of a rule, and what to tell whoever made it."""

    program: str
    note: str = ""


# A rule that can't match would be listed as if it protected something. So what can't be the name of a program is
# refused, and what leads to a program is stored as the name that it has when it connects (`Identity.names`). A name
# that no program has may be of one that is installed later.
def ruled(text: str, guest: Guest, tokens: Iterable[Token], sessions: Iterable[Session]) -> Ruled:
    """The program that a new rule of `guest` is for; ConfigError if no program can be known by that name."""
    _check(text)
    if text == ANY:
        return Ruled(ANY)
    program, why = _found(text)
    if program.startswith("token:"):
        _demand_token(program, guest, tokens)
    notes = [] if program == text else [f"stored as {program}: {why}"]
    subjects = [client.subject for door in guest.doors for client in door.clients.values()]
    subjects += [session.subject for session in sessions]
    if not any(program in subject.identity.names for subject in subjects):
        notes.append("no such program is connected now")
    return Ruled(program, "; ".join(notes))


def stored(text: str, what: Permission, guest: Guest) -> str | None:
    """The program of the rule that `text` refers to, as it was given or as it was stored; None if there is none."""
    _demand_length(text)
    there = {program for permission, program, _ in guest.admission.grants if permission is what}
    return next((program for program in (text, _found(text)[0]) if program in there), None)


def _demand_length(text: str) -> None:
    if len(text) > PROGRAM_MAX:
        raise ConfigError(f"program: {PROGRAM_MAX} characters at most")


def _check(text: str) -> None:
    _demand_length(text)
    if not text.strip():
        raise ConfigError("the program is empty, which no program's name is; leave it out to mean all others")
    before, colon, name = text.partition(":")
    if "/" in before and not before.startswith("/"):
        raise ConfigError(f"{quoted(text)} matches no program: give its absolute path, or its bare name")
    if colon and "/" not in before and (before not in SANDBOXES or not name):
        known = ", ".join(f"{kind}:NAME" for kind in SANDBOXES)
        raise ConfigError(f"{quoted(text)} matches no program: names with a colon are {known}")


def _found(text: str) -> tuple[str, str]:
    """The name of the program that `text` leads to, and why it is known by that, if it is another name."""
    kind, colon, name = text.partition(":")
    if kind == "container" and len(name) > CONTAINER_ID and all(char in "0123456789abcdef" for char in name):
        return f"{kind}:{name[:CONTAINER_ID]}", f"containers are known by the first {CONTAINER_ID} digits of their ID"
    with suppress(OSError, ValueError):
        if text.startswith("/"):
            program = known_as(text)
            return program, "programs are known by their file" if "/" in program else SYSTEMS
        if not colon and text != ANY and "/" not in (program := known_as(f"{SYSTEM}/{text}")):
            return program, f"{SYSTEM}/{text} is a link to it"
    return text, ""


def _demand_token(program: str, guest: Guest, tokens: Iterable[Token]) -> None:
    there = [f"token:{token.id}" for token in tokens if token.principal.may(Right.SEE, guest.name)]
    if program not in (*there, "token:*"):
        known = ", ".join(there) or "none"
        raise ConfigError(f"no token for guest {guest.name} is {quoted(program)}; there are: {known}")
