"""`millrace token`: who else may, and what."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

app = typer.Typer(help="Tokens: let others in, with the rights they need and no more.", no_args_is_help=True)
_TOKEN = Annotated[str, typer.Argument(help="token/N as `millrace token list` shows it.")]


@app.command("new")
def new(
    may: Annotated[str, typer.Option(help="see hear speak control link admin, with commas; or all.")] = "hear",
    guest: Annotated[list[str] | None, typer.Option(help="In this guest; may be given again. All if absent.")] = None,
    expires: Annotated[str, typer.Option(help="30m, 8h, 7d, or never.")] = "30d",
    name: Annotated[str, typer.Option(help="What it is for, to find it again.")] = "",
) -> None:
    """Make a token and print it. It is shown this once; only a hash of it is kept.

    hear: listen. speak: send a microphone. control: volumes, moves, settings. link: sinks and links. admin: all that,
    machines, guests and tokens. Each lets see.

    Examples:

      millrace token new --guest alice --may hear,speak --expires 8h > alice.token && chmod 600 alice.token

      millrace listen wss://server:8642/alice --token-file alice.token
    """
    from millrace.cli.api import call

    made = call("POST", "/api/v1/tokens", {"may": may, "guests": guest or [], "expires": expires, "name": name})
    typer.echo(f"{made['id']}: {', '.join(made['may'])} in {_guests(made)}, expires {_when(made['expires'])}", err=True)
    typer.echo(made["token"])


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show tokens, without their secrets. Example: millrace token list"""
    from millrace.cli.api import call

    tokens = call("GET", "/api/v1/tokens")
    if as_json:
        typer.echo(json.dumps(tokens, indent=2))
        return
    for token in tokens:
        until = "expired" if token["expired"] else f"until {_when(token['expires'])}"
        typer.echo(f"{token['id']:<10} {token['name']:<20} {','.join(token['may'])} in {_guests(token)}, {until}")


@app.command("rotate")
def rotate(token: _TOKEN) -> None:
    """Give a token another secret and print it: what plays goes on, the old secret lets nobody in any more.

    Example: millrace token rotate token/3 > alice.token
    """
    from millrace.cli.api import call

    typer.echo(call("POST", f"/api/v1/tokens/{token.removeprefix('token/')}/rotate")["token"])


@app.command("revoke")
def revoke(token: _TOKEN) -> None:
    """End a token, and at once what plays by it. Example: millrace token revoke token/3"""
    from millrace.cli.api import call

    call("DELETE", f"/api/v1/tokens/{token.removeprefix('token/')}")


def _guests(token: dict[str, Any]) -> str:
    return "all guests" if token["guests"] == ["*"] else ", ".join(token["guests"])


def _when(seconds: int | None) -> str:
    return "never" if not seconds else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


_WHAT = Annotated[str, typer.Argument(help="microphone, or monitor: what the guest plays.")]
_GUEST = Annotated[str, typer.Option(help="The guest.")]
_PROGRAM = Annotated[str, typer.Option(help="A program, as the kernel knows it (firefox-esr); absent: all others.")]


def _rule(what: str, guest: str, program: str, allow: bool | None) -> None:
    from millrace.cli.api import call

    call("POST", f"/api/v1/guests/{guest}/grants", {"what": what, "program": program, "allow": allow})


def grant(
    what: _WHAT,
    guest: _GUEST = "default",
    program: _PROGRAM = "",
    forget: Annotated[bool, typer.Option("--forget", help="Take the rule away instead.")] = False,
) -> None:
    """Let programs of a guest record its microphone, or what it plays.

    Examples:

      millrace revoke microphone && millrace grant microphone --program firefox-esr    # firefox alone

      millrace grant microphone --program firefox-esr --forget
    """
    _rule(what, guest, program, None if forget else True)


def revoke_grant(what: _WHAT, guest: _GUEST = "default", program: _PROGRAM = "") -> None:
    """Forbid programs of a guest to record; what records now ends at once.

    Example: millrace revoke monitor --guest alice
    """
    _rule(what, guest, program, False)


def grants(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show who may record. A guest without rules lets its programs record. Example: millrace grants"""
    from millrace.cli.api import call

    rules = call("GET", "/api/v1/grants")
    if as_json:
        typer.echo(json.dumps(rules, indent=2))
        return
    for rule in rules:
        verdict = "may" if rule["allow"] else "may not"
        program = "any other program" if rule["program"] == "*" else rule["program"]
        typer.echo(f"guest {rule['guest']}: {program} {verdict} record the {rule['what']}")
