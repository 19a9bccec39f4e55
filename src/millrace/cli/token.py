"""`millrace token`: access for others, with chosen rights."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from millrace.cli.columns import table, terminal_width
from millrace.cli.console import say, say_lines, show_json, warn
from millrace.cli.group import App
from millrace.cli.outputfile import OVERWRITE, demand_new
from millrace.errors import OutputLost
from millrace.io.files import whole_file
from millrace.text import printable

app = App(
    "millrace token new --guest alice --may hear,speak --expires 8h",
    "millrace token list",
    "millrace token revoke token/7",
    help="Manage tokens, which give others access with limited rights.",
)
HEADS = ("token", "name", "until", "in", "may")
CALENDAR_END_S = 253_402_300_799
"""The last second of the year 9999."""
SECRET_MAX = 200
"""Room for a secret in a file, in bytes."""
_TO = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write it to this file, which nobody else can read (mode 0600).")
]
_TOKEN = Annotated[str, typer.Argument(help="token/N as `millrace token list` shows it.")]


@app.command("new")
def new(
    may: Annotated[
        str,
        typer.Option(
            metavar="RIGHTS", help="Comma-separated: see hear speak watch type clipboard control link admin; or all."
        ),
    ] = "hear",
    guest: Annotated[
        list[str] | None, typer.Option(help="Valid in this guest; can be repeated. Default: all guests.")
    ] = None,
    expires: Annotated[str, typer.Option(metavar="DURATION", help="30m, 8h, 7d, or never.")] = "30d",
    name: Annotated[str, typer.Option(help="A name that says what it is for.")] = "",
    to: _TO = None,
    overwrite: OVERWRITE = False,
) -> None:
    """Make a token and print it. It is shown this once; only a hash of it is kept.

    hear: listen. speak: send a microphone. watch: see the screens. type: use keyboard and pointer; includes watch.
    clipboard: paste here what was copied there and, with type, the other way; includes watch. control: volumes, moves,
    settings. link: sinks and links. admin: all that, and machines, guests and tokens. Each of them includes see.

    Examples:

      millrace token new --guest alice --may hear,speak --to alice.token

      millrace listen wss://server:8642/alice --token-file alice.token
    """
    from millrace.cli.api import call, path_of

    if to is not None:
        demand_new(str(to), overwrite)

    def ask() -> dict[str, Any]:
        made: dict[str, Any] = call(
            "POST", "/api/v1/tokens", {"may": may, "guests": guest or [], "expires": expires, "name": name}
        )
        warn(f"{made['id']}: {', '.join(made['may'])} in {_guests(made)}, expires {_when(made['expires'])}")
        return made

    def lost(made: dict[str, Any]) -> str:
        # A valid token that nobody has seen must not remain.
        call("DELETE", path_of("tokens", made["id"].removeprefix("token/")))
        return "the token was revoked"

    _hand_over(to, ask, lost)


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show tokens, without their secrets. Example: millrace token list"""
    from millrace.cli.api import call

    tokens = call("GET", "/api/v1/tokens")
    if as_json:
        show_json(tokens)
        return
    if tokens:
        say_lines(table([HEADS, *map(_row, tokens)], (1, 3), terminal_width()))
    else:
        warn("no tokens; `millrace token new` makes one")


@app.command("rotate")
def rotate(token: _TOKEN, to: _TO = None) -> None:
    """Replace a token's secret and print the new one.

    Connections in use stay open. The old secret is no longer valid. With --to, the file is replaced.

    Example: millrace token rotate token/3 --to alice.token
    """
    from millrace.cli.api import call, path_of

    path = path_of("tokens", token.removeprefix("token/"), "rotate")
    _hand_over(to, lambda: call("POST", path), lambda _: "the old secret is no longer valid: rotate the token again")


@app.command("revoke")
def revoke(token: _TOKEN) -> None:
    """Revoke a token; connections that use it end at once. Example: millrace token revoke token/3"""
    from millrace.cli.api import call, path_of

    call("DELETE", path_of("tokens", token.removeprefix("token/")))


# The file is opened before anything is asked of the daemon: what is asked can't be taken back.
def _hand_over(to: Path | None, ask: Callable[[], dict[str, Any]], lost: Callable[[dict[str, Any]], str]) -> None:
    """Ask for a secret and print it, or write it to a file that nobody else can read at any time.

    If it can't be written after all, `lost` does what there is to do, and says what has become of the token.
    """
    made: dict[str, Any] | None = None
    try:
        with nullcontext() if to is None else whole_file(to, 0o600, SECRET_MAX) as file:
            made = ask()
            if file is None:
                say(made["token"])
            else:
                file.write(f"{made['token']}\n".encode())
    except OutputLost as error:
        if made is None:
            raise
        raise OutputLost(f"{error}; {lost(made)}") from None


def _row(token: dict[str, Any]) -> tuple[str, ...]:
    until = "expired" if token["expired"] else _when(token["expires"])
    return token["id"], printable(token["name"]), until, printable(_guests(token)), " ".join(token["may"])


def _guests(token: dict[str, Any]) -> str:
    return "all guests" if token["guests"] == ["*"] else ", ".join(token["guests"])


def _when(seconds: int | None) -> str:
    return (
        "never" if not seconds or seconds > CALENDAR_END_S else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    )
