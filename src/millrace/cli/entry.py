"""Entry points of `millrace` and `millrace-policy`. During the large imports, Ctrl-C ends them without a traceback."""

from __future__ import annotations

import signal


def main() -> None:
    """`millrace`."""
    _prepare()
    from millrace.cli.main import main

    main()


def policy() -> None:
    """`millrace-policy`."""
    _prepare()
    from millrace.cli.policy import main

    main()


def _prepare() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from millrace.cli.console import open_descriptors

    open_descriptors()
