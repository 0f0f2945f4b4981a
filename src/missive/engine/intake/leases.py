"""Leases: what is held is renewed, in batches, until it is settled; what is lost is let go of."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from missive.dlq.failure import describe_exception
from missive.engine.job import Job
from missive.engine.runtime import Runtime
from missive.errors import Fatal, StoreError, Transient
from missive.transport import Session, SettlementResult

if TYPE_CHECKING:
    from missive.engine.intake.source import Source

_RENEWALS_PER_LEASE = 3
_TRIES_PER_LEASE = 10
_MOST_AT_ONCE = 1000

logger = logging.getLogger("missive")


class LeaseRenewer:
    """Keeps the leases of one source's jobs, where its transport has leases; free where it has none.

    `lost` is called with jobs whose lease went to somebody else. Leases that cannot be renewed are watched:
    `waiting` is called with the time before which whatever came and has not begun must be given back, because a
    handler that takes all of `longest`, its timeout, would not be done in time.
    """

    def __init__(
        self,
        source: Source,
        runtime: Runtime,
        longest: float,
        *,
        lost: Callable[[Sequence[Job]], None],
        waiting: Callable[[Source, float], None],
    ) -> None:
        self._source = source
        self._runtime = runtime
        self._longest = longest
        self._lost = lost
        self._waiting = waiting
        self._until: dict[Job, float] = {}
        """Until when each is surely ours."""
        self._something = asyncio.Event()

    def hold(self, session: Session, jobs: Iterable[Job]) -> None:
        """Renew the leases of these jobs from now on, if they can be."""
        capabilities = session.capabilities
        if capabilities.lease is None:
            return
        if capabilities.renewable:
            until = self._runtime.monotonic() + capabilities.lease
            self._until.update(dict.fromkeys(jobs, until))
        self._something.set()

    def let_go(self, jobs: Sequence[Job]) -> None:
        """Renew them no longer."""
        for job in jobs:
            self._until.pop(job, None)

    async def run(self) -> None:
        """Renew, until cancelled."""
        while True:
            await self._something.wait()
            session = self._source.session
            if not self._source.items or session is None:
                self._something.clear()
                if session is None and self._source.items:
                    await self._runtime.sleep(1.0)
                    self._something.set()
                continue
            lease = session.capabilities.lease or 1.0
            if session.capabilities.renewable:
                await self._runtime.sleep(lease / _TRIES_PER_LEASE)
                await self._renew(session, lease)
            else:
                spare = lease - self._longest
                pause = max(spare / _TRIES_PER_LEASE, 0.1)
                await self._runtime.sleep(pause)
                # Also what would be late before this looks again.
                self._waiting(self._source, self._runtime.monotonic() - spare + pause)

    async def _renew(self, session: Session, lease: float) -> None:
        """Renew what has less than two thirds of its lease left, and give up what has none."""
        now = self._runtime.monotonic()
        due = now + lease * (1 - 1 / _RENEWALS_PER_LEASE)
        jobs = [job for job, until in self._until.items() if until <= due and job.session is session]
        for start in range(0, len(jobs), _MOST_AT_ONCE):
            await self._extend(session, jobs[start : start + _MOST_AT_ONCE], lease)

    async def _extend(self, session: Session, jobs: Sequence[Job], lease: float) -> None:
        asked = self._runtime.monotonic()
        results = await self._asked(session, jobs, lease)
        lost = []
        for job, result in zip(jobs, results, strict=True):
            if job not in self._until:  # settled in the meantime
                continue
            if result in (SettlementResult.confirmed, SettlementResult.sent):
                # From when it was asked for, and not from the answer, which may have taken long.
                self._until[job] = asked + lease
            elif result is SettlementResult.fenced or self._until[job] <= self._runtime.monotonic():
                lost.append(job)
        if lost:
            self.let_go(lost)
            logger.warning("%s: %d leases were lost; these messages come again", self._source.adapter.url, len(lost))
            self._lost(lost)

    async def _asked(self, session: Session, jobs: Sequence[Job], lease: float) -> Sequence[SettlementResult]:
        """Ask for more time; returns the results, which are all `failed` where there was no answer of use."""
        url = self._source.adapter.url
        asking = asyncio.ensure_future(session.extend([job.delivery for job in jobs]))
        try:
            if not await self._runtime.within(lease / _RENEWALS_PER_LEASE, asking):
                logger.warning("%s does not answer while renewing leases; trying again", url)
            elif len(answered := asking.result()) == len(jobs):
                return answered
            else:
                logger.error("%s gave %d results for %d renewals; trying again", url, len(answered), len(jobs))
        except (Transient, StoreError) as trouble:
            logger.warning("%s while renewing leases; trying again", trouble)
        except Fatal:
            raise
        except Exception as error:  # noqa: BLE001 - an adapter's mistake: nothing is known to be renewed
            logger.error("%s failed while renewing leases: %s", url, describe_exception(error))  # noqa: TRY400 - no text
        return [SettlementResult.failed] * len(jobs)
