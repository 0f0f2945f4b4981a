"""Faults: the kinds of faults that schedules have, and their rates in one schedule."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from typing_extensions import Self

_RATES = (0.0, 0.0, 0.02, 0.1, 0.25)
"""Chances of a fault per call. Two of five schedules have no fault of a kind, so that other kinds meet undisturbed."""


@dataclass(frozen=True, slots=True)
class Faults:
    """The kinds of faults that schedules have; all of them by default."""

    crashes: bool = True
    """The process dies at some instant and restarts, up to three times."""
    stops: bool = True
    """The process is stopped, drains and restarts; sometimes it is stopped twice."""
    connection: bool = True
    """Calls raise `Transient`, and sessions die."""
    answers: bool = True
    """A settlement loses its reply, has a reply without effect, or is refused once or always."""
    leases: bool = True
    """Leases end early."""
    lanes: bool = True
    """Lanes move to another consumer and return, on transports that assign a lane to one consumer."""
    store: bool = True
    """The dead letter store is down for a while. A write fails, or succeeds and raises."""
    slowness: bool = True
    """Calls are slow."""

    @classmethod
    def none(cls) -> Self:
        """Return `Faults` without any fault. Each message is then handled exactly once."""
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


class FaultRates:
    """The rates of faults in one schedule, until `clear` ends all faults for the last engine."""

    def __init__(self, faults: Faults, random: Random) -> None:
        self.random = random
        self.transient = self._rate(on=faults.connection) / 2
        self.answers = self._rate(on=faults.answers)
        self.leases = self._rate(on=faults.leases)
        self.rebalances = random.choice((0.0, 0.0, 0.2, 3.0)) if faults.lanes else 0.0
        """Maximum time until lanes move to another consumer, in seconds; 0 for never."""
        self.store = self._rate(on=faults.store)
        self.slow = self._rate(on=faults.slowness)
        self._slowest = random.choice((0.01, 0.1, 1.0))
        self.outage = (0.0, 0.0)
        """Start and end of the time in which the store is down, in virtual seconds."""
        if faults.store and random.random() < 0.3:  # noqa: PLR2004 - the chance of it
            start = random.random() * 2
            self.outage = (start, start + random.random() * 4)

    def _rate(self, *, on: bool) -> float:
        return self.random.choice(_RATES) if on else 0.0

    def occurs(self, rate: float) -> bool:
        """Return whether a fault with this rate occurs now."""
        return rate > 0 and self.random.random() < rate

    def delay(self) -> float:
        """Return the duration of a call, in seconds; usually 0."""
        return self.random.random() * self._slowest if self.occurs(self.slow) else 0.0

    def clear(self) -> None:
        """End all faults."""
        self.transient = self.answers = self.leases = self.rebalances = self.store = self.slow = 0.0
        self.outage = (0.0, 0.0)
