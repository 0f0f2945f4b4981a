"""Log lines on standard error, unless the application configures logging itself."""

from __future__ import annotations

import json
import logging
import logging.config
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

from missive.cli import output
from missive.errors import UsageError
from missive.privacy.printing import printable

LOGGERS = ("missive", "missive.failures", "missive.sources", "missive.audit")
"""The documented loggers."""

logger = logging.getLogger("missive.audit")


class LineFormatter(logging.Formatter):
    """Formats log records without control characters. Lines of Missive have no line breaks, except revealed content."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        own = record.name.partition(".")[0] == "missive" and not getattr(record, "revealed", False)
        return printable(super().format(record), "" if own else "\n\t")


class JSONFormatter(logging.Formatter):
    """Formats log records as one JSON object on one line. Failure lines have a value for each of their facts."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as JSON."""
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        fields: dict[str, Any] = getattr(record, "fields", {})
        return as_line(record.levelname, record.name, text, record.created, **self._worker, **fields)


def as_line(level: str, name: str, text: str, at: float, **fields: object) -> str:
    """Return a log line as JSON, with the time in UTC."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at * 1000) % 1000:03d}Z"
    return json.dumps({"time": stamp, "level": level, "logger": name, "message": text, **fields}, default=str)


def configure_run(level: str, form: str, file: str | None, worker: int | None) -> None:
    """Configure logging for `missive run`, after the import of the application.

    With a configuration `file`, use that. Otherwise, add no handler and change no level when the application has
    configured the root logger or `missive`. Raise `UsageError` for a file that is no configuration.
    """
    for name in LOGGERS:  # dictConfig disables loggers that exist, by default
        logging.getLogger(name).disabled = False
    if form == "json":
        output.hint_line = _hint_as_json
    if file is not None:
        _configure_from(Path(file))
    elif not _configured():
        handler = logging.StreamHandler()
        # Several workers log to the same standard error.
        who = "%(name)s" if worker is None else f"%(name)s[{worker}]"
        plain = LineFormatter(f"%(levelname)s {who}: %(message)s")
        handler.setFormatter(JSONFormatter(worker) if form == "json" else plain)
        logging.getLogger().addHandler(handler)
        logging.getLogger("missive").setLevel(level)


def _configured() -> bool:
    root, own = logging.getLogger(), logging.getLogger("missive")
    return bool(root.handlers or own.handlers) or root.level != logging.WARNING or own.level != logging.NOTSET


def _configure_from(path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8")
        settings = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"--log-config {path}: {error.strerror}") from None
    except ValueError as error:
        form = "JSON" if path.suffix == ".json" else "TOML"
        raise UsageError(f"--log-config {path} is not {form}: {error}") from None
    if not isinstance(settings, dict):
        raise UsageError(f"--log-config {path}: the configuration is a table, as for logging.config.dictConfig")
    try:
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, **settings})
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        cause = error.__cause__ or error
        raise UsageError(f"--log-config {path}: {error} ({type(cause).__name__}: {cause})") from None


def _hint_as_json(text: str) -> str:
    return as_line("INFO", "missive", text, time.time())


def check_reveal(reveal: str | None, why: str | None) -> None:
    """Raise `UsageError` when content must not be shown: without a reason, or by `tty` without a terminal."""
    if reveal is None:
        if why is not None:
            raise UsageError("--why gives the reason of --reveal: add --reveal=tty, or leave --why out")
        return
    if not why or not why.strip():
        raise UsageError(f"--reveal={reveal} shows content of messages: give the reason with --why TEXT")
    if reveal == "tty" and not (sys.stderr is not None and sys.stderr.isatty()):
        raise UsageError("--reveal=tty needs a terminal on standard error; without one, use --reveal=always")


def announce_reveal(reveal: str, why: str | None) -> None:
    """Log that the run shows content."""
    logger.warning(
        "failure lines show texts and tracebacks of exceptions, which may quote messages (--reveal=%s: %s)", reveal, why
    )
