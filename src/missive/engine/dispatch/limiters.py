"""The limiters of one engine: by circuit, by handler and by source."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, TypeAlias

from missive.app.terms import HandlerRoute
from missive.engine.dispatch.circuit import CircuitLimiter, circuits_of
from missive.engine.dispatch.limiter import HELD, Limiter
from missive.engine.job import Job, Work
from missive.rates import Rate

if TYPE_CHECKING:
    from missive.engine.intake.source import Source

AnyLimiter: TypeAlias = Limiter | CircuitLimiter

_AHEAD = 2
"""How many times the concurrency is submitted to workers for a handler with a breaker. More work would start before an
opened breaker stops it."""


class Limiters:
    """Finds the limiters that work must pass."""

    def __init__(self, routes: Collection[HandlerRoute], concurrency: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.circuits = circuits_of(routes, clock, _AHEAD * concurrency)
        """The state of each dependency, by the name of its breaker."""
        self.of_circuits = {name: CircuitLimiter(circuit) for name, circuit in self.circuits.items()}
        self._circuit_of = {r: self.of_circuits[b.name] for r in routes if (b := r.terms.breaker) is not None}
        self.of_routes = {
            route: Limiter(route.terms.concurrency, route.terms.rate_limit, clock)
            for route in routes
            if route.terms.concurrency is not None or route.terms.rate_limit is not None
        }
        self.of_sources: dict[Source, Limiter] = {}
        self._rates: dict[Source, Rate] = {}

    def __bool__(self) -> bool:
        return bool(self.of_circuits or self.of_routes or self.of_sources)

    def limit(self, source: Source, rate: Rate) -> None:
        """Limit how many messages of a source start in a period."""
        self.of_sources[source] = Limiter(None, rate, self._clock)
        self._rates[source] = rate

    def batch_size(self, source: Source, size: int) -> int:
        """Return the size of batches of a source: at most what its rate ever lets pass at once."""
        rate = self._rates.get(source)
        return size if rate is None else min(size, rate.messages)

    def restrict(self, route: HandlerRoute, source: Source) -> bool:
        """Return whether any limiter applies to a route and a source."""
        return route in self.of_routes or route in self._circuit_of or source in self.of_sources

    def of(self, work: Work) -> list[AnyLimiter]:
        """Return the limiters of work."""
        route = work.route
        if route is None:
            return []
        limiters = (self._circuit_of.get(route), self.of_routes.get(route), self.of_sources.get(work.source))
        return [limiter for limiter in limiters if limiter is not None]

    def busy(self) -> dict[str, float]:
        """Return the handlers for which no parked message is needed now, each with the time in seconds."""
        busy: dict[str, float] = {}
        for route in {*self._circuit_of, *self.of_routes}:
            limiters = (self._circuit_of.get(route), self.of_routes.get(route))
            if seconds := max(limiter.busy_for() for limiter in limiters if limiter is not None):
                busy[route.name] = seconds
        return busy

    def release(self, job: Job) -> None:
        """Note that a running job leaves its source."""
        if (limiter := self.of_sources.get(job.source)) is not None:
            limiter.leave(job)

    def surplus(self, source: Source, keep: int) -> list[tuple[Work, AnyLimiter]]:
        """Take out works of a source that wait at a limiter and have no lane, the last ones of each limiter.

        About `keep` works of the source stay, and at most `HELD` at each limiter.
        """
        taken: list[tuple[Work, AnyLimiter]] = []
        limiters = [one for one in self.all if any(work.source is source for work in one.waiting)]
        most = min(HELD, keep // max(1, len(limiters)))
        for limiter in limiters:
            kept: deque[Work] = deque()
            for work in limiter.waiting:
                movable = work.source is source and all(job.lane is None for job in work.jobs)
                if movable and len(kept) >= most:
                    taken.append((work, limiter))
                else:
                    kept.append(work)
            limiter.waiting = kept
        return taken

    @property
    def all(self) -> list[AnyLimiter]:
        """All limiters."""
        return [*self.of_circuits.values(), *self.of_routes.values(), *self.of_sources.values()]
