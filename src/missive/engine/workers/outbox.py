"""Outbox: finished work returns from the workers to the engine's loop, in chunks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable

from missive.engine.job import LaneRun, Work
from missive.engine.workers.decision import ACKED

CHUNK = 64
"""Number of results that wake the engine. Also the number of jobs after which a loop of async workers is yielded."""

_LANE_CHUNK = 32
"""Number of finished jobs in one lane run that wake the engine."""

_outboxes: weakref.WeakSet[Outbox] = weakref.WeakSet()


class Outbox:
    """Carries finished work to the engine's loop."""

    collect: Callable[[list[Work]], None]
    """Receives finished work, on the engine's loop; set by the assembly."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._finished: deque[Work] = deque()
        _outboxes.add(self)
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


def _end_child(work: Work) -> None:
    """End a child process that a handler forked, when the handler is over there: the parent has the messages."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    failed = any(job.decision is not ACKED for job in work.jobs)
    os._exit(1 if failed else 0)


def _in_child() -> None:
    for outbox in list(_outboxes):
        outbox.put = _end_child  # type: ignore[method-assign]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
