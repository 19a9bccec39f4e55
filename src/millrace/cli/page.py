"""`millrace page`: a link that gives a browser access."""

from __future__ import annotations

from millrace.cli.console import say


def page() -> None:
    """Print a single-use link that signs one browser in.

    The link is valid for an hour, and that browser has every right. Others open the page by its plain address and enter
    a token (`millrace token new`).

    Example: millrace page
    """
    from millrace.cli.api import call

    say(call("POST", "/api/v1/page-links")["link"])
