"""Pausing: a slow lane of a transport is paused before it takes up the credit of the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from missive.dlq.failure import describe_exception
from missive.engine.job import Job, by_lane
from missive.engine.runtime import Runtime
from missive.errors import Fatal, StoreError, Transient
from missive.transport import Session

if TYPE_CHECKING:
    from missive.engine.intake.source import Source

_RESUME = 0.5
"""A paused lane is resumed when it holds so much of its share: with hysteresis, for pausing is not free."""

_CROWDED = 2.0

_ANSWERS_WITHIN, _TRY_AGAIN = 2.0, 0.5

logger = logging.getLogger("missive")


class Pauser:
    """Pauses single lanes of one source, where its transport can.

    Each lane has a share of the source's credit, in messages and in bytes, and one share is left for a lane that
    comes new. So a lane whose handler is slow, or whose message is retried, holds what it holds, and the others go on.
    `crowded` tells of a lane, and how many bytes a mark may carry, whether that may be too little for what is here.
    """

    def __init__(self, source: Source, runtime: Runtime, crowded: Callable[[str, int], bool]) -> None:
        self._source = source
        self._crowded = crowded
        self._runtime = runtime
        self._items: dict[str, int] = {}
        self._bytes: dict[str, int] = {}
        self._paused: dict[str, bool] = {}
        """Lanes that are paused or may be, and whether the transport said so: what may be paused must be resumed."""
        self._wake = asyncio.Event()
        self._telling = asyncio.Lock()
        self._resting = False
        """Whether the adapter failed, and is left alone for a moment."""

    def took(self, lanes: Mapping[str | None, Sequence[Job]]) -> None:
        """Count what was fetched."""
        for lane, jobs in lanes.items():
            if lane is not None:
                self._items[lane] = self._items.get(lane, 0) + len(jobs)
                self._bytes[lane] = self._bytes.get(lane, 0) + sum([len(job.delivery.body) for job in jobs])

    def settled(self, jobs: Sequence[Job]) -> None:
        """Count what is done with."""
        for lane, of_lane in by_lane(jobs).items():
            if lane is None or lane not in self._items:
                continue
            self._items[lane] -= len(of_lane)
            self._bytes[lane] -= sum([len(job.delivery.body) for job in of_lane])
            if not self._items[lane]:  # there may be ever new lanes
                del self._items[lane], self._bytes[lane]
        if any(self._holds(lane) <= _RESUME for lane in self._paused):
            self._wake.set()

    def forget(self, lanes: Collection[str]) -> None:
        """Forget lanes that are somebody else's."""
        for lane in lanes:
            self._paused.pop(lane, None)

    def lost(self) -> None:
        """Forget which lanes are paused: with their session, nothing is."""
        self._paused.clear()

    def _holds(self, lane: str) -> float:
        """Return how much of its share a lane holds, from 0 for nothing; above 1 for more than that."""
        credit, shares = self._source.host.credit, len(self._items) + 1
        items, size = self._items.get(lane, 0), self._bytes.get(lane, 0)
        # One message alone is no backlog, however many lanes there are.
        if items <= 1:
            return 0.0
        if self._most and self._crowded(lane, self._most):
            return _CROWDED
        return shares * max(items / credit.items, size / credit.bytes)

    @property
    def _most(self) -> int:
        session = self._source.session
        return 0 if session is None else session.capabilities.max_watermark

    @property
    def paused(self) -> bool:
        """Whether any lane is paused."""
        return bool(self._paused)

    async def run(self) -> None:
        """Pause and resume as lanes are settled, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self._resting:
                await self.apply()

    async def apply(self) -> None:
        """Pause and resume what has to be, now."""
        async with self._telling:
            session = self._source.session
            if session is None or self._resting:
                return
            pause = [lane for lane in self._items if not self._paused.get(lane) and self._holds(lane) > 1]
            resume = [lane for lane in self._paused if self._holds(lane) <= _RESUME]
            if not pause and not resume:
                return
            # Before it is told and answered: all of a lane may be settled until then, or the answer be lost.
            self._paused.update(dict.fromkeys(pause, False))
            telling = asyncio.ensure_future(self._tell(session, pause, resume))
            answered = await self._runtime.within(_ANSWERS_WITHIN, telling)
            error = telling.exception() if answered else None
            if not answered:
                logger.warning("%s does not answer while pausing", self._source.adapter.url)
            elif isinstance(error, Fatal):
                raise error
            elif isinstance(error, (Transient, StoreError)):
                # The session is dying, which its fetch says too; nothing of it is paused then.
                self.lost()
                return
            elif error is not None:
                # An adapter's mistake: unpaused, lanes still work.
                logger.error("%s failed while pausing: %s", self._source.adapter.url, describe_exception(error))
            if error is not None or not answered:
                self._resting = True
                self._runtime.call_later(_TRY_AGAIN, self._go_on)

    def _go_on(self) -> None:
        self._resting = False
        self._wake.set()

    async def _tell(self, session: Session, pause: Sequence[str], resume: Sequence[str]) -> None:
        if pause:
            await session.pause(pause)
            self._paused.update((lane, True) for lane in pause if lane in self._paused)
        if resume:
            await session.resume(resume)
            for lane in resume:
                self._paused.pop(lane, None)
