"""Logs: text for people, or one JSON object a line for machines."""

from __future__ import annotations

import json
import logging

from millrace.errors import ConfigError


class JsonLines(logging.Formatter):
    """One object a line: time (seconds), level, logger, message, and a traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        out = {"time": round(record.created, 6), "level": record.levelname.lower(), "logger": record.name,
               "message": record.getMessage()}  # fmt: skip
        if record.exc_info:
            out["traceback"] = self.formatException(record.exc_info)
        return json.dumps(out)


def set_up(form: str, verbose: bool) -> None:
    """Log to stderr in `form`, text or json."""
    if form not in ("text", "json"):
        raise ConfigError(f"--log-format: {form!r} is neither text nor json")
    handler = logging.StreamHandler()
    text = logging.Formatter("%(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if form == "json" else text)
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
