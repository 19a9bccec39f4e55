"""`millrace latency` and `millrace explain`: where the time goes, and what is done to sound and picture."""

from __future__ import annotations

from typing import Annotated

import typer

from millrace.cli.columns import say_folded
from millrace.cli.console import say, show_json
from millrace.cli.stages import show

_JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def latency(
    stream: Annotated[
        str | None,
        typer.Argument(metavar="TARGET", help="stream/7, listener/4, screen/3 or viewer/5, as `millrace ls` shows it."),
    ] = None,
    probe: Annotated[bool, typer.Option("--probe", help="Measure it with an audible test signal.")] = False,
    guest: Annotated[str, typer.Option(help="The guest to probe.")] = "default",
    as_json: _JSON = False,
) -> None:
    """Break down the latency of a stream or screen, stage by stage.

    Each listener or viewer has a breakdown of its own; that of a listener begins at the mix. --probe plays ten
    clicks into the guest, hears them as a listener would, and compares what it measured with the breakdown.

    Examples:

      millrace latency stream/7

      millrace latency listener/4

      millrace latency screen/3

      millrace latency viewer/5 --json

      millrace latency --probe --guest alice
    """
    from millrace.cli.api import call, query_of
    from millrace.errors import ConfigError

    if probe:
        from millrace.cli.probe import measure
        from millrace.cli.run import run

        run(measure(guest, call("GET", "/api/v1/state")["listen"], as_json))
        return
    if stream is None:
        raise ConfigError("name a stream, listener, screen or viewer as `millrace ls` shows it, or use --probe")
    found = call("GET", query_of("/api/v1/latency", target=stream))
    if as_json:
        show_json(found)
        return
    for way in found["listeners"]:
        show(found["stream"] or "nothing", way)
    if not found["listeners"]:
        heard = stream.startswith("stream/")
        say(
            f"{stream}: nobody hears it"
            if heard
            else f"{stream}: no viewer has drawn a picture that was painted since it joined"
        )


def explain(
    target: Annotated[
        str, typer.Argument(help="stream/7, listener/4, recorder/9, screen/3 or viewer/5, as `millrace ls` shows it.")
    ],
    as_json: _JSON = False,
) -> None:
    """Explain in plain words what is done to sound or picture.

    Stages are listed in order, from the application or machine to each listener or viewer; * marks those that change
    the sound or the picture. Of a listener or viewer, it says where the time goes, and of a viewer also why it gets as
    many pictures as it does.

    Examples:

      millrace explain stream/7

      millrace explain listener/4

      millrace explain screen/3

      millrace explain viewer/5

      millrace explain viewer/5 --json | jq -r '.steps[].text'
    """
    from millrace.cli.api import call, query_of

    found = call("GET", query_of("/api/v1/explain", target=target))
    if as_json:
        show_json(found)
        return
    say(f"{found['target']} of guest {found['guest']}")
    for step in found["steps"]:
        say_folded(f"  {'*' if step['changes'] else ' '} {step['stage']:<14} {step['text']}", 19)
