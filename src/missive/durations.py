"""Durations, given as seconds or timedeltas."""

from __future__ import annotations

from datetime import timedelta


def seconds(duration: float | timedelta | None) -> float | None:
    """Return a duration in seconds, or None for None. Raise ValueError unless it is finite and not negative."""
    if duration is None:
        return None
    number = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if not 0 <= number < float("inf"):
        raise ValueError(f"a duration must be a finite number of seconds, zero or more, not {number:g}")
    return number


def valid_seconds(duration: float | timedelta) -> float | None:
    """Return a user's duration in seconds, or None when it is invalid."""
    try:
        return None if isinstance(duration, (bool, str)) else seconds(duration)
    except (TypeError, ValueError, OverflowError):
        return None
