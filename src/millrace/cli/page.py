"""`millrace page`: a link that gives a browser access."""

from __future__ import annotations

from millrace.cli.console import say, warn


def page() -> None:
    """Print a single-use link that signs one browser in.

    The link is valid for an hour, unless the daemon ends before, and that browser has every right. Others open the page
    by its plain address and enter a token (`millrace token new`).

    Example: millrace page
    """
    from millrace.cli.api import call

    say(call("POST", "/api/v1/page-links")["link"])
    warn("It signs one browser in, once, within an hour and before the daemon ends.")
