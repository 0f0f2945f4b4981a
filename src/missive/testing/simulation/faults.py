"""Faults: what may go wrong in a schedule, and the weather that a seed makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from typing_extensions import Self

_RATES = (0.0, 0.0, 0.02, 0.1, 0.25)
"""Half of the schedules have nothing of a kind, so that others meet undisturbed."""


@dataclass(frozen=True, slots=True)
class Faults:
    """Which kinds of faults schedules have; all of them by default."""

    crashes: bool = True
    """The process dies at some instant, up to three times, and starts again."""
    stops: bool = True
    """It is told to stop, drains, and starts again; sometimes it is told twice."""
    connection: bool = True
    """Calls raise Transient, and sessions die."""
    answers: bool = True
    """Settlements that were made and not answered, answered and not made, refused for now or for good."""
    leases: bool = True
    """Leases end before their time."""
    lanes: bool = True
    """Lanes of a transport that gives them to one consumer go to another for a while, and come back."""
    store: bool = True
    """The dead letter store is down for a while; a write fails, or was made and raises all the same."""
    slowness: bool = True
    """Calls take a while."""

    @classmethod
    def none(cls) -> Self:
        """Return no faults at all: each message is handled exactly once then."""
        return cls(
            crashes=False,
            stops=False,
            connection=False,
            answers=False,
            leases=False,
            lanes=False,
            store=False,
            slowness=False,
        )


class Weather:
    """How often what goes wrong in one schedule, until it clears up for the last engine."""

    def __init__(self, faults: Faults, random: Random) -> None:
        self.random = random
        self.transient = self._rate(on=faults.connection) / 2
        self.answers = self._rate(on=faults.answers)
        self.leases = self._rate(on=faults.leases)
        self.moves = random.choice((0.0, 0.0, 0.2, 3.0)) if faults.lanes else 0.0
        """Seconds, at the most, until lanes go to somebody else; 0 for never."""
        self.store = self._rate(on=faults.store)
        self.slow = self._rate(on=faults.slowness)
        self._slowest = random.choice((0.01, 0.1, 1.0))
        self.outage = (0.0, 0.0)
        """From when until when the store is down."""
        if faults.store and random.random() < 0.3:  # noqa: PLR2004 - the chance of it
            start = random.random() * 2
            self.outage = (start, start + random.random() * 4)

    def _rate(self, *, on: bool) -> float:
        return self.random.choice(_RATES) if on else 0.0

    def strikes(self, rate: float) -> bool:
        """Tell whether something happens that happens so often."""
        return rate > 0 and self.random.random() < rate

    def delay(self) -> float:
        """Return how long a call takes now; nearly always no time at all."""
        return self.random.random() * self._slowest if self.strikes(self.slow) else 0.0

    def clear_up(self) -> None:
        """End all faults."""
        self.transient = self.answers = self.leases = self.moves = self.store = self.slow = 0.0
        self.outage = (0.0, 0.0)
