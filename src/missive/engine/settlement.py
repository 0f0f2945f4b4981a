"""Settlement: transports are told what became of their deliveries, in batches, once that is durable."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from missive.adapters.contract import Item, Mark, Result, Session, Verb
from missive.engine.job import Job
from missive.engine.runtime import Runtime
from missive.engine.trouble import describe
from missive.errors import Fatal, ProcessingFailed, StoreError, Transient

if TYPE_CHECKING:
    from missive.engine.intake import Source

_COMMIT_EVERY = 0.5
"""Seconds between two commits of a mark: what may be seen again after a crash, against a disk sync per batch."""
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.5, 10.0
_MOST_AT_ONCE = 1000
_MOST_UNKNOWN = 3
"""So often is something settled again of which the answer was lost: that is safe, and may not help."""

logger = logging.getLogger("missive")


class Settler:
    """Settles the jobs of one source: each by itself, or by marks where the transport is cumulative.

    `settled` is called with jobs and whether the transport still knew them as ours.
    """

    def __init__(
        self, source: Source, runtime: Runtime, *, settled: Callable[[Source, Sequence[Job], int], None]
    ) -> None:
        self._source = source
        self._runtime = runtime
        self._settled = settled
        self._pending: list[Job] = []
        self._wake = asyncio.Event()
        self._watermarks: dict[str | None, Watermark] = {}
        self._behind: dict[str | None, dict[int, Job]] = {}
        self._stuck: set[str | None] = set()
        self._uncommitted = False
        self._committing = asyncio.Lock()
        self._committed_at = 0.0
        self._said = ""
        self._again: dict[Job, int] = {}
        """How often jobs were tried that are not settled yet, though they were."""

    def started(self, session: Session, jobs: Sequence[Job]) -> None:
        """Note deliveries in the order they came, where their source is settled by marks."""
        if session.capabilities.commit != "cumulative":
            return
        for job in jobs:
            self._watermarks.setdefault(job.delivery.lane, Watermark()).start(job.delivery.position or 0)

    def lost(self) -> None:
        """Let go of what is done behind a mark that its dead session can no longer move: it comes again."""
        stale = [job for behind in self._behind.values() for job in behind.values()]
        self._watermarks, self._behind, self._stuck = {}, {}, set()
        self._uncommitted = False
        if stale:
            self._settled(self._source, stale, len(stale))

    def add(self, jobs: Sequence[Job]) -> None:
        """Settle jobs whose outcome is durable, each as its `verb` says."""
        self._pending.extend(jobs)
        self._wake.set()

    async def run(self) -> None:
        """Settle what is added, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._settle_pending()
            if self._uncommitted:
                self._runtime.call_later(_COMMIT_EVERY, self._wake.set)

    async def _settle_pending(self) -> None:
        jobs, self._pending = self._pending, []
        session = self._source.session
        ours = [] if session is None else [job for job in jobs if job.session is session]
        if len(ours) != len(jobs):
            self._not_ours([job for job in jobs if not job.ours])
        if session is None:
            return
        if session.capabilities.commit == "cumulative":
            self._complete(ours)
            if self._runtime.monotonic() - self._committed_at >= _COMMIT_EVERY:
                await self._commit(session)
            return
        for start in range(0, len(ours), _MOST_AT_ONCE):
            await self._settle(session, ours[start : start + _MOST_AT_ONCE])

    async def _settle(self, session: Session, jobs: list[Job]) -> None:
        if session is not self._source.session:  # it died over those before these
            self._not_ours(jobs)
            return
        items = [
            Item(job.delivery, job.verb)
            if (decision := job.decision) is None
            else Item(job.delivery, job.verb, decision.outcome, decision.label)
            for job in jobs
        ]
        try:
            results = await session.settle(items)
            if len(results) != len(items):
                raise ProcessingFailed(f"{len(results)} results came for {len(items)} settlements")  # noqa: TRY301 - as any
        except (Transient, StoreError) as trouble:
            logger.warning("%s while settling; what was not settled comes again", trouble)
            self._not_ours(jobs)
            await self._source.drop(session)
            return
        except Fatal:
            self._not_ours(jobs)
            raise
        except Exception as error:  # noqa: BLE001 - an adapter's mistake: nothing is known to be settled
            logger.error("%s failed while settling: %s", self._source.adapter.url, describe(error))  # noqa: TRY400 - no text
            self._not_ours(jobs)
            await self._source.drop(session)
            return
        if not self._again and results.count(Result.confirmed) + results.count(Result.sent) == len(results):
            self._settled(self._source, jobs, 0)
        else:
            self._sort(jobs, results)

    def _sort(self, jobs: list[Job], results: Sequence[Result]) -> None:
        """Do what is right for each result: try again what was refused for now, or of which nothing is known."""
        done, gone, again = [], [], []
        for job, result in zip(jobs, results, strict=True):
            tries = self._again.get(job, 0)
            if result is Result.failed or (result is Result.unknown and tries < _MOST_UNKNOWN):
                again.append(job)
            elif result in (Result.fenced, Result.unknown):
                gone.append(job)
            else:
                done.append(job)
        for job in done:
            self._again.pop(job, None)
        self._settled(self._source, done, 0)
        self._not_ours(gone)
        if again:
            for job in again:
                self._again[job] = self._again.get(job, 0) + 1
            tries = max(self._again[job] for job in again)
            backoff = min(_FIRST_BACKOFF * 2 ** (tries - 1), _LONGEST_BACKOFF)
            self._runtime.call_later(backoff, lambda: self.add(again))

    def _not_ours(self, jobs: Sequence[Job]) -> None:
        """Let go of jobs that cannot be settled any more, or may not have been: they come again."""
        for job in jobs:
            self._again.pop(job, None)
        if jobs:
            self._settled(self._source, jobs, len(jobs))

    def _complete(self, jobs: list[Job]) -> None:
        """Complete jobs; those that the mark passes are settled, and the others keep their credit until it does.

        So what a restart sees again is bounded by the credit, however long one message is held before others.
        """
        for job in jobs:
            lane = job.delivery.lane
            behind = self._behind.setdefault(lane, {})
            if job.verb is Verb.release:
                # It was not handled: the mark stays before it for good, and all from there on comes again.
                self._stuck.add(lane)
            else:
                behind[job.delivery.position or 0] = job
                passed = self._watermarks[lane].complete(job.delivery.position or 0)
                # Those of a lane that is stuck were let go of before the mark passed them.
                self._settled(self._source, [behind.pop(position) for position in passed if position in behind], 0)
            if lane in self._stuck:
                done = list(behind.values()) if job.verb is not Verb.release else [*behind.values(), job]
                behind.clear()
                self._settled(self._source, done, 0)
        self._uncommitted = self._uncommitted or bool(jobs)

    async def _commit(self, session: Session) -> None:
        # One after the other: of two at once, the one with older marks may be the last to arrive.
        async with self._committing:
            if self._uncommitted and session is self._source.session:
                await self._commit_marks(session)

    async def _commit_marks(self, session: Session) -> None:
        marks = {lane: Mark(w.position) for lane, w in self._watermarks.items() if w.position is not None}
        self._committed_at = self._runtime.monotonic()
        try:
            results = await session.commit(marks) if marks else {}
        except (StoreError, Transient) as trouble:
            if self._said != str(trouble):
                self._said = str(trouble)
                logger.warning("%s: progress is not remembered now; trying again", trouble)
            return
        except Fatal:
            raise
        except Exception as error:  # noqa: BLE001 - an adapter's mistake: nothing is known to be committed
            logger.error("%s failed while committing: %s", self._source.adapter.url, describe(error))  # noqa: TRY400 - no text
            await self._source.drop(session)
            return
        # What was refused for now, or of which nothing is known, is committed again with the next.
        self._uncommitted = any(result in (Result.failed, Result.unknown) for result in results.values())
        self._said = ""

    async def flush(self) -> None:
        """Settle and commit all that can be, now."""
        await self._settle_pending()
        if self._source.session is not None:
            await self._commit(self._source.session)


class Watermark:
    """How far one lane is done: the last position before which nothing is incomplete."""

    __slots__ = ("_complete", "_order", "position")

    def __init__(self) -> None:
        self.position: int | None = None
        self._order: deque[int] = deque()
        self._complete: set[int] = set()

    def start(self, position: int) -> None:
        """Note a delivery, in the order of the lane."""
        self._order.append(position)

    def complete(self, position: int) -> list[int]:
        """Note that a delivery is done; the mark passes it once all before it are. Returns what it passed now."""
        self._complete.add(position)
        passed: list[int] = []
        while self._order and self._order[0] in self._complete:
            self.position = self._order.popleft()
            self._complete.discard(self.position)
            passed.append(self.position)
        return passed
