"""Crashes: messages that may have killed a process run alone, and become dead letters at the third death."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from missive.app.terms import HandlerRoute
from missive.dlq.failure import describe_exception
from missive.engine.dispatch.isolation import IsolatingDispatcher
from missive.engine.intake.source import Source
from missive.engine.job import Job, JobsByLane
from missive.engine.processes.inflight import InFlightDirectory, InFlightLog, delivery_mark
from missive.engine.runtime import Runtime
from missive.engine.stages import Stage
from missive.engine.store import StoreClient
from missive.engine.workers.decision import POISONED, STUCK
from missive.engine.workers.pool import Pool
from missive.errors import StoreError
from missive.messages import Message
from missive.routing.route import Route
from missive.routing.router import Misrouted
from missive.transport import Delivery, Session

if TYPE_CHECKING:
    from missive.dlq.contract import Store

KEY = "crashes"
"""The name of the checkpoint that holds the counts."""

DEADLY = 3
"""Number of deaths after which a message becomes a dead letter, `poison`."""

_MAX_COUNTS = 1000
_LAPSE = 7 * 86400.0
"""Age at which a count is forgotten, in seconds."""

logger = logging.getLogger("missive")


class Count(NamedTuple):
    """How many processes died while a message ran, and when the last one did."""

    deaths: int
    at: float
    """Seconds since 1970."""


def load_counts(checkpoint: str | None, now: float) -> dict[int, Count]:
    """Return the counts of a checkpoint by delivery mark, without lapsed ones. An unreadable checkpoint is empty."""
    try:
        counts = {
            int(name, 16): Count(int(deaths), float(at))
            for name, (deaths, at) in json.loads(checkpoint or "{}").items()
        }
    except (AttributeError, TypeError, ValueError):
        return {}
    return {mark: count for mark, count in counts.items() if now - count.at < _LAPSE}


def dump_counts(counts: dict[int, Count]) -> str:
    """Return the checkpoint of the newest thousand counts."""
    newest = sorted(counts.items(), key=lambda item: item[1].at)[-_MAX_COUNTS:]
    return json.dumps({f"{mark:016x}": count for mark, count in newest})


class Crashes(Stage):
    """Finds the messages of one service that kill their process.

    Dead processes on this machine leave their running messages in the in-flight log. The counts of deaths are in the
    dead letter store. They are read at start-up and at each redelivery, because another process may have died. A
    message that returns from its handler is forgotten.
    """

    def __init__(
        self,
        service: str,
        store: StoreClient,
        pools: Sequence[Pool],
        workers: int,
        width: int,
        dispatcher: IsolatingDispatcher,
        find: Callable[[Message], HandlerRoute | Misrouted],
        runtime: Runtime,
    ) -> None:
        self._service = service
        self._store = store
        self._pools = pools
        self._workers = workers
        """Number of workers in all pools."""
        self._width = width
        """Maximum number of messages that a worker runs at once: the size of the largest batch."""
        self._dispatcher = dispatcher
        self._find = find
        self._runtime = runtime
        self._counts: dict[int, Count] = {}
        self._directory: InFlightDirectory | None = None
        self._log: InFlightLog | None = None
        dispatcher.survived = self._forget
        dispatcher.isolated = self._isolated

    async def open(self) -> None:
        """Count what dead processes left, and open the in-flight log of this process. Raises `StoreError`."""
        try:
            self._directory = self._runtime.in_flight_directory(self._service)
        except OSError as error:
            _warn(error)
        await self._load(asyncio.wrap_future(self._store.ask(self._collect)))
        try:
            self._log = None if self._directory is None else InFlightLog(self._directory, self._workers, self._width)
        except OSError as error:
            _warn(error)
        for pool in self._pools:
            pool.in_flight = self._log

    async def refresh(self) -> None:
        """Count again what dead processes left."""
        # The outage is reported already, and the logs of dead processes stay until they are counted.
        with contextlib.suppress(StoreError):
            await self._load(self._store.look_up(self._collect))

    async def _load(self, collected: Awaitable[dict[int, Count]]) -> None:
        try:
            self._counts = await collected
        except OSError as error:
            self._directory = None
            _warn(error)

    async def prepare(self, source: Source, deliveries: Sequence[Delivery], redelivered: bool) -> None:  # noqa: ARG002 - see Stage
        """Count again when a message is redelivered: the process that had it may have died."""
        if redelivered:
            await self.refresh()

    def taken(self, source: Source, session: Session, jobs: Sequence[Job], lanes: JobsByLane) -> None:  # noqa: ARG002 - see Stage
        """Decide messages that killed too often as dead letters; let other suspects run alone."""
        if not self._counts:
            return
        for job in jobs:
            count = self._counts.get(delivery_mark(job.delivery))
            if count is None or job.decision is not None:
                continue
            if count.deaths < DEADLY:
                self._dispatcher.suspect(job)
            elif isinstance(route := self._find(job.message), Route) and route.discards is None:
                job.route, job.decision = route, POISONED
                logger.error("%s: a message killed its process %d times and becomes a dead letter", route.name, DEADLY)

    async def suspected(self, jobs: Sequence[Job]) -> None:
        """Count messages that were stuck together as suspects: alone, the culprit shows."""
        marks = [delivery_mark(job.delivery) for job in jobs]
        try:
            await asyncio.wrap_future(self._store.ask(lambda store: self._count(store, marks)))
        except (StoreError, OSError) as error:
            logger.warning("%s while noting messages that were stuck together", describe_exception(error))

    def filed(self, jobs: Sequence[Job]) -> None:
        """Forget quarantined and stuck messages: a later message with the same delivery mark is another message."""
        for job in jobs:
            if job.decision is POISONED or job.decision is STUCK:
                self._forget(job)

    def _isolated(self, jobs: Sequence[Job]) -> None:
        """Blame only a suspect that runs alone for a death, and no stuck handler."""
        if self._log is not None:
            self._log.blame(delivery_mark(jobs[0].delivery) if len(jobs) == 1 else 0)

    def stopping(self) -> None:
        """Stop counting what this process leaves in the log."""
        if self._log is not None:
            self._log.stopping()

    def close(self) -> None:
        """Remove the log."""
        if self._log is not None:
            self._log.close()

    # In the store

    def _forget(self, job: Job) -> None:
        mark = delivery_mark(job.delivery)
        if self._counts.pop(mark, None) is not None:
            self._store.ask(lambda store: self._revise(store, lambda counts: counts.pop(mark, None) is not None))

    def _collect(self, store: Store) -> dict[int, Count]:
        """Add the marks that dead processes left to the counts."""
        with contextlib.ExitStack() as stack:
            # The logs stay until their marks are counted durably: a crash in between counts a death twice, never zero
            # times.
            found = set[int]() if self._directory is None else set(stack.enter_context(self._directory.abandoned()))
            return self._count(store, found)

    def _count(self, store: Store, marks: Collection[int]) -> dict[int, Count]:
        """Add a death to the count of each mark. Return all counts."""
        now = self._runtime.time()

        def add(counts: dict[int, Count]) -> bool:
            counts.update({mark: Count(counts.get(mark, Count(0, 0)).deaths + 1, now) for mark in marks})
            return bool(marks)

        return self._revise(store, add)

    def _revise(self, store: Store, change: Callable[[dict[int, Count]], bool]) -> dict[int, Count]:
        with contextlib.ExitStack() as stack:
            if self._directory is not None:  # two processes must not overwrite each other's counts
                stack.enter_context(self._directory.exclusive())
            counts = load_counts(store.load_checkpoint(self._service, KEY), self._runtime.time())
            if change(counts):
                store.save_checkpoint(self._service, KEY, dump_counts(counts))
            return counts


def _warn(error: OSError) -> None:
    logger.warning("messages that kill their process cannot be found: %s", error.strerror or error)
