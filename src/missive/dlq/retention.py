"""The time for which a store holds closed records: `?keep_resolved=30d&keep_discarded=forever` in its URL."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from missive.dlq.record import Status
from missive.errors import UsageError

_DURATION = re.compile(r"([0-9]{1,6})(min|h|d|w)", re.ASCII)
_SECONDS = {"min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_MONTH = 30 * _SECONDS["d"]


class Retention(NamedTuple):
    """Seconds for which closed records are stored, or None for no limit. Open records are always stored."""

    resolved: float | None = _MONTH
    discarded: float | None = _MONTH

    @classmethod
    def parse(cls, parameters: Mapping[str, Any]) -> tuple[Retention, dict[str, Any]]:
        """Return the retention that a URL's parameters declare, and the other parameters.

        Raises `UsageError` for a value that is not a duration.
        """
        others, retention = dict(parameters), cls()
        for name in cls._fields:
            value = others.pop(f"keep_{name}", None)
            if value is not None:
                retention = retention._replace(**{name: _seconds(f"keep_{name}", value)})
        return retention, others

    @classmethod
    def unknown(cls, name: str) -> str:
        """Return an error text for a parameter that no store has."""
        known = [f"keep_{field}" for field in cls._fields]
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {' and '.join(known)}"
        return f"there is no parameter {name}: {hint}"

    def cutoffs(self, now: float) -> Iterator[tuple[Status, float]]:
        """Yield each status with a limit, and the closing time before which its records are deleted."""
        for status, seconds in ((Status.resolved, self.resolved), (Status.discarded, self.discarded)):
            if seconds is not None:
                yield status, now - seconds


def _seconds(name: str, value: object) -> float | None:
    if value == "forever":
        return None
    duration = _DURATION.fullmatch(str(value))
    if duration is None:
        raise UsageError(f"{name} is a duration, such as 90min, 12h, 30d, 8w or forever, and not {str(value)[:40]!r}")
    return int(duration[1]) * _SECONDS[duration[2]]
