"""The program that a rule is for: stored as the kernel will name it, or refused if no program can have that name."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from millrace.control.plane import Session
from millrace.control.publish import grant_view
from millrace.control.results import GrantView
from millrace.errors import ConfigError
from millrace.guest.guest import Guest
from millrace.io.peers import program_file
from millrace.rights.grants import ANY, Permission
from millrace.rights.model import Principal, Right
from millrace.rights.tokens import Token
from millrace.text import quoted

PROGRAM_MAX = 4096
"""A program may be given by its path (PATH_MAX)."""
NAME_MAX = 255
SANDBOXES = ("flatpak", "snap", "container", "token")
CONTAINER_ID = 12
"""How much of a container's ID is in its name, as `docker ps` shows it."""
SYSTEM, SYSTEMS = "/usr/bin", "system programs are known by name"
NOT_THERE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ENOEXEC, errno.ELOOP, errno.ENAMETOOLONG))
"""Errors after which it is known that a path leads to no program."""


class Ruled(NamedTuple):
    """The program of a rule, and what to tell whoever made it."""

    program: str
    note: str = ""


# A rule that can't match would be listed as if it protected something. So what can't be the name of a program is
# refused, and what leads to a program is stored as the name that it has when it connects (`Identity.names`). A path to
# nothing is refused too: whether a program there will be known by its name or its file depends on who will own it. A
# name that no program has may be of one that is installed later.
#
# Whoever may make rules in one guest may not look around on this machine. So all paths that lead to no program are
# refused in the same words.
def ruled(text: str, guest: Guest, tokens: Iterable[Token], sessions: Iterable[Session]) -> Ruled:
    """The program that a new rule of `guest` is for; ConfigError if no program can be known by that name."""
    _check(text)
    if text == ANY:
        return Ruled(ANY)
    connected = _connected(guest, sessions)
    found = Ruled(text) if text in connected else _found(text)
    if found.program.startswith("token:"):
        _demand_token(found.program, guest, tokens)
    stored_as = "" if found.program == text else f"stored as {found.program}: "
    alone = "" if found.program in connected else "no such program is connected now"
    return Ruled(found.program, "; ".join(filter(None, (stored_as + found.note, alone))))


def stored(text: str, what: Permission, guest: Guest) -> str | None:
    """The program of the rule that `text` refers to, as it was given or as it was stored; None if there is none."""
    _demand_length(text)
    there = {program for permission, program, _ in guest.admission.grants if permission is what}
    if text in there:
        return text
    with suppress(ConfigError):
        program = _found(text).program
        return program if program in there else None
    return None


def never(program: str, connected: Iterable[str] = ()) -> str:
    """Why a stored rule for `program` applies to no program as things are; empty if it may.

    Older versions stored what can't match, and a path's file may have gone or changed its owner.
    """
    if program in connected or program == ANY:
        return ""
    try:
        _check(program)
        found = _found(program) if program.startswith("/") else Ruled(program)
    except ConfigError as error:
        return str(error)
    if found.program == program:
        return ""
    return f"{quoted(program)} matches no program: its program is known as {quoted(found.program)}, {found.note}"


def views(
    guests: Iterable[Guest], sessions: Iterable[Session], principal: Principal
) -> Generator[None, None, list[GrantView]]:
    """The rules of `guests`, each with the reason if it never applies, for those who may change it."""
    shown = []
    for guest in guests:
        told, connected = principal.may(Right.ADMIN, guest.name), _connected(guest, sessions)
        for what, program, verdict in guest.admission.grants:
            note = never(program, connected) if told else ""
            shown.append(grant_view(guest.name, what, program, verdict, note))
            yield
    return shown


def _connected(guest: Guest, sessions: Iterable[Session]) -> set[str]:
    """The names of all connected programs."""
    subjects = [client.subject for door in guest.doors for client in door.clients.values()]
    subjects += [session.subject for session in sessions]
    return {name for subject in subjects for name in subject.identity.names}


def _demand_length(text: str) -> None:
    if len(text) > PROGRAM_MAX:
        raise ConfigError(f"program: {PROGRAM_MAX} characters at most")


