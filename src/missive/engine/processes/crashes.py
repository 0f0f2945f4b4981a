"""Crashes: which messages ran when a process died, how often, and what is done about them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from missive.app.terms import HandlerRoute
from missive.engine.dispatch.isolation import IsolatingDispatcher
from missive.engine.processes.inflight import InFlightDirectory, InFlightLog, delivery_mark
from missive.engine.workers.decision import POISONED
from missive.errors import StoreError
from missive.routing.route import Route

if TYPE_CHECKING:
    from missive.dlq.contract import Store
    from missive.engine.completion.dead_letters import DeadLetterWriter
    from missive.engine.job import Job
    from missive.engine.runtime import Runtime
    from missive.engine.workers.pool import Pool
    from missive.messages import Message
    from missive.routing.router import Misrouted

T = TypeVar("T")

KEY = "crashes"
"""What the counts are kept as, beside the checkpoints of sources."""

DEADLY = 3
"""So many deaths convict a message."""

_MOST = 1000
_LAPSE = 7 * 86400.0

logger = logging.getLogger("missive")


class Count(NamedTuple):
    """How many processes died while a message ran, and when the last did."""

    deaths: int
    at: float


def read(kept: str | None, now: float) -> dict[int, Count]:
    """Return the counts that a store keeps, without those that have lapsed; none of what cannot be read."""
    try:
        counts = {
            int(name, 16): Count(int(deaths), float(at)) for name, (deaths, at) in json.loads(kept or "{}").items()
        }
    except (AttributeError, TypeError, ValueError):
        return {}
    return {mark: count for mark, count in counts.items() if now - count.at < _LAPSE}


def written(counts: dict[int, Count]) -> str:
    """Return counts as a store keeps them: the newest thousand."""
    newest = sorted(counts.items(), key=lambda item: item[1].at)[-_MOST:]
    return json.dumps({f"{mark:016x}": count for mark, count in newest})


class Crashes:
    """Watches over one service's messages: those that processes died of run alone, and the third time not at all.

    What ran is read from the seats of dead processes on this machine, and counted in the dead letter store: at the
    start, and whenever a message comes again, since another process may have died of it. A message that comes back
    from its handler, in whatever way, is forgotten.
    """

    def __init__(
        self,
        service: str,
        filing: DeadLetterWriter,
        runtime: Runtime,
        dispatcher: IsolatingDispatcher,
        find: Callable[[Message], HandlerRoute | Misrouted],
    ) -> None:
        self._service = service
        self._filing = filing
        self._runtime = runtime
        self._dispatcher = dispatcher
        self._find = find
        self._counts: dict[int, Count] = {}
        self._room: InFlightDirectory | None = None
        self._seats: InFlightLog | None = None
        dispatcher.survived = self._forget

    async def start(self, pools: Sequence[Pool], concurrency: int, width: int) -> None:
        """Count what dead predecessors left, and give the workers seats. Raises `StoreError`.

        `width` is how many messages a worker may run at once: those of the largest batch.
        """
        try:
            self._room = self._runtime.room(self._service)
        except OSError as trouble:
            self._warn(trouble)
        await self._look()
        try:
            self._seats = None if self._room is None else InFlightLog(self._room, len(pools) * concurrency, width)
        except OSError as trouble:
            self._warn(trouble)
        for pool in pools:
            pool.seats = self._seats

    async def look(self) -> None:
        """Count again, for another process may have died, as of a message that comes again."""
        try:
            await self._look()
        except StoreError as trouble:
            logger.warning("%s while looking for what killed other processes", trouble)

    async def _look(self) -> None:
        try:
            self._counts = await asyncio.wrap_future(self._filing.ask(self._collect))
        except OSError as trouble:
            self._room = None
            self._warn(trouble)

    def examine(self, jobs: Sequence[Job]) -> None:
        """Convict, of jobs that have just come, those that killed too often; the other suspects will run alone."""
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
                logger.error("a message for %s killed its process %d times: it is a dead letter", route.name, DEADLY)

    def filed(self, jobs: Sequence[Job]) -> None:
        """Forget those that are dead letters now: what comes after them with the same id is another message."""
        for job in jobs:
            if job.decision is POISONED:
                self._forget(job)

    def stopping(self) -> None:
        """Count nothing any more of what this process leaves."""
        if self._seats is not None:
            self._seats.stopping()

    def close(self) -> None:
        """Remove the seats."""
        if self._seats is not None:
            self._seats.close()

    # In the store

    def _forget(self, job: Job) -> None:
        mark = delivery_mark(job.delivery)
        if self._counts.pop(mark, None) is not None:
            self._filing.ask(lambda store: self._revise(store, lambda counts: counts.pop(mark, None) is not None))

    def _collect(self, store: Store) -> dict[int, Count]:
        """Add what is found in the seats of dead processes."""
        with contextlib.ExitStack() as stack:
            # Until they are counted durably: a death in between is counted twice, and never not at all.
            found = set[int]() if self._room is None else set(stack.enter_context(self._room.left()))
            now = self._runtime.time()

            def add(counts: dict[int, Count]) -> bool:
                counts.update({mark: Count(counts.get(mark, Count(0, 0)).deaths + 1, now) for mark in found})
                return bool(found)

            return self._revise(store, add)

    def _revise(self, store: Store, change: Callable[[dict[int, Count]], bool]) -> dict[int, Count]:
        with contextlib.ExitStack() as stack:
            if self._room is not None:  # so that two processes do not undo one another's counts
                stack.enter_context(self._room.alone())
            counts = read(store.load_checkpoint(self._service, KEY), self._runtime.time())
            if change(counts):
                store.save_checkpoint(self._service, KEY, written(counts))
            return counts

    @staticmethod
    def _warn(trouble: OSError) -> None:
        logger.warning("messages that kill their process will not be found: %s", trouble.strerror or trouble)
