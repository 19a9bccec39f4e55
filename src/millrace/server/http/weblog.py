"""Filter for aiohttp's log: a malformed request gets one line without a traceback, a dropped connection none."""

from __future__ import annotations

import logging

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import RequestPayloadError

from millrace.text import printable

log = logging.getLogger("millrace.http")


def _nonsense(error: BaseException | None) -> str:
    """What is wrong with a malformed request; empty for any other error."""
    if isinstance(error, RequestPayloadError):
        return f"its body can't be read: {error}"
    if isinstance(error, HttpProcessingError) and error.code < 500:
        return error.message or str(error.code)
    return ""


class OneLine(logging.Filter):
    """Keeps tracebacks only for our own errors."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ConnectionError):
            return False
        why = _nonsense(error)
        if why:
            record.levelno, record.levelname = logging.INFO, "INFO"
            record.msg, record.args = "%s: %s", (record.getMessage(), printable(why))
            record.exc_info = record.exc_text = None
        return True


log.addFilter(OneLine())
