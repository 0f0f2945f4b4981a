"""Rates: the values of `rate_limit=`."""

from __future__ import annotations

import re
from typing import NamedTuple

from missive.errors import UsageError

_RATE = re.compile(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)?\s*(ms|s|sec|m|min|h)\s*", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class Rate(NamedTuple):
    """A limit on messages per period. It holds in every window of `seconds`, not on average."""

    messages: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Return the rate that a text such as `20/s`, `600/min`, `5/h` or `100/10s` describes.

        Raise `UsageError` for an invalid text.
        """
        match = _RATE.fullmatch(text) if isinstance(text, str) else None
        if match is None or not int(match[1]) or (match[2] is not None and not float(match[2])):
            raise UsageError(f"rate_limit={text!r} is not messages per time, such as '20/s', '600/min' or '100/10s'")
        return cls(int(match[1]), float(match[2] or 1) * _SECONDS[match[3]])

    def __str__(self) -> str:
        return f"{self.messages}/{self.seconds:g}s"
