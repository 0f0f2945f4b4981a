"""Time, ids and workers as the engine sees them: injected, so that the same engine runs in a simulation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from missive.engine.execution import LoopPool, ThreadPool
from missive.engine.seats import Room
from missive.ids import new_id


class Runtime:
    """The real clock and random ids. A simulation overrides every method; nothing else in the engine knows time."""

    thread_pool: type[ThreadPool] = ThreadPool
    """The workers of sync handlers."""
    loop_pool: type[LoopPool] = LoopPool
    """The workers of async handlers."""

    monotonic: Callable[[], float] = staticmethod(time.monotonic)
    """Return seconds that only go forward. Asked for each message, and so without a method of Python's between."""

    def time(self) -> float:
        """Return seconds since 1970."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, fn: Callable[[], None]) -> Callable[[], None]:
        """Call `fn` on the running loop after some seconds; returns what cancels it."""
        return asyncio.get_running_loop().call_later(seconds, fn).cancel

    def room(self, service: str) -> Room | None:
        """Return where it is kept what this service's processes run; None for nowhere. Raises OSError."""
        return Room(service)

    def new_id(self) -> str:
        """Return a new sortable id."""
        return new_id()
