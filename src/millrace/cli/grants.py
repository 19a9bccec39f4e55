"""`millrace grant`, `revoke`, `prompt`, `deny`, `grants`, `prompts`: permission rules for a guest's programs."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

import typer

from millrace.cli.columns import say_folded
from millrace.cli.console import show_json, warn
from millrace.errors import ConfigError
from millrace.text import quoted

_WHAT = Annotated[str, typer.Argument(help="connect, microphone, monitor (what the guest plays) or camera.")]
_WHICH = Annotated[
    str, typer.Argument(help="connect, microphone, monitor (what the guest plays) or camera; or a pending request/N.")
]
_GUEST = Annotated[str, typer.Option(help="The guest.")]
_PROGRAM = Annotated[
    str | None,
    typer.Option(
        help="firefox-esr, /home/a/bin/tool, flatpak:APP, snap:NAME, container:ID or token:N; default: all others."
    ),
]
_FORGET = Annotated[bool, typer.Option("--forget", help="Delete the rule instead, whatever it says.")]
_ALWAYS = Annotated[bool, typer.Option("--always", help="Also make this answer a rule for that program.")]


def _rule(what: str, guest: str, program: str | None, allow: bool | str | None) -> None:
    from millrace.cli.api import call, path_of

    named = {} if program is None else {"program": program}
    if note := call("POST", path_of("guests", guest, "grants"), {"what": what, "allow": allow, **named}).get("note"):
        warn(note)


def _is_request(text: str) -> bool:
    return text.startswith("request/") or text.isdecimal()


def _decide(request: str, allow: bool, always: bool) -> None:
    from millrace.cli.api import call, path_of

    call("POST", path_of("requests", request), {"allow": allow, "always": always})


def grant(
    what: _WHICH,
    guest: Annotated[str | None, typer.Option(help="The guest.  [default: default]")] = None,
    program: _PROGRAM = None,
    forget: _FORGET = False,
    always: _ALWAYS = False,
) -> None:
    """Allow programs of a guest to connect or record, or one request.

    A program is identified by the kernel: a file of the system by its name, any other by its path, and one in a
    sandbox by the sandbox alone.

    Examples:

    \b
      millrace revoke microphone                           # nobody records it,
      millrace grant microphone --program firefox-esr      # but firefox does

      millrace grant microphone --program firefox-esr --forget

      millrace grant request/12 --always
    """
    if not _is_request(what):
        if always:
            raise ConfigError("--always is for a pending request/N: a rule always lasts")
        _rule(what, guest or "default", program, None if forget else True)
    elif forget or guest is not None or program is not None:
        raise ConfigError(f"{quoted(what)} is a request, which has its own guest and program: only --always is for it")
    else:
        _decide(what, True, always)


def revoke(what: _WHAT, guest: _GUEST = "default", program: _PROGRAM = None, forget: _FORGET = False) -> None:
    """Forbid programs of a guest to connect or record, at once.

    Examples:

    \b
      millrace revoke monitor --guest alice
      millrace revoke monitor --guest alice --forget   # deletes it
    """
    if _is_request(what):
        raise ConfigError(f"{quoted(what)} is a request; `millrace deny` refuses it")
    _rule(what, guest, program, None if forget else False)


def prompt(what: _WHAT, guest: _GUEST = "default", program: _PROGRAM = None, forget: _FORGET = False) -> None:
    """Have programs of a guest ask before they connect or record.

    Such a program waits until the session manager or a person says yes. Without an answer in 25 s it is refused.

    Example: millrace prompt connect --guest alice --program "flatpak:*"
    """
    _rule(what, guest, program, None if forget else "prompt")


def deny(request: Annotated[str, typer.Argument(help="The pending request/N.")], always: _ALWAYS = False) -> None:
    """Refuse a pending request. Example: millrace deny request/12"""
    if not _is_request(request):
        raise ConfigError(f"{quoted(request)} is no request/N; `millrace revoke` makes a rule that denies")
    _decide(request, False, always)


def grants(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show the rules for programs, and pending requests.

    A guest without rules allows its programs to connect and to record.

    Example: millrace grants
    """
    from millrace.cli.api import call

    rules, requests = call("GET", "/api/v1/grants"), call("GET", "/api/v1/requests")
    if as_json:
        show_json({"rules": rules, "requests": requests})
        return
    verdicts = {True: "may", False: "may not", "prompt": "has to ask to"}
    for rule in rules:
        program = "any other program" if rule["program"] == "*" else rule["program"]
        say_folded(f"guest {rule['guest']}: {program} {verdicts[rule['allow']]} {_deed(rule['what'])}{_note(rule)}", 4)
    for request in requests:
        say_folded(_line(request), 4)
    if not rules and not requests:
        warn("no rules and no requests; programs have the `rights` of [guest.NAME]")


def _note(rule: dict[str, Any]) -> str:
    """Why a rule applies to no program."""
    return f" ({note})" if (note := rule.get("note")) else ""


def _deed(what: str) -> str:
    return "connect" if what == "connect" else f"record the {what}"


def _line(request: dict[str, Any]) -> str:
    name = f" ({quoted(request['name'])})" if request["name"] else ""
    where = f"process {request['pid']} of user {request['uid']}"
    deed = _deed(request["what"])
    return f"{request['id']}: {request['program']}{name}, {where}, asks guest {request['guest']} to {deed}"


def prompts() -> None:
    """Answer requests as they come: y yes, a always, n no, v never.

    Example: millrace prompts
    """
    from millrace.cli.run import run_until_stopped

    run_until_stopped(_answer())


async def _answer() -> None:
    from millrace.client.bus import connect
    from millrace.errors import MillraceError

    async with connect(name="millrace prompts") as bus:
        async for change in bus.watch(kinds=["request"]):
            if change.what != "added" or change.object is None:
                continue
            say_folded(_line(change.object.props), 4)
            word = await _asked()
            if not word:
                continue
            try:
                await bus.call("decide", request=change.object.key, allow=word in "ya", always=word in "av")
            except MillraceError as error:
                warn(f"  {error}")


async def _asked() -> str:
    """One letter from the terminal; empty to leave the request to others, or let it expire.

    A thread that reads standard input can't be interrupted. It is a daemon thread, so that it doesn't delay the exit.
    """
    import asyncio
    import sys
    import threading

    loop, answer = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    def take(line: str) -> None:
        if not answer.done():
            answer.set_result(line)

    def read() -> None:
        line = sys.stdin.readline()
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(take, line)

    warn("  [y]es once, [a]lways, [n]o, ne[v]er?")
    threading.Thread(target=read, daemon=True).start()
    word = (await answer).strip().lower()[:1]
    return word if word and word in "yanv" else ""
