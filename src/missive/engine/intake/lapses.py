"""Lapses: messages whose handlers outlast a lease that cannot be renewed become dead letters at the third time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from missive.app.terms import HandlerRoute
from missive.dlq.contract import Store
from missive.engine.intake.source import Source
from missive.engine.job import Job, JobsByLane
from missive.engine.processes.crashes import Count, dump_counts, load_counts
from missive.engine.processes.inflight import delivery_mark
from missive.engine.runtime import Runtime
from missive.engine.stages import Stage
from missive.engine.store import StoreClient
from missive.engine.workers.decision import Decision
from missive.engine.workers.pool import Pool
from missive.errors import StoreError
from missive.messages import Message
from missive.outcome import Outcome, Reason
from missive.routing.route import Route
from missive.routing.router import Misrouted
from missive.transport import Delivery, Session

KEY = "lapses"
"""The name of the checkpoint that holds the counts."""

_MOST = 3
"""Number of lapsed leases after which a message becomes a dead letter, `poison`."""
_OUTLASTED = Decision(
    Outcome.dead_lettered,
    Reason.poison,
    detail=f"the lease ended {_MOST} times while the handler ran: raise the limit of the transport, or lower timeout=",
)

logger = logging.getLogger("missive")


class Lapses(Stage):
    """Counts the leases that ended while a handler ran, where the transport then ends the session.

    Such a message is redelivered and ends the next session too. A message that is settled is forgotten.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        find: Callable[[Message], HandlerRoute | Misrouted],
        runtime: Runtime,
    ) -> None:
        self._pools = pools
        self._find = find
        self._runtime = runtime
        self._counts: dict[int, Count] = {}
        self._counted: dict[Source, Session] = {}
        """The last session of each source whose lapses were counted."""

    def taken(self, source: Source, session: Session, jobs: Sequence[Job], lanes: JobsByLane) -> None:  # noqa: ARG002 - see Stage
        """Decide messages whose leases lapsed too often as dead letters, and count the lapses as attempts."""
        if not self._counts or session.capabilities.renewable:
            return
        for job in jobs:
            if not job.delivery.redelivered or job.decision is not None:
                continue
            count = self._counts.get(delivery_mark(job.delivery))
            if count is None:
                continue
            job.attempt = max(job.attempt, count.deaths + 1)
            if count.deaths < _MOST:
                continue
            if isinstance(route := self._find(job.message), Route) and route.discards is None:
                job.route, job.decision = route, _OUTLASTED
                logger.error(
                    "%s: the lease of a message ended %d times while its handler ran, and it becomes a dead letter",
                    route.name,
                    count.deaths,
                )

    def session_lost(self, source: Source) -> None:
        """Count the messages whose handlers outlasted the lease that ended the session, and cancel these handlers."""
        session = source.lapsed
        if session is None or session.enforced_lease is None or self._counted.get(source) is session:
            return
        self._counted[source] = session
        now, shortest = self._runtime.monotonic(), session.enforced_lease / 2
        running = [job for pool in self._pools for _, job in pool.running if job.session is session]
        late = [job for job in running if job.started is not None and now - job.started >= shortest]
        at = self._runtime.time()
        marks = [delivery_mark(job.delivery) for job in late]

        def add(counts: dict[int, Count]) -> bool:
            counts.update({mark: Count(counts.get(mark, Count(0, 0)).deaths + 1, at) for mark in marks})
            return bool(marks)

        add(self._counts)
        for job, mark in zip(late, marks, strict=True):
            logger.warning(
                "%s: the lease of a message ended while its handler ran (%d of %d times)",
                job.handler,
                self._counts[mark].deaths,
                _MOST,
            )
        self._change(add)
        for job in late:
            job.session = None  # their outcomes count no more: the messages are redelivered
        for pool in self._pools:
            pool.cancel(late)

    def filed(self, jobs: Sequence[Job]) -> None:
        """Forget quarantined messages: a later message with the same delivery mark is another message."""
        self._forget([job for job in jobs if job.decision is _OUTLASTED])

    def settled(self, source: Source, jobs: Sequence[Job], lost: bool) -> None:  # noqa: ARG002 - see Stage
        """Forget messages that are settled, but not messages that went back unhandled."""
        if self._counts and not lost:
            self._forget([job for job in jobs if job.decision is not None])

    def _forget(self, jobs: Sequence[Job]) -> None:
        marks = {delivery_mark(job.delivery) for job in jobs} & self._counts.keys() if self._counts else set()
        if marks:

            def remove(counts: dict[int, Count]) -> bool:
                return any([counts.pop(mark, None) is not None for mark in marks])  # noqa: C419 - all of them

            remove(self._counts)
            self._change(remove)

    def _change(self, change: Callable[[dict[int, Count]], bool]) -> None:
        """Make a change durable, where there is a store."""


class StoredLapses(Lapses):
    """Keeps the counts in the dead letter store too. While the store is down, they are in memory only."""

    def __init__(self, service: str, store: StoreClient, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._service = service
        self._store = store

    async def prepare(self, source: Source, deliveries: Sequence[Delivery], redelivered: bool) -> None:  # noqa: ARG002 - see Stage
        """Read the counts when a message is redelivered: another process may have counted it."""
        session = source.session
        if not redelivered or session is None or session.capabilities.lease is None or session.capabilities.renewable:
            return
        try:
            self._counts = await asyncio.wrap_future(self._store.ask(self._load))
        except StoreError as error:
            logger.warning("%s while checking for messages that outlast their lease", error)

    def _change(self, change: Callable[[dict[int, Count]], bool]) -> None:
        def apply(store: Store) -> None:
            counts = self._load(store)
            if change(counts):
                store.save_checkpoint(self._service, KEY, dump_counts(counts))

        self._store.ask(apply)

    def _load(self, store: Store) -> dict[int, Count]:
        return load_counts(store.load_checkpoint(self._service, KEY), self._runtime.time())
