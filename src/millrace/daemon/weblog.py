"""What aiohttp logs of requests: a stranger's nonsense is a line, not a traceback of ours, and who hung up is none."""

from __future__ import annotations

import logging

from aiohttp.http_exceptions import HttpProcessingError

from millrace.text import printable

log = logging.getLogger("millrace.http")


class OneLine(logging.Filter):
    """Leaves tracebacks to errors that are our own."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ConnectionError):
            return False
        if isinstance(error, HttpProcessingError) and error.code < 500:
            record.levelno, record.levelname = logging.INFO, "INFO"
            record.msg, record.args = "%s: %s", (record.getMessage(), printable(error.message or error.code))
            record.exc_info = record.exc_text = None
        return True


log.addFilter(OneLine())
