"""Logs: text for people, or one JSON object per line for programs. Untrusted text in a message can't forge a line."""

from __future__ import annotations

import logging

from millrace.cli.console import ascii_json
from millrace.text import parse_choice, printable, printable_lines

MESSAGE_MAX = 4000
KINDS_MAX = 1000
SAME_MAX, SAME_S = 20, 10.0
"""At most SAME_MAX messages of one kind are written in SAME_S seconds, so that no client can fill the log."""
FORMS = ("text", "json")


class TextLines(logging.Formatter):
    """One line per message, without terminal control characters. A traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        line = f"{record.levelname} {record.name}: {printable(record.getMessage(), MESSAGE_MAX)}"
        return f"{line}\n{printable_lines(self.formatException(record.exc_info))}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """One object per line: time (seconds), level, logger, message, and a traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        out = {"time": round(record.created, 6), "level": record.levelname.lower(), "logger": record.name,
               "message": record.getMessage()}  # fmt: skip
        if record.exc_info:
            out["traceback"] = self.formatException(record.exc_info)
        return ascii_json(out)


# The kind of a message is its format string, not its text, so a client that varies its name does not get a new
# allowance with every line. The table of kinds is bounded as well: when it is full it is emptied, which at worst lets
# some messages through again.
class Rated(logging.Filter):
    """Limits the rate of each kind of message, and reports how many it has dropped."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[tuple[str, int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        kind = record.name, record.levelno, str(record.msg)
        since, count = self._kinds.get(kind, (record.created, 0))
        if record.created - since > SAME_S:
            left_out = count - SAME_MAX
            if left_out > 0:
                record.msg, record.args = f"{record.getMessage()} ({left_out} more like this were left out)", None
            since, count = record.created, 0
        if len(self._kinds) > KINDS_MAX:
            self._kinds.clear()
        self._kinds[kind] = since, count + 1
        return count < SAME_MAX


def set_up(form: str = "text", verbose: bool = False) -> None:
    """Log to stderr in `form`, text or json. Errors while writing the log are ignored."""
    parse_choice(form, "--log-format", FORMS)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    handler.addFilter(Rated())
    logging.raiseExceptions = False
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler], force=True)
