"""Settlement: each transport learns the outcome of its deliveries, in batches, after the outcome is durable."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from missive.dlq.failure import describe_exception
from missive.engine.completion.deletions import find_deleted
from missive.engine.completion.exits import Exits
from missive.engine.completion.watermark import WatermarkTracker, decode
from missive.engine.intake.source import Source
from missive.engine.job import Job, JobsByLane, by_lane
from missive.engine.runtime import Runtime
from missive.engine.stages import Stage
from missive.errors import Fatal, ProcessingFailed, SourceGone, StoreError, Transient
from missive.outcome import Outcome
from missive.transport import Delivery, Disposition, Session, Settlement, SettlementResult, Watermark

_COMMIT_EVERY = 0.5
"""Time between two commits of watermarks, in seconds: redeliveries after a crash against a disk sync per batch."""
_MAX_FLUSHES, _FLUSH_PAUSE = 5, 0.2
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.5, 10.0
_BATCH = 1000
"""Maximum number of settlements in one call."""
_MAX_UNKNOWN = 3
"""How often a settlement with a lost answer is repeated, which is safe and may not help."""

logger = logging.getLogger("missive")


class Settler(Stage):
    """Settles the jobs of one source: one by one, or by watermarks where the transport commits cumulatively."""

    def __init__(self, source: Source, exits: Exits, runtime: Runtime) -> None:
        self._source = source
        self._exits = exits
        self._runtime = runtime
        self._pending: list[Job] = []
        self._wake = asyncio.Event()
        self._settling = 0
        """Number of running calls that settle one by one."""
        self._settled = asyncio.Event()
        """Set at the end of such a call."""
        self._trackers: dict[str | None, WatermarkTracker] = {}
        """The watermark of each lane."""
        self._resumed = False
        """Whether a lane began with positions that are acked beyond its watermark."""
        self._skipped: dict[str | None, int] = {}
        """The last skipped position of each lane, until the deliveries that came with it have started."""
        self._completed = asyncio.Event()
        """Set when deliveries of a lane were completed or abandoned."""
        self._commit_scheduled = False
        self._committing = asyncio.Lock()
        self._too_large: set[str | None] = set()
        self._committed_at = 0.0
        self._reported = ""
        """The last commit error that was logged: the same error is logged once."""
        self._tries: dict[Job, int] = {}
        """How often the settlement of each unsettled job was tried."""

    def replaced(self, job: Job, by: Job) -> None:
        """Let the watermark of the lane wait for another job instead."""
        if (tracker := self._trackers.get(by.delivery.lane)) is not None:
            tracker.replace(job, by)

    def add(self, jobs: Sequence[Job]) -> None:
        """Settle jobs whose outcome is durable, each with its disposition."""
        self._pending.extend(jobs)
        self._wake.set()

    def loops(self) -> Iterable[Coroutine[Any, Any, None]]:
        """Return the loop that settles jobs."""
        return [self._run()]

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._settle_pending()
            if self._uncommitted and not self._commit_scheduled:
                self._commit_scheduled = True
                self._runtime.call_later(_COMMIT_EVERY, self._commit_due)

    def _commit_due(self) -> None:
        self._commit_scheduled = False
        self._wake.set()

    async def flush(self) -> None:
        """Settle and commit everything now; repeat refused commits a few times."""
        await self._settle_pending()
        while self._settling:  # by `_run`, which is cancelled after the last flush
            self._settled.clear()
            await self._settled.wait()
        for tries in range(_MAX_FLUSHES):
            if tries:
                await self._runtime.sleep(_FLUSH_PAUSE)
            if (session := self._source.session) is not None:
                await self._commit(session)
            if session is None or not self._uncommitted:
                return

    async def _settle_pending(self) -> None:
        jobs, self._pending = self._pending, []
        if jobs and self._exits.draining:
            jobs = await self._keep_deleted(jobs)
        session = self._source.session
        ours = [] if session is None else [job for job in jobs if job.session is session]
        if len(ours) != len(jobs) or session in self._source.vanished:
            self._lose([job for job in jobs if not job.owned])
            self._exits.end_detached(self._source, [job for job in jobs if job.detached])
            ours = [job for job in ours if not job.detached]
        if session is None:
            return
        if session.capabilities.commit == "cumulative":
            self._complete(ours)
            if self._runtime.monotonic() - self._committed_at >= _COMMIT_EVERY:
                await self._commit(session)
            return
        self._settling += 1
        try:
            for start in range(0, len(ours), _BATCH):
                await self._settle(session, ours[start : start + _BATCH])
        finally:
            self._settling -= 1
            self._settled.set()

    async def _keep_deleted(self, jobs: list[Job]) -> list[Job]:
        """Keep the jobs whose messages would not be redelivered, and return the others."""
        self._settling += 1
        try:
            deleted = await find_deleted(self._source.session, jobs)
        finally:
            self._settling -= 1
            self._settled.set()
        self._exits.keep_deleted(self._source, deleted)
        return [job for job in jobs if job not in deleted]

    # One by one

    async def _settle(self, session: Session, jobs: list[Job]) -> None:
        if session in self._source.vanished:
            self._exits.end_detached(self._source, jobs)
            return
        if session is not self._source.session:  # it died during the batch before this one
            self._lose(jobs)
            return
        settlements = [
            Settlement(job.delivery, job.disposition)
            if (decision := job.decision) is None
            else Settlement(job.delivery, job.disposition, decision.outcome, decision.label)
            for job in jobs
        ]
        if session.capabilities.max_delay:
            _add_delays(settlements, jobs)
        try:
            results = await session.settle(settlements)
            if len(results) != len(settlements):
                raise ProcessingFailed(f"{len(settlements)} settlements returned {len(results)} results")  # noqa: TRY301 - handled as any mistake
        except SourceGone:
            self._source.vanish(session)
            self._exits.end_detached(self._source, jobs)
            return
        except (Transient, StoreError) as error:
            logger.warning("%s while settling; unsettled messages are redelivered", error)
            self._lose(jobs)
            await self._source.drop(session)
            return
        except Fatal:
            self._lose(jobs)
            raise
        except Exception as error:  # noqa: BLE001 - a mistake of an adapter: no settlement is certain
            logger.error("%s failed while settling: %s", self._source.adapter.url, describe_exception(error))  # noqa: TRY400 - no text
            self._lose(jobs)
            await self._source.drop(session)
            return
        sure = results.count(SettlementResult.confirmed) + results.count(SettlementResult.sent)
        if not self._tries and sure == len(results):
            self._exits.settled(self._source, jobs, 0)
        else:
            self._sort(jobs, results)

    def _sort(self, jobs: list[Job], results: Sequence[SettlementResult]) -> None:
        """Act on each result: repeat settlements that were refused for now, or whose answer was lost."""
        done, lost, again, gone = [], [], [], []
        for job, result in zip(jobs, results, strict=True):
            tries = self._tries.get(job, 0)
            if result is SettlementResult.failed or (result is SettlementResult.unknown and tries < _MAX_UNKNOWN):
                again.append(job)
            elif result in (SettlementResult.fenced, SettlementResult.unknown):
                lost.append(job)
            elif result is SettlementResult.gone:
                gone.append(job)
            else:
                done.append(job)
        for job in (*done, *gone):
            self._tries.pop(job, None)
        self._exits.settled(self._source, done, 0)
        self._lose(lost)
        if gone:
            self._exits.detach(self._source, gone)
            self._exits.end_detached(self._source, gone)
        if again:
            for job in again:
                self._tries[job] = self._tries.get(job, 0) + 1
            tries = max(self._tries[job] for job in again)
            backoff = min(_FIRST_BACKOFF * 2 ** (tries - 1), _LONGEST_BACKOFF)
            self._runtime.call_later(backoff, lambda: self.add(again))

    def _lose(self, jobs: Sequence[Job]) -> None:
        """Drop jobs that cannot be settled any more, or that may not have been settled; they are redelivered."""
        for job in jobs:
            self._tries.pop(job, None)
        if jobs:
            self._exits.settled(self._source, jobs, len(jobs))

    # By watermarks

    def taken(self, source: Source, session: Session, jobs: Sequence[Job], lanes: JobsByLane) -> None:  # noqa: ARG002 - see Stage
        """Note the deliveries of each lane, in their order."""
        if session.capabilities.commit != "cumulative":
            return
        for lane, of_lane in lanes.items():
            tracker = self._trackers.get(lane)
            if tracker is None:
                tracker = self._trackers[lane] = WatermarkTracker()
            tracker.start(of_lane)
        if self._skipped:
            self._pass_skipped()

    def fresh(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return the deliveries that are not acked beyond the watermark of their lane."""
        if not self._resumed:
            return deliveries
        trackers, skipped = self._trackers, self._skipped
        new = []
        for delivery in deliveries:
            tracker, position = trackers.get(delivery.lane), delivery.position or 0
            if tracker is None or not tracker.skips(position):
                new.append(delivery)
            else:
                skipped[delivery.lane] = position
        return new

    def _pass_skipped(self) -> None:
        """Move watermarks over skipped positions, now that the deliveries that came with them have started."""
        for lane, position in self._skipped.items():
            self._trackers[lane].skip(position)
        self._skipped.clear()
        self._wake.set()

    def _complete(self, jobs: list[Job]) -> None:
        """Complete jobs. A job keeps its credit until the watermark passes it.

        So the credit bounds the redeliveries after a restart, however long one message is held before the others.
        """
        done: list[Job] = []
        for lane, of_lane in by_lane(jobs).items():
            tracker = self._trackers.get(lane)
            if tracker is None:  # another consumer has the lane
                self._lose(of_lane)
                continue
            released = [job for job in of_lane if job.disposition is Disposition.release]
            for _ in released:
                # An unhandled message holds the watermark for the rest of the session.
                tracker.abandon()
            done += released
            ended = [job for job in of_lane if job.disposition is not Disposition.release] if released else of_lane
            done += tracker.complete(ended)
            if tracker.stuck:
                done += tracker.take_completed()
        if done:
            self._exits.settled(self._source, done, 0)
        self._completed.set()

    def is_crowded(self, lane: str, limit: int) -> bool:
        """Return whether the watermark of a lane could exceed `limit` bytes."""
        tracker = self._trackers.get(lane)
        return tracker is not None and tracker.worst_size() > limit

    def session_lost(self, source: Source) -> None:  # noqa: ARG002 - see Stage
        """Drop completed jobs whose watermark can no longer be committed; they are redelivered."""
        stale = [job for tracker in self._trackers.values() for job in tracker.take_completed()]
        self._trackers, self._resumed = {}, False
        self._completed.set()
        if stale:
            self._exits.settled(self._source, stale, len(stale))

    # Lanes that move

    def gained(self, watermarks: Mapping[str, Watermark | None]) -> list[str]:
        """Take over lanes. Return those whose data beside the position was not written by Missive."""
        foreign = []
        for lane, watermark in watermarks.items():
            self._trackers[lane] = WatermarkTracker(watermark)
            if watermark is not None and watermark.acked_beyond:
                self._resumed = True
                if decode(watermark) is None:
                    foreign.append(lane)
        return foreign

    def abandon(self, jobs: Sequence[Job]) -> None:
        """Note that jobs are not completed here."""
        for job in jobs:
            tracker = self._trackers.get(job.delivery.lane)
            if tracker is not None:
                tracker.abandon()
        self._completed.set()

    async def quiet(self, lanes: Collection[str]) -> None:
        """Wait until no message of these lanes runs or waits to be filed; then commit their watermarks."""
        while any(tracker.open for lane in lanes if (tracker := self._trackers.get(lane)) is not None):
            self._completed.clear()
            await self._completed.wait()
        await self._settle_pending()
        if (session := self._source.session) is not None:
            await self._commit(session)

    def forget(self, lanes: Collection[str]) -> list[Job]:
        """Forget lanes. Return their incomplete jobs, which are not settled any more."""
        stale: list[Job] = []
        incomplete: list[Job] = []
        for lane in lanes:
            self._skipped.pop(lane, None)
            tracker = self._trackers.pop(lane, None)
            if tracker is not None:
                stale += tracker.take_completed()
                incomplete += tracker.incomplete()
        if stale:
            # Completed jobs are in the committed watermark by now, or they are redelivered.
            self._exits.settled(self._source, stale, 0)
        return incomplete

    # Commits

    @property
    def _uncommitted(self) -> bool:
        return any(tracker.moved for tracker in self._trackers.values())

    async def _commit(self, session: Session) -> None:
        # One commit at a time: of two concurrent commits, the older one could arrive last.
        async with self._committing:
            if session is self._source.session and self._uncommitted:
                await self._commit_moved(session)

    async def _commit_moved(self, session: Session) -> None:
        moved = {lane: tracker for lane, tracker in self._trackers.items() if tracker.moved}
        watermarks: dict[str | None, Watermark] = {}
        for lane, tracker in moved.items():
            tracker.moved = False
            if (watermark := tracker.watermark(session.capabilities.max_watermark)) is not None:
                watermarks[lane] = watermark
            elif tracker.position is not None:
                self._report_too_large(lane)
        self._committed_at = self._runtime.monotonic()
        results = await self._send(session, watermarks) if watermarks else {}
        # The next commit repeats refused commits, and commits with a lost answer.
        for lane, result in results.items():
            if result in (SettlementResult.failed, SettlementResult.unknown) and lane in moved:
                moved[lane].moved = True

    async def _send(
        self, session: Session, watermarks: Mapping[str | None, Watermark]
    ) -> Mapping[str | None, SettlementResult]:
        """Commit watermarks and return the result for each lane."""
        try:
            results = await session.commit(watermarks)
        except (StoreError, Transient) as error:
            if self._reported != str(error):
                self._reported = str(error)
                logger.warning("%s: progress cannot be committed now; trying again", error)
            return dict.fromkeys(watermarks, SettlementResult.failed)
        except Fatal:
            raise
        except Exception as error:  # noqa: BLE001 - a mistake of an adapter: no commit is certain
            logger.error("%s failed while committing: %s", self._source.adapter.url, describe_exception(error))  # noqa: TRY400 - no text
            await self._source.drop(session)
            return {}
        self._reported = ""
        return results

    def _report_too_large(self, lane: str | None) -> None:
        """Report once that a watermark exceeds the transport's limit. The last committed one stands unchanged."""
        if lane not in self._too_large:
            self._too_large.add(lane)
            logger.warning(
                "%s: the watermark of %s exceeds the limit of the transport; it is committed later",
                self._source.adapter.url,
                lane,
            )


def _add_delays(settlements: Sequence[Settlement], jobs: Sequence[Job]) -> None:
    """Set the delay and the number of spent attempts of settlements that the transport delays."""
    for settlement, job in zip(settlements, jobs, strict=True):
        if settlement.disposition is Disposition.delay and job.decision is not None:
            settlement.delay = job.decision.delay
            settlement.attempt = job.attempt - (job.decision.outcome is not Outcome.retried)
