"""Times that lie too far ahead of the clock, because a clock was set back."""

from __future__ import annotations

import time

SKEW = 60.0
"""Largest plausible lead of another machine's clock, in seconds. A later time shows that a clock was set back."""

_EVERY = 30.0
"""Time between two searches for such times, in seconds."""


def wall() -> float:
    """Return seconds since 1970. Look `time.time` up at each call, so that the conformance kit can shift the clock."""
    return time.time()


class AheadCheck:
    """Decides when a store searches for times that lie too far ahead."""

    def __init__(self) -> None:
        self._latest = float("inf")
        self._checked = 0.0

    def is_suspected(self, now: float) -> bool:
        """Return whether to search: at first, when the clock went back, and regularly for other machines' clocks."""
        went_back, self._latest = now < self._latest, now
        ticks = time.monotonic()
        if not went_back and ticks - self._checked < _EVERY:
            return False
        self._checked = ticks
        return True
