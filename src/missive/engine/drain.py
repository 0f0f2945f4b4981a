"""The drain: unstarted jobs go back to their transports, and the rest finish or, if they never do, are filed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from missive.engine.completion.dead_letters import DeadLetterWriter
from missive.engine.completion.exits import Exits
from missive.engine.dispatch.dispatcher import Dispatcher
from missive.engine.intake.admission import Admission
from missive.engine.intake.bounds import enforce_bounds
from missive.engine.intake.source import Source
from missive.engine.job import Job
from missive.engine.stages import Stages
from missive.engine.state import EngineState
from missive.engine.workers.decision import STUCK
from missive.transport import Delivery, Session

logger = logging.getLogger("missive")


class Drain:
    """Empties the stations of one engine."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        admission: Admission,
        dead_letters: DeadLetterWriter,
        exits: Exits,
        stages: Stages,
        state: EngineState,
    ) -> None:
        self._dispatcher = dispatcher
        self._admission = admission
        self.suspected: Callable[[Sequence[Job]], Awaitable[None]] | None = None
        """Notes jobs that were stuck together in a worker, so that they run alone in the next process; None without a
        store."""
        self._dead_letters = dead_letters
        self._exits = exits
        self._stages = stages
        self._state = state

    def stop_starting(self) -> None:
        """Start no more handlers."""
        self._state.draining = True
        self._dispatcher.stop()
        for stopping in self._stages.stopping:
            stopping()

    def give_back(self, left: Sequence[tuple[Source, Session, Sequence[Delivery]]]) -> None:
        """Give back unstarted jobs, and the deliveries that sessions had buffered."""
        self.stop_starting()
        jobs = self._dispatcher.withdraw()
        jobs += self._exits.withdraw(lambda _: True)
        for source, session, deliveries in left:
            source.spend_credit(len(deliveries), enforce_bounds(deliveries, source.adapter.max_body))
            jobs += self._admission.jobs_of(source, session, deliveries)
        self._exits.give_back(jobs)
        self._dispatcher.resume()

    async def file_stuck(self, hanging: Sequence[Sequence[Job]], now: float) -> None:
        """File the messages of handlers that do not return as `timeout`, and wait until their records are durable.

        Of several messages together, only one may hang. Where a store counts suspects, they run alone in the next
        process, and so does a message that blocks its loop before its own timeout. Claims of `once=` stay until they
        expire, because the effect may have happened.
        """
        filed: Counter[str] = Counter()
        suspects: list[Job] = []
        for jobs in hanging:
            owned = [job for job in jobs if job.owned]
            if self.suspected is not None and (len(jobs) > 1 or jobs[0].deadline >= now):
                suspects += owned
                continue
            for job in owned:
                if job.deadline < now:
                    job.decision, job.claim = STUCK, None
                    filed[job.handler or ""] += 1
                    self._dead_letters.add(job)
        for name, count in filed.items():
            logger.error("%s: %d messages whose handler did not return become dead letters", name, count)
        if suspects:
            logger.error("%d messages were stuck together, and run alone in the next process", len(suspects))
            if self.suspected is not None:
                await self.suspected(suspects)
        await self._dead_letters.written()

    async def finished(self) -> None:
        """Wait until every delivery is settled, except dead letters without a place to go."""
        while any(source.items > source.refused for source in self._state.sources):
            self._state.changed.clear()
            await self._state.changed.wait()
