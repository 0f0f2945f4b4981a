"""Report: the outcomes of one run, as counts by registered names. It contains no message content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from typing_extensions import Self

from missive.outcome import Outcome

_COUNTERS = {"handled": "handlers", "discarded": "discards", "dead": "reasons"}
_NUMBERS = ("duplicates", "retried", "nacked", "parked", "redelivered", "released", "unsettled")


class Report:
    """Counts of the messages of one run."""

    def __init__(self) -> None:
        self.handled: Counter[str] = Counter()
        """Messages acked, by handler."""
        self.discarded: Counter[str] = Counter()
        """Messages discarded, by handler."""
        self.dead: Counter[str] = Counter()
        """Dead letters, by reason."""
        self.duplicates = 0
        """Messages acked without an effect, because their effect had already happened."""
        self.retried = 0
        self.nacked = 0
        self.parked = 0
        """Number of times that a message was parked in the store."""
        self.redelivered = 0
        """Messages whose settlement the transport did not accept, and which it redelivers."""
        self.released = 0
        """Messages given back unhandled when processing stopped."""
        self.unsettled = 0
        """Messages that a forced stop left unsettled."""

    @property
    def total_handled(self) -> int:
        """Messages that a handler acked."""
        return sum(self.handled.values())

    @property
    def total_dead(self) -> int:
        """Dead letters filed."""
        return sum(self.dead.values())

    def count_held(self, outcome: Outcome) -> None:
        """Count a message that was nacked or retried."""
        if outcome is Outcome.nacked:
            self.nacked += 1
        else:
            self.retried += 1

    @classmethod
    def from_dict(cls, counts: Mapping[str, Any]) -> Self:
        """Return the report with counts from `to_dict`. Raises KeyError, TypeError or ValueError for other mappings."""
        report = cls()
        for name, key in _COUNTERS.items():
            getattr(report, name).update(counts[key])
        for name in _NUMBERS:
            setattr(report, name, int(counts[name]))
        return report

    def add(self, other: Report) -> None:
        """Add the counts of another run."""
        for name in _COUNTERS:
            getattr(self, name).update(getattr(other, name))
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON can represent."""
        return {
            "handled": self.total_handled,
            "dead_lettered": self.total_dead,
            "discarded": sum(self.discarded.values()),
            **{name: getattr(self, name) for name in _NUMBERS},
            "handlers": dict(self.handled.most_common()),
            "discards": dict(self.discarded.most_common()),
            "reasons": dict(self.dead.most_common()),
        }

    def __str__(self) -> str:
        parts = [f"{self.total_handled} handled"]
        if self.dead:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.dead.most_common())
            parts.append(f"{self.total_dead} dead-lettered ({reasons})")
        else:
            parts.append("0 dead-lettered")
        for count, what in (
            (sum(self.discarded.values()), "discarded"),
            (self.duplicates, "duplicates"),
            (self.parked, "parked"),
            (self.released, "given back unhandled"),
            (self.redelivered, "to be redelivered"),
            (self.unsettled, "left unsettled"),
        ):
            if count:
                parts.append(f"{count} {what}")
        return ", ".join(parts)
