"""Leases: what is held is renewed, in batches, until it is settled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from missive.adapters.contract import Result
from missive.engine.job import Job
from missive.engine.runtime import Runtime
from missive.errors import StoreError, Transient

if TYPE_CHECKING:
    from missive.engine.intake import Source

_RENEWALS_PER_LEASE = 3

logger = logging.getLogger("missive")


class Keeper:
    """Keeps the leases of one source's jobs, where its transport has leases; free where it has none."""

    def __init__(self, source: Source, runtime: Runtime) -> None:
        self._source = source
        self._runtime = runtime
        self._held: set[Job] = set()
        self._something = asyncio.Event()

    def hold(self, jobs: Sequence[Job]) -> None:
        """Renew the leases of these jobs from now on."""
        self._held.update(jobs)
        self._something.set()

    def let_go(self, jobs: Sequence[Job]) -> None:
        """Renew them no longer."""
        self._held.difference_update(jobs)

    async def run(self) -> None:
        """Renew, until cancelled."""
        while True:
            await self._something.wait()
            jobs = list(self._held)
            if not jobs:
                self._something.clear()
                continue
            lease = jobs[0].session.capabilities.lease or 1.0
            await self._runtime.sleep(lease / _RENEWALS_PER_LEASE)
            session = self._source.session
            jobs = [job for job in self._held if job.session is session]
            if session is None or not jobs:
                continue
            try:
                results = await session.extend([job.delivery for job in jobs])
            except (Transient, StoreError) as trouble:
                logger.warning("%s while renewing leases", trouble)
                continue
            lost = [job for job, result in zip(jobs, results, strict=True) if result is Result.fenced]
            if lost:
                self.let_go(lost)
                logger.warning(
                    "%s: %d leases were lost; these messages come again", self._source.adapter.url, len(lost)
                )
