"""Circuits: the state of each breaker in this process: closed, open, half-open with one probe, then a ramp."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable

from missive.app.breaker import Breaker
from missive.app.terms import HandlerRoute
from missive.engine.dispatch.limiter import AGAIN, HELD
from missive.engine.job import Work
from missive.engine.workers.decision import Decision
from missive.errors import UsageError
from missive.outcome import Outcome

_RAMP_ENDS = 64
"""The limit of running messages at which a ramp ends and the circuit closes."""

logger = logging.getLogger("missive")


class Circuit:
    """The state of one dependency: `closed`, `open`, `half-open` (one probe) or `ramp`."""

    def __init__(self, breaker: Breaker, clock: Callable[[], float], most: int) -> None:
        self.breaker = breaker
        self.state = "closed"
        self.opened: Callable[[], None] = lambda: None
        """Called each time the circuit opens."""
        self.probes = 0
        """Number of probes so far."""
        self._clock = clock
        self._most = most
        self._failures = 0
        self._until = 0.0
        self._limit = 1
        self._probing_since = 0.0

    @property
    def up(self) -> bool:
        """Whether the circuit is closed and its handlers run without its limit."""
        return self.state == "closed"

    @property
    def opens_in(self) -> float:
        """Time until the next probe may start, in seconds; 0 when it may start now or is running."""
        return max(0.0, self._until - self._clock()) if self.state == "open" else 0.0

    @property
    def probe_age(self) -> float:
        """Time since the last probe was let through, in seconds."""
        return self._clock() - self._probing_since

    def admits(self, running: int) -> bool:
        """Return whether another message may start. `running` counts the messages that started since the last probe."""
        if self.state == "closed":
            return running < self._most
        if self.state == "open":
            return self._clock() >= self._until
        return running < self._limit

    def entered(self) -> None:
        """Note that a message starts. While the circuit is open, the message is the probe."""
        if self.state == "open":
            self.state, self._limit = "half-open", 1
            self._probing_since = self._clock()
            self.probes += 1

    def withdrawn(self) -> None:
        """Note that a message was taken back before it started."""
        if self.state == "half-open":
            self.state = "open"
            self.probes -= 1

    def learn(self, decision: Decision) -> None:
        """Note the decision about a message."""
        if decision.blames == self.breaker.name:
            self.failed(trips=decision.trips)
        elif decision.outcome is not Outcome.nacked:
            self.succeeded()
        elif self.state == "half-open":
            # A nack says nothing about the dependency. Another probe must find out.
            self._open()

    def succeeded(self) -> None:
        """Note that a message succeeded, or failed for another reason than the dependency."""
        self._failures = 0
        if self.state == "half-open":
            self.state, self._limit = "ramp", 2
        elif self.state == "ramp":
            self._limit *= 2
            if self._limit > _RAMP_ENDS:
                self.state = "closed"
                logger.warning("the breaker %s is closed: its dependency works again", self.breaker.name)

    def failed(self, *, trips: bool = False) -> None:
        """Note that a message failed because of the dependency."""
        self._failures += 1
        if self.state == "closed":
            if trips or self._failures >= self.breaker.after:
                logger.warning(
                    "the breaker %s is open: messages of its handlers are held, and one is tried every %g seconds",
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
    """Return the circuits by name. A closed circuit lets `most` messages run at once.

    Raises `UsageError` for two different breakers with the same name.
    """
    circuits: dict[str, Circuit] = {}
    for route in routes:
        breaker = route.terms.breaker
        if breaker is None:
            continue
        there = circuits.setdefault(breaker.name, Circuit(breaker, clock, most))
        if there.breaker != breaker:
            raise UsageError(
                f"two different breakers are named {breaker.name}, one of them for {route.name}. Share one Breaker"
                " object, or give the breakers different names."
            )
    return circuits


class CircuitLimiter:
    """The limiter of a circuit, which the messages of its handlers pass."""

    def __init__(self, circuit: Circuit) -> None:
        self.circuit = circuit
        self.alarm: Callable[[], None] | None = None
        """Cancels the scheduled check of this limiter; None while no check is scheduled."""
        self.waiting: deque[Work] = deque()
        self._inside: set[Work] = set()
        """The running work that started since the last probe."""

    interval = 0.0

    def admits(self, work: Work) -> bool:  # noqa: ARG002 - see Limiter
        """Return whether work may pass now."""
        return self.circuit.admits(len(self._inside))

    def enter(self, work: Work) -> None:
        """Note that work passes."""
        if self.circuit.state == "open":
            # Earlier work may hang with the dependency. It neither delays the probe nor counts for it.
            self._inside.clear()
            self.circuit.entered()
        self._inside.add(work)

    def leave(self, work: Work) -> None:
        """Note that work came back, with its decisions."""
        if work not in self._inside:
            return
        self._inside.discard(work)
        for job in work.jobs:
            if job.decision is not None:
                self.circuit.learn(job.decision)

    def withdrawn(self, work: Work) -> None:
        """Note that work was taken back before it started."""
        if work in self._inside:
            self._inside.discard(work)
            self.circuit.withdrawn()

    def opens_in(self) -> float | None:
        """Return when waiting work may pass, in seconds from now; None when that depends on running work."""
        if not self.waiting or self.circuit.state != "open":
            return None
        return self.circuit.opens_in

    def busy_for(self) -> float:
        """Return for how long no parked message is needed, in seconds: nothing of the store can be the next probe.

        0 when a parked message may start, or may wait for its turn. A probe may itself wait for a worker. The longer
        it does, the later the store is asked again.
        """
        circuit = self.circuit
        if circuit.state == "half-open":
            return min(max(AGAIN, circuit.probe_age), max(AGAIN, circuit.breaker.probe))
        if circuit.state == "open":
            return circuit.opens_in or (AGAIN if self.waiting else 0.0)
        return AGAIN if len(self.waiting) >= HELD else 0.0
