"""Breakers at work: closed, open, half-open with one probe, then a ramp. Each process keeps its own."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable

from missive.app.breaker import Breaker
from missive.app.terms import HandlerRoute
from missive.engine.job import Work
from missive.engine.workers.decision import Decision
from missive.errors import UsageError
from missive.outcome import Outcome

_RAMP_ENDS = 64
"""So many at once that went well, and there is no limit any more."""

logger = logging.getLogger("missive")


class Circuit:
    """What is known of one dependency. `state` is `closed`, `open`, `half-open` (one probe) or `ramp`."""

    def __init__(self, breaker: Breaker, clock: Callable[[], float], most: int) -> None:
        self.breaker = breaker
        self.state = "closed"
        self.opened: Callable[[], None] = lambda: None
        """Called when it opens, or opens again."""
        self.probes = 0
        """How many probes were sent."""
        self._clock = clock
        self._most = most
        self._failures = 0
        self._until = 0.0
        self._limit = 1

    @property
    def up(self) -> bool:
        """Whether its handlers run without a limit of its."""
        return self.state == "closed"

    @property
    def opens_in(self) -> float:
        """Seconds until the next probe may be sent; 0 when it may now, or is on its way."""
        return max(0.0, self._until - self._clock()) if self.state == "open" else 0.0

    def admits(self, running: int) -> bool:
        """Tell whether one more may run beside those that began since the last probe did."""
        if self.state == "closed":
            return running < self._most
        if self.state == "open":
            return self._clock() >= self._until
        return running < self._limit

    def entered(self) -> None:
        """Note that one runs: while it is open, that is the probe."""
        if self.state == "open":
            self.state, self._limit = "half-open", 1
            self.probes += 1

    def withdrawn(self) -> None:
        """Note that one was taken back before it ran."""
        if self.state == "half-open":
            self.state = "open"
            self.probes -= 1

    def learn(self, decision: Decision) -> None:
        """Note how one ended."""
        if decision.blames == self.breaker.name:
            self.failed(trips=decision.trips)
        elif decision.outcome is not Outcome.nacked:
            self.succeeded()
        elif self.state == "half-open":
            # It said nothing about the dependency: another has to find out, when its time comes.
            self._open()

    def succeeded(self) -> None:
        """Note that one went well, or failed for a reason of its own."""
        self._failures = 0
        if self.state == "half-open":
            self.state, self._limit = "ramp", 2
        elif self.state == "ramp":
            self._limit *= 2
            if self._limit > _RAMP_ENDS:
                self.state = "closed"
                logger.warning("the breaker %s is closed: what it is for is well again", self.breaker.name)

    def failed(self, *, trips: bool = False) -> None:
        """Note that one failed for the dependency's sake."""
        self._failures += 1
        if self.state == "closed":
            if trips or self._failures >= self.breaker.after:
                logger.warning(
                    "the breaker %s is open: its handlers' messages are held, and one is tried every %g seconds",
                    self.breaker.name,
                    self.breaker.probe,
                )
                self._open()
        elif self.state != "open":
            self._open()

    def _open(self) -> None:
        self.state, self._until = "open", self._clock() + self.breaker.probe
        self.opened()


def circuits_of(routes: Iterable[HandlerRoute], clock: Callable[[], float], most: int) -> dict[str, Circuit]:
    """Return the circuits by name, of which `most` may run at once while all is well.

    Raises `UsageError` for two breakers of one name that say different things.
    """
    circuits: dict[str, Circuit] = {}
    for route in routes:
        breaker = route.terms.breaker
        if breaker is None:
            continue
        there = circuits.setdefault(breaker.name, Circuit(breaker, clock, most))
        if there.breaker != breaker:
            raise UsageError(
                f"two breakers are called {breaker.name} and say different things, one of them for {route.name}: make"
                " it one object for all, or give them names of their own"
            )
    return circuits


class CircuitLimiter:
    """What the messages of a circuit's handlers pass, as they pass the other gates."""

    def __init__(self, circuit: Circuit) -> None:
        self.circuit = circuit
        self.alarm: Callable[[], None] | None = None
        """Cancels the call that looks here again, while one is due."""
        self.waiting: deque[Work] = deque()
        self._inside: set[Work] = set()
        """What runs, of what began since the last probe did."""

    def admits(self, work: Work) -> bool:  # noqa: ARG002 - as for other gates
        """Tell whether somebody could go on now."""
        return self.circuit.admits(len(self._inside))

    def enter(self, work: Work) -> None:
        """Note that somebody goes on, who may."""
        if self.circuit.state == "open":
            # What began before may hang with the dependency: it neither keeps the probe waiting nor speaks for it.
            self._inside.clear()
            self.circuit.entered()
        self._inside.add(work)

    def leave(self, work: Work) -> None:
        """Note that one came back, and how that went."""
        if work not in self._inside:
            return
        self._inside.discard(work)
        for job in work.jobs:
            if job.decision is not None:
                self.circuit.learn(job.decision)

    def withdrawn(self, work: Work) -> None:
        """Note that one was taken back before it began."""
        if work in self._inside:
            self._inside.discard(work)
            self.circuit.withdrawn()

    def opens_in(self) -> float | None:
        """Return after how many seconds somebody who waits may pass; None when that depends on those inside."""
        if not self.waiting or self.circuit.state != "open":
            return None
        return self.circuit.opens_in
