"""Runtime: the clock, ids, threads and limits of an engine, injected so that a simulation can replace them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import ParamSpec, Protocol, TypeVar

from missive.adapters.threaded import ClientThread
from missive.engine.limits import DEFAULT, Limits
from missive.engine.processes.inflight import InFlightDirectory
from missive.engine.workers.pool import Pool
from missive.engine.workers.tasks import LoopPool
from missive.engine.workers.threads import ThreadPool
from missive.ids import new_id

P = ParamSpec("P")
T = TypeVar("T")


class Client(Protocol):
    """Makes blocking calls one after the other, outside the engine's loop."""

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call and wait for its result. A cancelled call may still be made."""
        ...

    def submit(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Make a call without waiting for its result."""
        ...

    async def close(self) -> None:
        """Make the waiting calls, then end."""
        ...


class Runtime:
    """The real clock, random ids and real threads. No other part of the engine creates any of them."""

    thread_pool: Callable[..., Pool] = ThreadPool
    """Creates the workers of sync handlers."""
    loop_pool: Callable[..., Pool] = LoopPool
    """Creates the workers of async handlers."""
    client_thread: Callable[[str], Client] = ClientThread
    """Creates the named thread that calls a blocking client."""

    limits: Limits = DEFAULT
    """The limits of the engine."""

    monotonic: Callable[[], float] = staticmethod(time.monotonic)
    """Return monotonic seconds. Called for each message, and therefore not wrapped in a method."""

    def time(self) -> float:
        """Return seconds since 1970."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Wait for some seconds."""
        await asyncio.sleep(seconds)

    async def within(self, seconds: float, work: Awaitable[object]) -> bool:
        """Wait for work, and cancel it when it takes longer than some seconds. Return whether it is done."""
        working = asyncio.ensure_future(work)
        late = asyncio.ensure_future(self.sleep(seconds))
        try:
            await asyncio.wait([working, late], return_when=asyncio.FIRST_COMPLETED)
        finally:
            late.cancel()
            if not (done := working.done()):
                working.cancel()
        await asyncio.wait([late])  # so that the task does not outlive the call
        return done and not working.cancelled()

    def call_later(self, seconds: float, fn: Callable[[], None]) -> Callable[[], None]:
        """Call `fn` on the running loop after some seconds. Return a function that cancels the call."""
        return asyncio.get_running_loop().call_later(seconds, fn).cancel

    def in_flight_directory(self, service: str) -> InFlightDirectory | None:
        """Return the directory of in-flight logs; None without one. Raises OSError when it cannot be used."""
        return InFlightDirectory(service)

    def new_id(self) -> str:
        """Return a new sortable id."""
        return new_id()