def _check(text: str) -> None:
    _demand_length(text)
    if not text.strip():
        raise ConfigError("the program is empty, which no program's name is; leave it out to mean all others")
    if why := _wrong(text):
        raise ConfigError(f"{quoted(text)} matches no program: {why}")


def _wrong(text: str) -> str:
    """Why no program can be known as `text`; empty if one may."""
    if text.startswith("/") or text == ANY:
        return ""
    before, colon, name = text.partition(":")
    if "/" in before or text in (".", ".."):
        return "give its absolute path, or its bare name"
    if colon and (before not in SANDBOXES or not name):
        return f"names with a colon are {', '.join(f'{kind}:NAME' for kind in SANDBOXES)}"
    if text != text.strip() or "\0" in text:
        return "no name begins or ends with a space, or contains a NUL"
    if name != ANY and ("*" in text or (not colon and "?" in text)):
        return "an asterisk stands for a whole name, as in flatpak:*; there are no other patterns"
    if not colon and len(text.encode(errors="backslashreplace")) > NAME_MAX:
        return f"a file's name has {NAME_MAX} bytes at most"
    return ""


def _found(text: str) -> Ruled:
    """The name of the program that `text` leads to, and what there is to say of it; ConfigError if it leads to none."""
    if text.startswith("/"):
        return _at(text)
    kind, colon, name = text.partition(":")
    if kind == "container" and len(name) > CONTAINER_ID and all(char in "0123456789abcdef" for char in name):
        why = f"containers are known by the first {CONTAINER_ID} digits of their ID"
        return Ruled(f"{kind}:{name[:CONTAINER_ID]}", why)
    with suppress(OSError, ValueError):
        if not colon and "/" not in (file := program_file(path := f"{SYSTEM}/{text}")).program:
            linked = [] if file.program == text else [f"{path} is a link to it"]
            return Ruled(file.program, "; ".join(linked + _script(path, *file)))
    return Ruled(text)


def _at(path: str) -> Ruled:
    """The program whose file `path` leads to."""
    try:
        file = program_file(path)
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else errno.ENOENT
        if number in NOT_THERE:
            raise _no_program(path) from error
        return _unseen(path, os.strerror(number or errno.EIO))
    if "/" not in file.program:
        return Ruled(file.program, "; ".join([SYSTEMS, *_script(path, *file)]))
    if file.interpreter:
        known = _interpreter_name(file.interpreter)
        raise ConfigError(
            f"{quoted(path)} matches no program: it is a script and runs as its interpreter, {quoted(known)}; "
            "a rule for that is for all its scripts"
        )
    return Ruled(file.program, "" if file.program == path else "programs are known by their file")


def _no_program(path: str) -> ConfigError:
    name = Path(path).name or "NAME"
    return ConfigError(
        f"{quoted(path)} matches no program: none is there. If one will be, owned by root, make the rule for its name, "
        f"{quoted(name)}; otherwise make it when the file is there"
    )


def _unseen(path: str, why: str) -> Ruled:
    """A path at which nothing can be looked up. If it is that of the file itself, programs may be known by it."""
    if os.path.normpath(path) != path:
        raise ConfigError(f"{quoted(path)} can't be looked up ({why}): give the path of the file itself")
    return Ruled(path, f"it can't be looked up ({why}), and the rule is for the file of that path, no link or script")


def _script(path: str, program: str, interpreter: str) -> list[str]:
    if not interpreter:
        return []
    known = _interpreter_name(interpreter)
    return [f"{path} is a script and runs as its interpreter, {known}: the rule is for a {program} that it starts"]


def _interpreter_name(interpreter: str) -> str:
    """How a script's process is known."""
    with suppress(OSError, ValueError):
        return program_file(interpreter if "/" in interpreter else f"{SYSTEM}/{interpreter}").program
    return interpreter


def _demand_token(program: str, guest: Guest, tokens: Iterable[Token]) -> None:
    there = [f"token:{token.id}" for token in tokens if token.principal.may(Right.SEE, guest.name)]
    if program not in (*there, "token:*"):
        known = ", ".join(there) or "none"
        raise ConfigError(f"no token for guest {guest.name} is {quoted(program)}; there are: {known}")
