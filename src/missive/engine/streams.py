"""The standard streams: whether handlers can still write to them, and the last flush."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import sys

_LOST = frozenset({errno.EPIPE, errno.EIO, errno.EBADF})
"""Errors of a write to a pipe without a reader, to a terminal that hung up, and to a closed descriptor."""


def flush_output() -> bool:
    """Write what standard output has buffered. Return False when that is lost, because nothing reads it any more.

    Python would report the loss again when the process ends, so a lost output is replaced with the null device.
    """
    if sys.stdout is None or sys.stdout.closed:
        return True
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):  # a replaced stream may have no descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def lost_output(error: BaseException) -> str | None:
    """Return the name of the standard stream whose loss explains the exception of a handler, or None.

    The exception alone cannot tell a lost stream from a lost connection, so the streams themselves are checked.
    """
    lost_write = isinstance(error, OSError) and error.errno in _LOST
    closed = isinstance(error, ValueError)  # raised by a write to a file object that was closed
    for stream, name in ((sys.stdout, "standard output"), (sys.stderr, "standard error")):
        if stream is None:
            continue
        if stream.closed:
            if closed:
                return name
        elif lost_write and _has_no_reader(stream):
            return name
    return None


def _has_no_reader(stream: object) -> bool:
    """Return whether the descriptor of a stream reports that nothing can be written to it any more."""
    if not hasattr(select, "poll"):
        return False
    try:
        descriptor = stream.fileno()  # type: ignore[attr-defined]  # a replaced stream may have none
        os.fstat(descriptor)
    except (AttributeError, ValueError):
        return False
    except OSError as error:  # io.UnsupportedOperation has no number
        return error.errno == errno.EBADF
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(events & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for _, events in poll.poll(0))
