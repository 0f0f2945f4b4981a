"""Back-pressure: a slow lane is paused at its transport before it takes the credit of the other lanes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine, Iterable, Sequence
from typing import Any

from missive.dlq.failure import describe_exception
from missive.engine.completion.settlement import Settler
from missive.engine.intake.source import Source
from missive.engine.job import Job, JobsByLane, by_lane
from missive.engine.runtime import Runtime
from missive.engine.stages import Stage
from missive.errors import Fatal, StoreError, Transient
from missive.transport import Session

_RESUME = 0.5
"""Fraction of its share at which a paused lane is resumed. The hysteresis saves calls to the transport."""

_CROWDED = 2.0

_ANSWER_SECONDS, _RETRY_SECONDS = 2.0, 0.5

logger = logging.getLogger("missive")


class Backpressure(Stage):
    """Pauses single lanes of one source, where its transport can.

    Each lane has a share of the source's credit, in messages and in bytes, and one share is left for a new lane. A lane
    with a slow handler, or with a message that waits for a retry, holds its share; the other lanes continue. A lane is
    also paused when its watermark could exceed the transport's limit.
    """

    def __init__(self, source: Source, settler: Settler, runtime: Runtime) -> None:
        self._source = source
        self._settler = settler
        self._runtime = runtime
        self._items: dict[str, int] = {}
        """Number of unsettled messages of each lane."""
        self._bytes: dict[str, int] = {}
        """Size of their bodies, in bytes."""
        self._paused: dict[str, bool] = {}
        """Lanes that are paused, each with whether the transport confirmed that. Unconfirmed ones are resumed too."""
        self._wake = asyncio.Event()
        self._calling = asyncio.Lock()
        self._resting = False
        """Whether the adapter failed a moment ago, and is not called."""

    def taken(self, source: Source, session: Session, jobs: Sequence[Job], lanes: JobsByLane) -> None:  # noqa: ARG002 - see Stage
        """Count new jobs."""
        if not session.capabilities.pauses:
            return
        for lane, of_lane in lanes.items():
            if lane is not None:
                self._items[lane] = self._items.get(lane, 0) + len(of_lane)
                self._bytes[lane] = self._bytes.get(lane, 0) + sum([len(job.delivery.body) for job in of_lane])

    def settled(self, source: Source, jobs: Sequence[Job], lost: bool) -> None:  # noqa: ARG002 - see Stage
        """Count jobs that left the engine."""
        if not self._items:
            return
        for lane, of_lane in by_lane(jobs).items():
            if lane is None or lane not in self._items:
                continue
            self._items[lane] -= len(of_lane)
            self._bytes[lane] -= sum([len(job.delivery.body) for job in of_lane])
            if not self._items[lane]:  # a transport may have ever new lanes
                del self._items[lane], self._bytes[lane]
        if any(self._usage(lane) <= _RESUME for lane in self._paused):
            self._wake.set()

    def session_lost(self, source: Source) -> None:  # noqa: ARG002 - see Stage
        """Forget which lanes are paused: a new session has none."""
        self._paused.clear()

    def forget(self, lanes: Collection[str]) -> None:
        """Forget lanes that belong to another consumer."""
        for lane in lanes:
            self._paused.pop(lane, None)

    def _usage(self, lane: str) -> float:
        """Return how much of its share a lane uses: 0 for nothing, above 1 for more than its share."""
        limits, shares = self._source.limits, len(self._items) + 1
        items, size = self._items.get(lane, 0), self._bytes.get(lane, 0)
        # A single message is no backlog, however many lanes there are.
        if items <= 1:
            return 0.0
        if self._max_watermark and self._settler.is_crowded(lane, self._max_watermark):
            return _CROWDED
        return shares * max(items / limits.total_items, size / limits.bytes)

    @property
    def _max_watermark(self) -> int:
        session = self._source.session
        return 0 if session is None else session.capabilities.max_watermark

    @property
    def paused(self) -> bool:
        """Whether any lane is paused."""
        return bool(self._paused)

    def loops(self) -> Iterable[Coroutine[Any, Any, None]]:
        """Return the loop that pauses and resumes lanes as their jobs are settled."""
        return [self._run()]

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self._resting:
                await self.apply()

    async def apply(self) -> None:
        """Pause and resume lanes now, as their usage requires."""
        async with self._calling:
            session = self._source.session
            if session is None or self._resting:
                return
            pause = [lane for lane in self._items if not self._paused.get(lane) and self._usage(lane) > 1]
            resume = [lane for lane in self._paused if self._usage(lane) <= _RESUME]
            if not pause and not resume:
                return
            # Before the call: its answer may be lost, and all messages of a lane may be settled before it.
            self._paused.update(dict.fromkeys(pause, False))
            calling = asyncio.ensure_future(self._call(session, pause, resume))
            answered = await self._runtime.within(_ANSWER_SECONDS, calling)
            error = calling.exception() if answered else None
            if not answered:
                logger.warning("%s does not answer while pausing lanes", self._source.adapter.url)
            elif isinstance(error, Fatal):
                raise error
            elif isinstance(error, (Transient, StoreError)):
                # The session is dying, which its fetch reports too. A new session has no paused lanes.
                self._paused.clear()
                return
            elif error is not None:
                # A mistake of the adapter: lanes work without being paused.
                logger.error("%s failed while pausing lanes: %s", self._source.adapter.url, describe_exception(error))
            if error is not None or not answered:
                self._resting = True
                self._runtime.call_later(_RETRY_SECONDS, self._end_rest)

    def _end_rest(self) -> None:
        self._resting = False
        self._wake.set()

    async def _call(self, session: Session, pause: Sequence[str], resume: Sequence[str]) -> None:
        if pause:
            await session.pause(pause)
            self._paused.update((lane, True) for lane in pause if lane in self._paused)
        if resume:
            await session.resume(resume)
            for lane in resume:
                self._paused.pop(lane, None)
