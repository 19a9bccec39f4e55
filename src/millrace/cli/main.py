"""`millrace`: the command line. Each command has its own file; heavy imports wait until a command needs them."""

from __future__ import annotations

import os

# Must be set before numpy loads. The mix is one small matrix product per cycle, for which OpenBLAS's
# threads would keep a whole core spinning.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import typer

from millrace.cli import (
    attach,
    control,
    demo,
    grants,
    incidents,
    lab,
    listen,
    look,
    ls,
    matrix,
    page,
    serve,
    token,
    view,
)
from millrace.cli import latency as why
from millrace.cli.console import say
from millrace.cli.group import App
from millrace.cli.hints import HINTS
from millrace.cli.run import main_of
from millrace.version import __version__

app = App(
    "millrace serve                          # the daemon; prints what to do next",
    "millrace listen                         # hear its guest `default`",
    "millrace view                           # see and use its screen",
    "millrace ls                             # what is playing, with its number",
    "millrace set stream/5 volume=50%        # change it",
    "millrace explain stream/5               # why it sounds as it does",
    "millrace attach qemu --qmp /tmp/vm.qmp  # a virtual machine",
    hints=HINTS,
    name="millrace",
    help="The audio/video bus for virtual machines and remote desktops.",
    epilog="Start with `millrace demo`, or `millrace serve` and follow what it prints. `millrace COMMAND --help`"
    " explains each command, with examples.",
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("listen")(listen.listen)
app.command("view")(view.view)
app.command("page")(page.page)
app.command("ls")(ls.ls)
app.add_group("attach", attach.app)
app.command("detach")(attach.detach)
app.command("set")(control.set_)
app.command("move")(control.move)
app.command("link")(control.link)
app.command("unlink")(control.unlink)
app.add_group("guest", control.guest_app)
app.add_group("sink", control.sink_app)
app.add_group("token", token.app)
app.command("latency")(why.latency)
app.command("explain")(why.explain)
app.command("top")(look.top)
app.command("dot")(look.dot)
app.command("report")(look.report)
app.command("incidents")(incidents.incidents)
app.command("grants")(grants.grants)
app.command("grant")(grants.grant)
app.command("revoke")(grants.revoke)
app.command("prompt")(grants.prompt)
app.command("deny")(grants.deny)
app.command("prompts")(grants.prompts)
app.add_group("lab", lab.app)
app.command("demo")(demo.demo)
app.command("matrix")(matrix.matrix)


def _version(value: bool) -> None:
    if value:
        say(f"millrace {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """The audio/video bus for virtual machines and remote desktops."""


def main() -> None:
    """Entry point."""
    main_of(app, "millrace")


if __name__ == "__main__":
    main()
