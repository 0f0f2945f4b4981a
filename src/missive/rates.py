"""Rates: how many messages in any stretch of time, as `rate_limit=` says it."""

from __future__ import annotations

import re
from typing import NamedTuple

from missive.errors import UsageError

_SPOKEN = re.compile(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)?\s*(ms|s|sec|m|min|h)\s*", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class Rate(NamedTuple):
    """So many messages in any `seconds` seconds: not on the average, but in every window of that length."""

    messages: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Return the rate of `20/s`, `600/min`, `5/h` or `100/10s`. Raises `UsageError` for what is none."""
        spoken = _SPOKEN.fullmatch(text) if isinstance(text, str) else None
        if spoken is None or not int(spoken[1]) or (spoken[2] is not None and not float(spoken[2])):
            raise UsageError(
                f"rate_limit= is messages in a time, such as '20/s', '600/min' or '100/10s', and not {text!r}"
            )
        return cls(int(spoken[1]), float(spoken[2] or 1) * _SECONDS[spoken[3]])

    def __str__(self) -> str:
        return f"{self.messages}/{self.seconds:g}s"
