"""Logs: text for people, or one JSON object per line for programs. Untrusted text in a message can't forge a line."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from millrace.cli.console import ascii_json
from millrace.io.clock import now_ns
from millrace.text import parse_choice, printable, printable_lines
from millrace.units import NS_PER_S, HostNs

MESSAGE_MAX = 4000
KINDS_MAX = 1000
SAME_MAX, SAME_NS = 20, 10 * NS_PER_S
"""At most SAME_MAX messages of one kind are written in SAME_NS, so that no client can fill the log."""
_LABEL = re.compile(r"((?:guest|principal) [^ ,:]+), ")
"""How the label of a guest's or principal's connection begins."""
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
# allowance with every line. Each guest has an allowance of its own, and so has each principal: messages about one begin
# with "guest NAME" or "principal KEY", which is the format's first argument or in it, and is chosen by the daemon. The
# table of kinds is bounded as well:
# when it is full it is emptied, which at worst lets some messages through again. Time is monotonic, since a wall clock
# that is set back would keep everything out until it has caught up.
class Rated(logging.Filter):
    """Limits the rate of each kind of message, and reports how many it has dropped."""

    def __init__(self, now_ns: Callable[[], HostNs] = now_ns) -> None:
        super().__init__()
        self._now_ns = now_ns
        self._kinds: dict[tuple[str, int, str, str], tuple[HostNs, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        now, kind = self._now_ns(), (record.name, record.levelno, str(record.msg), _subject_of(record))
        since, count = self._kinds.get(kind, (now, 0))
        if now - since > SAME_NS:
            left_out = count - SAME_MAX
            if left_out > 0:
                record.msg, record.args = f"{record.getMessage()} ({left_out} more like this were left out)", None
            since, count = now, 0
        if len(self._kinds) > KINDS_MAX:
            self._kinds.clear()
        self._kinds[kind] = since, count + 1
        return count < SAME_MAX


def _subject_of(record: logging.LogRecord) -> str:
    """The guest or principal that a message is about; empty if none."""
    first = record.args[0] if isinstance(record.args, tuple) and record.args else None
    if not isinstance(first, str):
        return ""
    for kind in ("guest", "principal"):
        if str(record.msg).startswith(f"{kind} %s"):
            return f"{kind} {first}"
    label = _LABEL.match(first)
    return label[1] if label else ""


def set_up(form: str = "text", verbose: bool = False) -> None:
    """Log to stderr in `form`, text or json. Errors while writing the log are ignored."""
    parse_choice(form, "--log-format", FORMS)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    handler.addFilter(Rated())
    logging.raiseExceptions = False
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler], force=True)
