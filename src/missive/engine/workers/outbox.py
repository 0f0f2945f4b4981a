"""Outbox: finished work returns from the workers to the engine's loop, in chunks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from missive.engine.job import LaneRun, Work

CHUNK = 64
"""Number of results that wake the engine. Also the number of jobs after which a loop of async workers is yielded."""

_LANE_CHUNK = 32
"""Number of finished jobs in one lane run that wake the engine."""


class Outbox:
    """Carries finished work to the engine's loop."""

    collect: Callable[[list[Work]], None]
    """Receives finished work, on the engine's loop; set by the assembly."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._finished: deque[Work] = deque()
        self._scheduled = False
        """Whether the loop will call `deliver`."""

    def put(self, work: Work) -> None:
        """Add finished work, from any thread. The engine receives it at the next `flush` or `deliver`."""
        self._finished.append(work)
        if not self._scheduled and (
            len(self._finished) >= CHUNK or (type(work) is LaneRun and len(work.ran) >= _LANE_CHUNK)
        ):
            self.flush()

    def flush(self) -> None:
        """Wake the engine when there is finished work, from any thread."""
        if self._finished and not self._scheduled:
            self._scheduled = True
            try:
                self._loop.call_soon_threadsafe(self.deliver)
            except RuntimeError:  # the loop is closed: a forced stop left this worker running
                return

    def deliver(self) -> None:
        """Hand finished work over, on the engine's loop."""
        self._scheduled = False
        waiting, finished = self._finished, []
        while waiting:
            finished.append(waiting.popleft())
        if finished:
            self.collect(finished)
