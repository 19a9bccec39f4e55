"""How aiohttp's log of requests is written."""

from __future__ import annotations

import logging
import sys

import pytest
from aiohttp.http_exceptions import BadHttpMessage, BadStatusLine, HttpProcessingError
from aiohttp.web import RequestPayloadError

from millrace.server.http.weblog import OneLine, log


class Kept(logging.Handler):
    """Stores the records that pass."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def logged(error: BaseException) -> list[logging.LogRecord]:
    """The log's text for an error that aiohttp reports."""
    kept = Kept()
    log.addHandler(kept)
    try:
        raise error
    except type(error):
        log.exception("Error handling request from %s", "10.0.0.7")
    finally:
        log.removeHandler(kept)
    return kept.records


@pytest.mark.parametrize(("error", "why"), [
    (BadStatusLine("x\x1b[2J"), "x\\x1b[2J"), (BadHttpMessage("no such\nthing"), "no such\\nthing"),
    (RequestPayloadError("cut \u202eshort"), "its body can't be read: cut \\u202eshort"),
    (HttpProcessingError(code=413, message=""), "413"), (HttpProcessingError(code=499, message="gone"), "gone"),
])  # fmt: skip
def test_malformed_request_is_logged_in_one_line(error: Exception, why: str) -> None:
    (record,) = logged(error)
    assert (record.levelno, record.levelname) == (logging.INFO, "INFO")
    text = logging.Formatter("%(message)s").format(record)
    assert text.startswith("Error handling request from 10.0.0.7: ") and why in text
    assert text.isprintable() and record.exc_info is None


@pytest.mark.parametrize("error", [
    KeyError("ours"), HttpProcessingError(code=500, message="ours"), OSError("disk"), ValueError("\x1b"),
])  # fmt: skip
def test_internal_error_keeps_its_traceback(error: Exception) -> None:
    (record,) = logged(error)
    assert record.levelno == logging.ERROR and record.exc_info is not None and record.exc_info[1] is error


@pytest.mark.parametrize("error", [ConnectionResetError(), BrokenPipeError(), ConnectionAbortedError("x")])
def test_dropped_connection_is_not_logged(error: Exception) -> None:
    assert logged(error) == []


def test_records_without_error_are_unchanged() -> None:
    kept = Kept()
    log.addHandler(kept)
    try:
        log.warning("%d %%", 5)
        log.error("bare", exc_info=(None, None, None))
    finally:
        log.removeHandler(kept)
    assert [record.getMessage() for record in kept.records] == ["5 %", "bare"]
    assert OneLine().filter(logging.LogRecord("x", 40, "f", 1, "m", (), sys.exc_info()))
