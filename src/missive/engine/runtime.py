"""Time, ids and workers as the engine sees them: injected, so that the same engine runs in a simulation."""

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
    """Where blocking calls are made one after the other, beside the engine's loop."""

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call and wait for its result. Cancelled, the call may still be made."""
        ...

    def submit(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Make a call, and wait for nothing."""
        ...

    async def close(self) -> None:
        """Make the calls that wait, then end."""
        ...


class Runtime:
    """The real clock, random ids and real threads. A simulation replaces them; nothing else in the engine has any."""

    thread_pool: Callable[..., Pool] = ThreadPool
    """Makes the workers of sync handlers."""
    loop_pool: Callable[..., Pool] = LoopPool
    """Makes the workers of async handlers."""
    client_thread: Callable[[str], Client] = ClientThread
    """Makes the thread, of a name, on which a blocking client is called."""

    limits: Limits = DEFAULT
    """How much of one source the engine holds."""

    monotonic: Callable[[], float] = staticmethod(time.monotonic)
    """Return seconds that only go forward. Asked for each message, and so without a method of Python's between."""

    def time(self) -> float:
        """Return seconds since 1970."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def within(self, seconds: float, work: Awaitable[object]) -> bool:
        """Wait for some work, but not for ever: it is cancelled when it takes longer. Tells whether it is done."""
        working = asyncio.ensure_future(work)
        late = asyncio.ensure_future(self.sleep(seconds))
        try:
            await asyncio.wait([working, late], return_when=asyncio.FIRST_COMPLETED)
        finally:
            late.cancel()
            if not working.done():
                working.cancel()
        return not working.cancelled() and working.done()

    def call_later(self, seconds: float, fn: Callable[[], None]) -> Callable[[], None]:
        """Call `fn` on the running loop after some seconds; returns what cancels it."""
        return asyncio.get_running_loop().call_later(seconds, fn).cancel

    def in_flight_directory(self, service: str) -> InFlightDirectory | None:
        """Return where it is kept what this service's processes run; None for nowhere. Raises OSError."""
        return InFlightDirectory(service)

    def new_id(self) -> str:
        """Return a new sortable id."""
        return new_id()
