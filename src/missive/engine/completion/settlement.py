"""Settlement: transports are told what became of their deliveries, in batches, once that is durable."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from missive.dlq.failure import describe_exception
from missive.engine.completion.watermark import WatermarkTracker, decoded
from missive.engine.job import Job, by_lane
from missive.engine.runtime import Runtime
from missive.errors import Fatal, ProcessingFailed, StoreError, Transient
from missive.outcome import Outcome
from missive.transport import Delivery, Disposition, Session, Settlement, SettlementResult, Watermark

if TYPE_CHECKING:
    from missive.engine.intake.source import Source

_COMMIT_EVERY = 0.5
"""Seconds between two commits of a mark: what may be seen again after a crash, against a disk sync per batch."""
_MOST_FLUSHES, _FLUSH_AGAIN = 5, 0.2
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
        self._watermarks: dict[str | None, WatermarkTracker] = {}
        self._resumed = False
        """Whether some lane began with gaps, of which not all may be passed yet."""
        self._skipped: dict[str | None, int] = {}
        """The last of each lane that came and was done already, until what came with it has started."""
        self._quieter = asyncio.Event()
        self._alarmed = False
        """Whether somebody will wake this when it is time for the next commit."""
        self._committing = asyncio.Lock()
        self._too_large: set[str | None] = set()
        self._committed_at = 0.0
        self._said = ""
        self._again: dict[Job, int] = {}
        """How often jobs were tried that are not settled yet, though they were."""

    def started(self, session: Session, lanes: Mapping[str | None, Sequence[Job]]) -> None:
        """Note deliveries of each lane in the order they came, where their source is settled by marks."""
        if session.capabilities.commit != "cumulative":
            return
        for lane, jobs in lanes.items():
            watermark = self._watermarks.get(lane)
            if watermark is None:
                watermark = self._watermarks[lane] = WatermarkTracker()
            watermark.start(jobs)
        if self._skipped:
            self._pass_skipped()

    def gained(self, marks: Mapping[str, Watermark | None]) -> list[str]:
        """Take up lanes where their marks are; returns those of which the gaps were written by somebody else."""
        foreign = []
        for lane, mark in marks.items():
            self._watermarks[lane] = WatermarkTracker(mark)
            if mark is not None and mark.acked_beyond:
                self._resumed = True
                if decoded(mark) is None:
                    foreign.append(lane)
        return foreign

    def fresh(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return those deliveries that no gap says are done already."""
        if not self._resumed:
            return deliveries
        watermarks, skipped = self._watermarks, self._skipped
        new = []
        for delivery in deliveries:
            watermark, position = watermarks.get(delivery.lane), delivery.position or 0
            if watermark is None or not watermark.skips(position):
                new.append(delivery)
            else:
                skipped[delivery.lane] = position
        return new

    def _pass_skipped(self) -> None:
        """Pass what no gap lets through, now that what came with it has started."""
        for lane, position in self._skipped.items():
            self._watermarks[lane].skip(position)
        self._skipped.clear()
        self._wake.set()

    def crowded(self, lane: str, most: int) -> bool:
        """Tell whether the gaps of a lane could come to more than a mark may carry."""
        watermark = self._watermarks.get(lane)
        return watermark is not None and watermark.worst() > most

    def lost(self) -> None:
        """Let go of what is done behind a mark that its dead session can no longer move: it comes again."""
        stale = [job for watermark in self._watermarks.values() for job in watermark.count_complete()]
        self._watermarks, self._resumed = {}, False
        self._quieter.set()
        if stale:
            self._settled(self._source, stale, len(stale))

    # Lanes that go to somebody else

    def let_go(self, jobs: Sequence[Job]) -> None:
        """Note that deliveries will not be completed here."""
        for job in jobs:
            watermark = self._watermarks.get(job.delivery.lane)
            if watermark is not None:
                watermark.let_go()
        self._quieter.set()

    async def quiet(self, lanes: Collection[str]) -> None:
        """Wait until nothing of these lanes runs or waits to be filed, and all of them is committed that can be."""
        while any(watermark.open for watermark in self._those(lanes)):
            self._quieter.clear()
            await self._quieter.wait()
        await self._settle_pending()
        if (session := self._source.session) is not None:
            await self._commit(session)

    def forget(self, lanes: Collection[str]) -> list[Job]:
        """Forget lanes; returns what of them was not completed: it is settled no more."""
        stale: list[Job] = []
        incomplete: list[Job] = []
        for lane in lanes:
            watermark = self._watermarks.pop(lane, None)
            if watermark is not None:
                stale += watermark.count_complete()
                incomplete += watermark.incomplete()
        if stale:
            # What is done is committed by now, with the gaps, or comes again.
            self._settled(self._source, stale, 0)
        return incomplete

    def _those(self, lanes: Collection[str]) -> list[WatermarkTracker]:
        return [watermark for lane in lanes if (watermark := self._watermarks.get(lane)) is not None]

    def add(self, jobs: Sequence[Job]) -> None:
        """Settle jobs whose outcome is durable, each as its `disposition` says."""
        self._pending.extend(jobs)
        self._wake.set()

    async def run(self) -> None:
        """Settle what is added, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._settle_pending()
            if self._uncommitted and not self._alarmed:
                self._alarmed = True
                self._runtime.call_later(_COMMIT_EVERY, self._alarm)

    def _alarm(self) -> None:
        self._alarmed = False
        self._wake.set()

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
            Settlement(job.delivery, job.disposition)
            if (decision := job.decision) is None
            else Settlement(job.delivery, job.disposition, decision.outcome, decision.label)
            for job in jobs
        ]
        if session.capabilities.max_delay:
            _add_delays(items, jobs)
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
            logger.error("%s failed while settling: %s", self._source.adapter.url, describe_exception(error))  # noqa: TRY400 - no text
            self._not_ours(jobs)
            await self._source.drop(session)
            return
        if not self._again and results.count(SettlementResult.confirmed) + results.count(SettlementResult.sent) == len(
            results
        ):
            self._settled(self._source, jobs, 0)
        else:
            self._sort(jobs, results)

    def _sort(self, jobs: list[Job], results: Sequence[SettlementResult]) -> None:
        """Do what is right for each result: try again what was refused for now, or of which nothing is known."""
        done, gone, again = [], [], []
        for job, result in zip(jobs, results, strict=True):
            tries = self._again.get(job, 0)
            if result is SettlementResult.failed or (result is SettlementResult.unknown and tries < _MOST_UNKNOWN):
                again.append(job)
            elif result in (SettlementResult.fenced, SettlementResult.unknown):
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
        done: list[Job] = []
        for lane, of_lane in by_lane(jobs).items():
            watermark = self._watermarks.get(lane)
            if watermark is None:  # it is somebody else's by now
                self._not_ours(of_lane)
                continue
            released = [job for job in of_lane if job.disposition is Disposition.release]
            for _ in released:
                # It was not handled: the mark stays before it for good.
                watermark.let_go()
            done += released
            ended = [job for job in of_lane if job.disposition is not Disposition.release] if released else of_lane
            done += watermark.complete(ended)
            if watermark.stuck:
                done += watermark.count_complete()
        if done:
            self._settled(self._source, done, 0)
        self._quieter.set()

    @property
    def _uncommitted(self) -> bool:
        return any(watermark.moved for watermark in self._watermarks.values())

    async def _commit(self, session: Session) -> None:
        # One after the other: of two at once, the one with older marks may be the last to arrive.
        async with self._committing:
            if session is self._source.session and self._uncommitted:
                await self._commit_marks(session)

    async def _commit_marks(self, session: Session) -> None:
        moved = {lane: watermark for lane, watermark in self._watermarks.items() if watermark.moved}
        marks: dict[str | None, Watermark] = {}
        for lane, watermark in moved.items():
            watermark.moved = False
            if (mark := watermark.mark(session.capabilities.max_watermark)) is not None:
                marks[lane] = mark
            elif watermark.position is not None:
                self._say_too_large(lane)
        self._committed_at = self._runtime.monotonic()
        results = await self._told(session, marks) if marks else {}
        # What was refused for now, or of which nothing is known, is committed again with the next.
        for lane, result in results.items():
            if result in (SettlementResult.failed, SettlementResult.unknown) and lane in moved:
                moved[lane].moved = True

    async def _told(
        self, session: Session, marks: Mapping[str | None, Watermark]
    ) -> Mapping[str | None, SettlementResult]:
        """Commit marks; returns what became of each."""
        try:
            results = await session.commit(marks)
        except (StoreError, Transient) as trouble:
            if self._said != str(trouble):
                self._said = str(trouble)
                logger.warning("%s: progress is not remembered now; trying again", trouble)
            return dict.fromkeys(marks, SettlementResult.failed)
        except Fatal:
            raise
        except Exception as error:  # noqa: BLE001 - an adapter's mistake: nothing is known to be committed
            logger.error("%s failed while committing: %s", self._source.adapter.url, describe_exception(error))  # noqa: TRY400 - no text
            await self._source.drop(session)
            return {}
        self._said = ""
        return results

    def _say_too_large(self, lane: str | None) -> None:
        """Say once that a mark does not fit: the one before it stands, and nothing of it is left out."""
        if lane not in self._too_large:
            self._too_large.add(lane)
            logger.warning(
                "%s: what is done out of order in %s is more than a mark may carry; it is committed later",
                self._source.adapter.url,
                lane,
            )

    async def flush(self) -> None:
        """Settle and commit all that can be, now; what is refused for the moment is tried again, a few times."""
        await self._settle_pending()
        for tries in range(_MOST_FLUSHES):
            if tries:
                await self._runtime.sleep(_FLUSH_AGAIN)
            if (session := self._source.session) is not None:
                await self._commit(session)
            if session is None or not self._uncommitted:
                return


def _add_delays(items: Sequence[Settlement], jobs: Sequence[Job]) -> None:
    """Say, of what is sent back for a while, for how long, and how many attempts were spent."""
    for item, job in zip(items, jobs, strict=True):
        if item.disposition is Disposition.delay and job.decision is not None:
            item.delay = job.decision.delay
            item.attempt = job.attempt - (job.decision.outcome is not Outcome.retried)
