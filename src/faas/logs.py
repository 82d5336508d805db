"""Logs: one JSON object a line on stderr, or plain text on a terminal.

The message is constant and the facts are fields, so that logs can be counted and searched. Fields
come from `extra=` of the standard library's loggers, or from a `Log` that has them bound.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_VALUE_LENGTH_MAX = 2000
"""Enough for an error sentence with its details; keeps a hostile value from filling the log."""


class Log:
    """A logger with facts bound to it; every call adds its own."""

    def __init__(self, logger: logging.Logger, facts: dict[str, object]) -> None:
        self._logger = logger
        self._facts = facts

    def bind(self, **facts: object) -> "Log":
        """Return a log that says these facts with every line."""
        return Log(self._logger, self._facts | facts)

    def debug(self, message: str, **facts: object) -> None:
        """Tell a developer."""
        self._write(logging.DEBUG, message, facts)

    def info(self, message: str, **facts: object) -> None:
        """Tell a change of state."""
        self._write(logging.INFO, message, facts)

    def warning(self, message: str, **facts: object) -> None:
        """Tell what will need somebody if it goes on."""
        self._write(logging.WARNING, message, facts)

    def error(self, message: str, **facts: object) -> None:
        """Tell what needs somebody now."""
        self._write(logging.ERROR, message, facts)

    def _write(self, level: int, message: str, facts: dict[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            merged = self._facts | facts
            self._logger.log(level, "%s", message, extra={"facts": merged}, stacklevel=3)


def bind(name: str, **facts: object) -> Log:
    """Return the log of a module, with facts bound to it."""
    return Log(logging.getLogger(name), facts)


def configure(*, level: str, style: str, stream: TextIO | None = None) -> None:
    """Send everything that is logged to `stream`, and nothing anywhere else.

    Args:
        style: `json`, `text`, or `auto`: text when the stream is a terminal.
    """
    stream = sys.stderr if stream is None else stream
    is_text = style == "text" or (style == "auto" and stream is not None and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_TextFormatter() if is_text else _JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # One line a request is the access log's job of whoever stands in front.
    logging.getLogger("uvicorn.access").disabled = True
    for name in ("asyncio", "uvicorn"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _facts_of(record: logging.LogRecord) -> dict[str, object]:
    found = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    bound = found.pop("facts", None)
    return found | bound if isinstance(bound, dict) else found  # pyright: ignore[reportUnknownVariableType]


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)[:_VALUE_LENGTH_MAX]


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: _plain(value) for key, value in _facts_of(record).items()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        facts = "".join(f" {key}={_plain(value)}" for key, value in _facts_of(record).items())
        text = f"{at} {record.levelname.lower():7} {record.getMessage()}{facts}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text
