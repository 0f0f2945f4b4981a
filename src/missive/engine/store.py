"""The engine's client of the dead letter store, which blocks and therefore has a thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from missive.dlq.contract import Sink, Store
from missive.engine.runtime import Runtime

T = TypeVar("T")


class StoreClient:
    """Calls the sink of an engine on one thread, one call after the other. Every call raises `StoreError`."""

    def __init__(self, sink: Sink | None, runtime: Runtime) -> None:
        self.sink = sink
        self._thread = runtime.client_thread("missive-store")

    async def call(self, fn: Callable[[], T]) -> T:
        """Call a function on the thread and return its result."""
        return await self._thread.run(fn)

    def ask(self, fn: Callable[[Store], T]) -> Future[T]:
        """Call a function with the store on the thread. Raises TypeError when the sink is no store."""
        if not isinstance(self.sink, Store):
            raise TypeError(f"{type(self.sink).__name__} is not a store")
        return self._thread.submit(fn, self.sink)

    async def load_checkpoint(self, service: str, source: str) -> str | None:
        """Return the checkpoint of a source; None when there is none, or no store."""
        if isinstance(self.sink, Store):
            return await self._thread.run(self.sink.load_checkpoint, service, source)
        return None

    async def save_checkpoint(self, service: str, source: str, value: str) -> bool:
        """Store the checkpoint of a source; return False without a store."""
        if isinstance(self.sink, Store):
            await self._thread.run(self.sink.save_checkpoint, service, source, value)
            return True
        return False

    async def close(self) -> None:
        """Close the sink and end the thread."""
        if self.sink is not None:
            await self._thread.run(self.sink.close)
        await self._thread.close()
