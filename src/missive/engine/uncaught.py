"""Exceptions and warnings that nothing handles: their types and frames are logged, never their text."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, TextIO

from missive.dlq.failure import describe_exception

_LIBRARIES = ("asyncio", "concurrent.futures")
"""Loggers of the standard library that log exceptions of callbacks, and arguments of calls."""
_KNOWN = frozenset({"Task was destroyed but it is pending!"})
"""Messages of asyncio that quote no value."""
_ORIGINAL_SHOWWARNING = getattr(warnings, "_showwarning_orig", warnings.showwarning)
_ORIGINAL_HANDLE_ERROR = logging.Handler.handleError

logger = logging.getLogger("missive")


@contextlib.contextmanager
def redacting() -> Iterator[None]:
    """Log uncaught exceptions and warnings by type and frames inside the block. Keep hooks of the application."""
    restore = install()
    try:
        yield
    finally:
        for undo in restore:
            undo()


def install() -> list[Callable[[], None]]:
    """Replace the hooks of Python that the application has not set. Return the functions that restore them."""
    hooks: tuple[tuple[Any, str, Any, Callable[..., None]], ...] = (
        (sys, "excepthook", sys.__excepthook__, _on_exception),
        (sys, "unraisablehook", sys.__unraisablehook__, _on_unraisable),
        (threading, "excepthook", threading.__excepthook__, _on_thread),
        (warnings, "showwarning", _ORIGINAL_SHOWWARNING, _on_warning),
        (logging.Handler, "handleError", _ORIGINAL_HANDLE_ERROR, _on_logging_error),
    )
    restore: list[Callable[[], None]] = []
    for owner, name, original, hook in hooks:
        if getattr(owner, name) is original:
            setattr(owner, name, hook)
            restore.append(partial(_restore, owner, name, hook, original))
    for one in map(logging.getLogger, _LIBRARIES):
        if not one.handlers and not one.filters:
            one.addFilter(_redact)
            restore.append(partial(one.removeFilter, _redact))
    return restore


def _restore(owner: Any, name: str, hook: object, original: object) -> None:
    if getattr(owner, name) is hook:  # the application has not set its own meanwhile
        setattr(owner, name, original)


def describe_context(context: dict[str, Any]) -> str:
    """Describe the context of a loop's exception handler. Its message may quote arguments of a callback."""
    error = context.get("exception")
    if error is not None:
        return describe_exception(error)
    message = context.get("message")
    return message if message in _KNOWN else "without an exception"


def on_engine_loop(_loop: object, context: dict[str, Any]) -> None:
    """Log an exception of a callback or task on the engine's loop, where client libraries run."""
    logger.error("a callback on the engine's loop failed: %s", describe_context(context))


def _on_exception(kind: type[BaseException], error: BaseException, _traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logger.error("an exception was not caught: %s", describe_exception(error))


def _on_thread(args: threading.ExceptHookArgs) -> None:
    if issubclass(args.exc_type, SystemExit):
        return
    error = args.exc_value
    described = args.exc_type.__name__ if error is None else describe_exception(error)
    logger.error("an exception ended a thread of the application: %s", described)


def _on_unraisable(args: Any) -> None:
    error = args.exc_value
    logger.error(
        "an exception was ignored, because nothing can catch it: %s",
        args.exc_type.__name__ if error is None else describe_exception(error),
    )


def _on_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if file is not None or category.__module__.partition(".")[0] == "missive":
        _ORIGINAL_SHOWWARNING(message, category, filename, lineno, file, line)
    else:
        logger.warning("the application issued a %s at %s:%d", category.__qualname__, filename, lineno)


def _on_logging_error(_handler: logging.Handler, record: logging.LogRecord) -> None:
    """Report a log call that failed, such as a format without its arguments. Python would print the arguments."""
    error = sys.exc_info()[1]
    if not logging.raiseExceptions or sys.stderr is None or error is None:
        return
    place = f"{record.pathname}:{record.lineno} in {record.funcName}"
    with contextlib.suppress(OSError, ValueError):  # standard error is closed
        sys.stderr.write(f"missive: a log call failed at {place}: {describe_exception(error)}\n")


def _redact(record: logging.LogRecord) -> bool:
    """Replace the text of a record of the standard library, which quotes exceptions and arguments."""
    error = record.exc_info[1] if record.exc_info else None
    described = (
        f"{record.pathname}:{record.lineno} in {record.funcName}" if error is None else describe_exception(error)
    )
    record.msg, record.args = "an exception or a slow call was reported: %s", (described,)
    record.exc_info = record.exc_text = record.stack_info = None
    return True
