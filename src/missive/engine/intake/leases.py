"""Leases: held leases are renewed in batches until their messages are settled; lost ones are dropped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from missive.dlq.failure import describe_exception
from missive.engine.completion.exits import Exits
from missive.engine.intake.source import Source
from missive.engine.job import Job, JobsByLane
from missive.engine.runtime import Runtime
from missive.engine.stages import Stage
from missive.errors import Fatal, SourceGone, StoreError, Transient
from missive.transport import Session, SettlementResult

_RENEWALS_PER_LEASE = 3
_CHECKS_PER_LEASE = 10
_BATCH = 1000
"""Maximum number of leases that are renewed in one call."""

logger = logging.getLogger("missive")


class LeaseRenewer(Stage):
    """Renews the leases of one source. A source without leases costs nothing.

    A lease that cannot be renewed is watched instead: an unstarted message goes back to the transport while there is
    still time for another consumer, namely when a handler that takes all of `longest` seconds would end too late.
    """

    def __init__(self, source: Source, exits: Exits, runtime: Runtime, longest: float) -> None:
        self._source = source
        self._exits = exits
        self._runtime = runtime
        self._longest = longest
        self._until: dict[Job, float] = {}
        """When each renewable lease ends, on the engine's clock."""
        self._wake = asyncio.Event()
        self._lost = asyncio.Event()
        """Set when the session is lost."""

    def taken(self, source: Source, session: Session, jobs: Sequence[Job], lanes: JobsByLane) -> None:  # noqa: ARG002 - see Stage
        """Renew the leases of new jobs from now on."""
        capabilities = session.capabilities
        if capabilities.lease is None:
            return
        if capabilities.renewable:
            until = self._runtime.monotonic() + capabilities.lease
            self._until.update(dict.fromkeys(jobs, until))
        self._wake.set()

    def replaced(self, job: Job, by: Job) -> None:
        """Renew the lease of the delivery for another job."""
        if (until := self._until.pop(job, None)) is not None:
            self._until[by] = until

    def session_lost(self, source: Source) -> None:  # noqa: ARG002 - see Stage
        """Stop waiting for the next check."""
        self._lost.set()

    def settled(self, source: Source, jobs: Sequence[Job], lost: bool) -> None:  # noqa: ARG002 - see Stage
        """Stop renewing the leases of jobs."""
        if self._until:
            self._drop(jobs)

    def _drop(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self._until.pop(job, None)

    def loops(self) -> Iterable[Coroutine[Any, Any, None]]:
        """Return the loop that renews leases."""
        return [self._run()]

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            session = self._source.session
            if not self._source.items or session is None:
                self._wake.clear()  # the next jobs set it again; the leases of a dead session cannot be renewed
                continue
            lease = session.capabilities.lease or 1.0
            if session.capabilities.renewable:
                await self._runtime.sleep(lease / _CHECKS_PER_LEASE)
                await self._renew(session, lease)
            else:
                # A lease that was learned while running may be shorter than a handler's timeout.
                spare = lease - self._longest if lease > self._longest else lease / 2
                pause = max(spare / _CHECKS_PER_LEASE, 0.1)
                self._lost.clear()
                if await self._runtime.within(pause, self._lost.wait()):
                    continue  # the next session may have another lease
                # Includes the messages that would be late before the next check.
                self._exits.release_waiting(self._source, self._runtime.monotonic() - spare + pause)

    async def _renew(self, session: Session, lease: float) -> None:
        """Renew the leases that have less than two thirds of their time left."""
        now = self._runtime.monotonic()
        due = now + lease * (1 - 1 / _RENEWALS_PER_LEASE)
        jobs = [job for job, until in self._until.items() if until <= due and job.session is session]
        for start in range(0, len(jobs), _BATCH):
            await self._extend(session, jobs[start : start + _BATCH], lease)

    async def _extend(self, session: Session, jobs: Sequence[Job], lease: float) -> None:
        asked = self._runtime.monotonic()
        results = await self._request(session, jobs, lease)
        lost, gone = [], []
        for job, result in zip(jobs, results, strict=True):
            if job not in self._until:  # settled in the meantime
                continue
            if result in (SettlementResult.confirmed, SettlementResult.sent):
                # The new lease counts from the request, because the answer may have taken long.
                self._until[job] = asked + lease
            elif result is SettlementResult.gone:
                gone.append(job)
            elif result is SettlementResult.fenced or self._until[job] <= self._runtime.monotonic():
                lost.append(job)
        if gone:
            self._drop(gone)
            self._exits.detach(self._source, gone)
        if lost:
            self._drop(lost)
            logger.warning(
                "%s: %d leases are lost; their messages are redelivered", self._source.adapter.url, len(lost)
            )
            self._exits.revoke(lost)

    async def _request(self, session: Session, jobs: Sequence[Job], lease: float) -> Sequence[SettlementResult]:
        """Return the results of a renewal; all `failed` when there is no usable answer."""
        url = self._source.adapter.url
        asking = asyncio.ensure_future(session.extend([job.delivery for job in jobs]))
        try:
            if not await self._runtime.within(lease / _RENEWALS_PER_LEASE, asking):
                logger.warning("%s does not answer a lease renewal; trying again", url)
            elif len(answered := asking.result()) == len(jobs):
                return answered
            else:
                logger.error(
                    "%s returned %d results for %d lease renewals; trying again", url, len(answered), len(jobs)
                )
        except SourceGone:
            self._source.vanish(session)
            return [SettlementResult.confirmed] * len(jobs)
        except (Transient, StoreError) as error:
            logger.warning("%s while renewing leases; trying again", error)
        except Fatal:
            raise
        except Exception as error:  # noqa: BLE001 - a mistake of an adapter: no renewal is certain
            logger.error("%s failed while renewing leases: %s", url, describe_exception(error))  # noqa: TRY400 - no text
        return [SettlementResult.failed] * len(jobs)
