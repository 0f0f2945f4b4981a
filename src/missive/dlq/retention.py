"""How long a store keeps records that are closed: `?keep_resolved=30d&keep_discarded=forever` in its URL."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from missive.dlq.record import Status
from missive.errors import UsageError

_SPOKEN = re.compile(r"([0-9]{1,6})(min|h|d|w)", re.ASCII)
_SECONDS = {"min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_MONTH = 30 * _SECONDS["d"]


class Retention(NamedTuple):
    """In seconds, or None for ever. What is dead, parked or queued is always kept."""

    resolved: float | None = _MONTH
    discarded: float | None = _MONTH

    @classmethod
    def parse(cls, parameters: Mapping[str, Any]) -> tuple[Retention, dict[str, Any]]:
        """Return what a URL's parameters say of it, and the others. Raises `UsageError` for what is no time."""
        others, kept = dict(parameters), cls()
        for name in cls._fields:
            value = others.pop(f"keep_{name}", None)
            if value is not None:
                kept = kept._replace(**{name: _seconds(f"keep_{name}", value)})
        return kept, others

    @classmethod
    def unknown(cls, name: str) -> str:
        """Return what to say of a parameter that no store knows."""
        known = [f"keep_{field}" for field in cls._fields]
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {' and '.join(known)}"
        return f"there is no parameter {name}: {hint}"

    def over(self, now: float) -> Iterator[tuple[Status, float]]:
        """Yield what is kept for a time, and before when of those were closed that are kept no longer."""
        for status, seconds in ((Status.resolved, self.resolved), (Status.discarded, self.discarded)):
            if seconds is not None:
                yield status, now - seconds


def _seconds(name: str, value: object) -> float | None:
    if value == "forever":
        return None
    spoken = _SPOKEN.fullmatch(str(value))
    if spoken is None:
        raise UsageError(f"{name} is how long, such as 90min, 12h, 30d, 8w or forever, and not {str(value)[:40]!r}")
    return int(spoken[1]) * _SECONDS[spoken[2]]
