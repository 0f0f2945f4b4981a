"""How an exception that nobody expected is told: its type and where, and never its text, which may quote a message."""

from __future__ import annotations

from missive.dlq.failure import capture

_FRAMES = 3


def describe(error: BaseException) -> str:
    """Return the type of an exception and its innermost frames, on one line."""
    failure = capture(error)
    frames = [f"{frame.file}:{frame.line}" for frame in failure.chain[0].frames[-_FRAMES:]]
    return " < ".join([failure.type, *reversed(frames)])
