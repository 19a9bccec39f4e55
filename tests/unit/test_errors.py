"""Each error's HTTP status, code in the native protocol, and exit code."""

from __future__ import annotations

import pytest

from millrace import errors
from millrace.cli.console import OutputClosed
from millrace.client.endpoint import ending
from millrace.control.storefile import NotRead, NotSaved
from millrace.errors import BY_LISTENER_WORD, BY_WORD, MillraceError
from millrace.guest.notfound import NotFound
from millrace.rights.tokens import TooManyTries

CALLED = {
    errors.MillraceError: (500, "internal", 1),
    errors.ConfigError: (400, "config", 2),
    NotSaved: (503, "graph", 3),
    NotRead: (503, "graph", 2),
    errors.GraphError: (409, "graph", 3),
    NotFound: (404, "graph", 3),
    errors.BudgetError: (507, "limit", 3),
    errors.RightsError: (403, "rights", 4),
    errors.RightsEnded: (401, "rights", 4),
    TooManyTries: (403, "rights", 4),
    errors.ProtocolError: (500, "protocol", 5),
    errors.RemoteProtocolError: (500, "protocol", 5),
    errors.LoginRefused: (500, "protocol", 5),
    errors.PasswordRefused: (500, "protocol", 5),
    errors.CodecError: (500, "internal", 1),
    errors.OutputLost: (500, "internal", 7),
    OutputClosed: (500, "internal", 141),
    errors.NoDevice: (400, "config", 2),
    errors.PeerLost: (500, "internal", 6),
    errors.NoDaemon: (500, "internal", 2),
    errors.Busy: (500, "busy", 6),
}


@pytest.mark.parametrize(("kind", "called"), CALLED.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_each_error_kind_has_its_codes(kind: type[MillraceError], called: tuple[int, str, int]) -> None:
    assert (kind.status, kind.word, kind.exit_code) == called


def test_every_error_class_is_listed_here() -> None:
    tree = {one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, MillraceError)}
    assert tree <= CALLED.keys()


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (errors.ConfigError, "settings"), (NotSaved, "settings"), (errors.GraphError, "graph"), (NotFound, "graph"),
        (errors.BudgetError, "limit"), (errors.RightsError, "rights"), (errors.RemoteProtocolError, "protocol"),
        (errors.PeerLost, "protocol"), (errors.CodecError, "protocol"),
    ],
)  # fmt: skip
def test_listener_gets_error_code_of_its_protocol(kind: type[MillraceError], word: str) -> None:
    assert kind.listener_word == word
    assert issubclass(kind, BY_LISTENER_WORD[word]) or word == "protocol"


def test_client_raises_the_error_kind_that_the_daemon_named() -> None:
    assert sorted(BY_WORD) == ["busy", "config", "graph", "limit", "protocol", "rights"]
    assert all(kind.word == word for word, kind in BY_WORD.items())
    assert all(kind.listener_word == word for word, kind in BY_LISTENER_WORD.items())
    ends = {"settings": errors.ConfigError, "limit": errors.BudgetError, "?": errors.RemoteProtocolError}
    assert {code: type(ending(code, "why")) for code in ends} == ends


def test_a_program_is_told_of_one_right_that_is_lacking_and_of_nothing_else() -> None:
    assert errors.lacking(errors.RightsError("no", "type", "alice")) == ("type", "alice")
    assert errors.lacking(errors.RightsEnded("no")) == errors.lacking(errors.GraphError("no")) == ("", "")
