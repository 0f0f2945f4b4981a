"""The engine's client of the dead letter store, which blocks and therefore has a thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

from missive.dlq.contract import Sink, Store
from missive.engine.runtime import Runtime
from missive.engine.state import EngineState
from missive.errors import RecordRejected, StoreError

T = TypeVar("T")

_PATIENCE = 10.0
"""Maximum time for one request to a server, in seconds."""
_SLOW_SECONDS = 7.0
"""Time after which a call is reported, in seconds. SQLite waits less for a lock, and names the lock."""
_LOOK_UP_SECONDS = 3.0
"""Maximum time that messages wait for a look-up, in seconds."""
_FIRST_PROBE, _LONGEST_PROBE = 0.5, 5.0
"""Pauses between two checks whether the store can be read again, in seconds."""

logger = logging.getLogger("missive")


class StoreClient:
    """Calls the sink of an engine on one thread, one call after the other. Every call raises `StoreError`.

    An outage begins with the first call that fails or does not answer, and ends when the store can be read and written
    again. One line reports each of them. During an outage, look-ups fail at once, and intake pauses when `max_unfiled`
    messages wait for the store.
    """

    def __init__(self, sink: Sink | None, runtime: Runtime, state: EngineState, max_unfiled: int) -> None:
        self.sink = sink
        self.waiting: list[Callable[[], int]] = []
        """Functions that return how many messages wait for the store."""
        self.paused = False
        """Whether intake must pause."""
        self._runtime = runtime
        self._state = state
        self._max_unfiled = max_unfiled
        self._faults: set[str] = set()
        """The kinds of request that the store does not answer now: `read`, `write`."""
        self._probe_pause = 0.0
        self._thread = runtime.client_thread("missive-store")
        if sink is not None:
            with suppress(AttributeError):  # a third party's sink may forbid attributes
                sink.patience = min(sink.patience, _PATIENCE)

    @property
    def down(self) -> bool:
        """Whether there is an outage."""
        return bool(self._faults)

    async def write(self, fn: Callable[[], T]) -> T:
        """Call a function that changes the store on the thread, and return its result."""
        return await self._watched("write", self._thread.run(fn))

    async def look_up(self, fn: Callable[[Store], T]) -> T:
        """Call a function that reads the store. Raises `StoreError` soon, or at once while the store cannot be read."""
        store = self._store()
        if "read" in self._faults:
            raise StoreError(f"{self._name} does not answer")
        asking = asyncio.ensure_future(self._thread.run(fn, store))
        if await self._runtime.within(_LOOK_UP_SECONDS, asking):
            try:
                return asking.result()
            except StoreError as error:
                self.failed("read", error)
                raise
        silent = StoreError(f"{self._name} does not answer")
        self.failed("read", silent)
        raise silent

    def ask(self, fn: Callable[[Store], T]) -> Future[T]:
        """Call a function with the store on the thread. Raises TypeError when the sink is no store."""
        return self._thread.submit(fn, self._store())

    async def load_checkpoint(self, service: str, source: str) -> str | None:
        """Return the checkpoint of a source; None when there is none, or no store."""
        if isinstance(self.sink, Store):
            return await self._watched("read", self._thread.run(self.sink.load_checkpoint, service, source))
        return None

    async def save_checkpoint(self, service: str, source: str, value: str) -> bool:
        """Store the checkpoint of a source; return False without a store."""
        if isinstance(self.sink, Store):
            await self._watched("write", self._thread.run(self.sink.save_checkpoint, service, source, value))
            return True
        return False

    async def close(self) -> None:
        """Close the sink and end the thread."""
        if self.sink is not None:
            await self._thread.run(self.sink.close)
        await self._thread.close()

    def _store(self) -> Store:
        if not isinstance(self.sink, Store):
            raise TypeError(f"{type(self.sink).__name__} is not a store")
        return self.sink

    @property
    def _name(self) -> str:
        return f"the dead letter store {getattr(self.sink, 'url', type(self.sink).__name__)}"

    async def _watched(self, fault: str, calling: Awaitable[T]) -> T:
        """Await a call. Report it when it takes long, and note whether it succeeds."""
        silent = StoreError(f"{self._name} does not answer")
        cancel = self._runtime.call_later(_SLOW_SECONDS, lambda: self.failed(fault, silent))
        try:
            result = await calling
        except RecordRejected:  # the store has answered
            self.succeeded(fault)
            raise
        except StoreError as error:
            self.failed(fault, error)
            raise
        finally:
            cancel()
        self.succeeded(fault)
        return result

    # The outage

    def failed(self, fault: str, error: StoreError) -> None:
        """Note that the store cannot be read or written now."""
        if not self._faults:
            logger.error("%s; messages that need it wait, unsettled, and the others run; trying again", error)
            self._probe_pause = _FIRST_PROBE
            self._runtime.call_later(self._probe_pause, self._probe)
        self._faults.add(fault)
        self.check_pause()

    def succeeded(self, fault: str) -> None:
        """Note that the store can be read; or, after a write, that it can be written too."""
        if not self._faults:
            return
        self._faults -= {"read", fault}
        if not self._faults:
            logger.warning("the dead letter store works again")
            self.check_pause()

    def check_pause(self) -> None:
        """Pause or resume intake. During an outage, call this after more messages wait for the store."""
        unfiled = sum(count() for count in self.waiting)
        paused = self.down and unfiled >= self._max_unfiled
        if paused is self.paused:
            return
        self.paused = paused
        if paused:
            logger.error("intake is paused: %d messages wait for the dead letter store, unsettled", unfiled)
        else:
            logger.warning("intake continues")
        self._state.wake_intake()

    def _probe(self) -> None:
        """Check whether the store can be read again, until it can."""
        if "read" in self._faults and isinstance(self.sink, Store):
            probing = asyncio.ensure_future(self._thread.run(self.sink.load_checkpoint, "", ""))
            probing.add_done_callback(self._probed)
        elif self._faults:
            self._runtime.call_later(self._probe_pause, self._probe)

    def _probed(self, probing: asyncio.Future[str | None]) -> None:
        if probing.cancelled():
            return
        if probing.exception() is None:
            self.succeeded("read")
        if self._faults:
            self._probe_pause = min(self._probe_pause * 2, _LONGEST_PROBE)
            self._runtime.call_later(self._probe_pause, self._probe)
