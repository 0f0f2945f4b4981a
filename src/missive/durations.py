"""Durations: seconds or timedeltas as seconds."""

from __future__ import annotations

from datetime import timedelta


def seconds(after: float | timedelta | None) -> float | None:
    """Return a delay in seconds. Raises ValueError when it is negative or not a number."""
    if after is None:
        return None
    delay = after.total_seconds() if isinstance(after, timedelta) else float(after)
    if not 0 <= delay < float("inf"):
        raise ValueError("a delay is a finite number of seconds, zero or more")
    return delay
