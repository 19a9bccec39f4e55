"""What an error is called by HTTP, in the native protocol and by a command's exit code."""

from __future__ import annotations

import pytest

from millrace import errors
from millrace.cli.console import OutputClosed
from millrace.control.store import NotKept
from millrace.control.tokens import TooManyTries
from millrace.errors import MillraceError
from millrace.guest.missing import NotFound

CALLED = {
    errors.MillraceError: (500, "internal", 1),
    errors.ConfigError: (400, "config", 2),
    NotKept: (503, "graph", 2),
    errors.GraphError: (409, "graph", 3),
    NotFound: (404, "graph", 3),
    errors.BudgetError: (507, "limit", 3),
    errors.RightsError: (403, "rights", 4),
    TooManyTries: (403, "rights", 4),
    errors.ProtocolError: (500, "protocol", 5),
    errors.RemoteProtocolError: (500, "protocol", 5),
    errors.PasswordRefused: (500, "protocol", 5),
    errors.CodecError: (500, "internal", 1),
    errors.OutputLost: (500, "internal", 7),
    OutputClosed: (500, "internal", 141),
    errors.NoDevice: (400, "config", 2),
    errors.PeerLost: (500, "internal", 6),
    errors.NoDaemon: (500, "internal", 2),
}


@pytest.mark.parametrize(("kind", "called"), CALLED.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_each_kind_of_error_has_its_names(kind: type[MillraceError], called: tuple[int, str, int]) -> None:
    assert (kind.status, kind.word, kind.exit_code) == called


def test_every_kind_of_the_tree_is_named_here() -> None:
    tree = {one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, MillraceError)}
    assert tree <= CALLED.keys()
