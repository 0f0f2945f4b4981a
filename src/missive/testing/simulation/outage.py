"""Outage: checks that the engine calls a dependency that is down once per probe period, and no more."""

from __future__ import annotations

from collections.abc import Callable

from missive.app.breaker import Breaker
from missive.engine.job import Work
from missive.outcome import Outcome
from missive.testing.simulation.loop import Clock
from missive.testing.simulation.trace import Promise

_MOMENT = 1.0
"""Maximum time until the engine knows that a handler ended, in seconds."""


class Outage:
    """One dependency as seen by its callers. Once it is down, one call per probe period may reach it, one at a time."""

    def __init__(self, breaker: Breaker, clock: Clock, fail: Callable[[Promise, str], None]) -> None:
        self._breaker = breaker
        self._clock = clock
        self._fail = fail
        self._failures = 0
        self._since: float | None = None
        """The time when its breaker opened."""
        self._asked = 0.0
        """The time when the last failed call ended."""
        self._running: dict[Work, float] = {}

    def began(self, work: Work) -> None:
        """Note that a handler that calls the dependency starts."""
        now, since = self._clock.now, self._since
        # Messages that the engine admitted before the breaker opened may still start, within a moment.
        if since is not None and now > since + _MOMENT:
            if self._running:
                self._fail(
                    Promise.one_probe,
                    f"{len(self._running) + 1} called {self._breaker.name} while it was down",
                )
            if now < self._asked + self._breaker.probe - 1e-6:
                self._fail(Promise.one_probe, f"{self._breaker.name} was called again before its probe period ended")
        self._running[work] = now

    def ended(self, work: Work) -> None:
        """Note the result of the call."""
        began = self._running.pop(work, 0.0)
        for decision in (job.decision for job in work.jobs):
            if decision is None or decision.outcome is Outcome.nacked:
                continue
            if decision.blames != self._breaker.name:
                self._failures, self._since = 0, None
                continue
            self._failures += 1
            if self._since is None and self._failures >= self._breaker.after:
                self._since = self._asked = self._clock.now
            elif self._since is not None and began > self._since:
                self._asked = self._clock.now
