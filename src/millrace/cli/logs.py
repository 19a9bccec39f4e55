"""Logs: text for people, or one JSON object a line for machines. What others have said forges no line."""

from __future__ import annotations

import logging

from millrace.cli.console import ascii_json
from millrace.text import parse_choice, printable, printable_lines

MESSAGE_MAX = 4000
FORMS = ("text", "json")


class TextLines(logging.Formatter):
    """One line each, of nothing a terminal would obey; a traceback of ours has lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        line = f"{record.levelname} {record.name}: {printable(record.getMessage(), MESSAGE_MAX)}"
        return f"{line}\n{printable_lines(self.formatException(record.exc_info))}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """One object a line: time (seconds), level, logger, message, and a traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        out = {"time": round(record.created, 6), "level": record.levelname.lower(), "logger": record.name,
               "message": record.getMessage()}  # fmt: skip
        if record.exc_info:
            out["traceback"] = self.formatException(record.exc_info)
        return ascii_json(out)


def set_up(form: str = "text", verbose: bool = False) -> None:
    """Log to stderr in `form`, text or json. A log that can't be written ends nothing."""
    parse_choice(form, "--log-format", FORMS)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.raiseExceptions = False
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler], force=True)
