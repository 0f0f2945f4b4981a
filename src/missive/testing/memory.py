"""An adapter whose messages are given in memory, with a ledger of what was settled; for tests and measurements."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from missive.adapters.contract import (
    Adapter,
    Capabilities,
    Credit,
    Delivery,
    EndOfInput,
    Host,
    Item,
    Result,
    Session,
    Verb,
)
from missive.processor import Processor


class MemoryAdapter(Adapter):
    """Delivers what it was given, then ends; what is released comes again.

    `settled` is the ledger: each settlement as the transport was told it.
    """

    transport = "memory"

    def __init__(
        self,
        processor: Processor[Any],
        deliveries: Iterable[Delivery | bytes] = (),
        *,
        capabilities: Capabilities | None = None,
        ends: bool = True,
        drain: float = 25,
        rate_limit: str | None = None,
    ) -> None:
        super().__init__(processor, drain=drain, rate_limit=rate_limit)
        self.waiting: deque[Delivery] = deque(Delivery(d) if isinstance(d, bytes) else d for d in deliveries)
        self.settled: list[Item] = []
        self.capabilities = capabilities or Capabilities()
        self.ends = ends
        self.sessions = 0

    @property
    def destination(self) -> str:
        """What it is called."""
        return "memory"

    async def connect(self, host: Host) -> MemorySession:  # noqa: ARG002 - there is nothing to ask of it
        """Start delivering."""
        self.sessions += 1
        return MemorySession(self)


class MemorySession(Session):
    """One session of a `MemoryAdapter`."""

    def __init__(self, adapter: MemoryAdapter) -> None:
        super().__init__()
        self.capabilities = adapter.capabilities
        self.client = adapter.waiting
        self._adapter = adapter
        self._more = asyncio.Event()

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Return what waits, up to the credit in items."""
        waiting = self._adapter.waiting
        while not waiting:
            if self._adapter.ends:
                raise EndOfInput
            self._more.clear()
            await self._more.wait()
        return [waiting.popleft() for _ in range(min(credit.items, len(waiting)))]

    async def settle(self, items: Sequence[Item]) -> Sequence[Result]:
        """Write the ledger; a released delivery waits again."""
        self._adapter.settled.extend(items)
        released = [item.delivery for item in items if item.verb is Verb.release]
        self._adapter.waiting.extend(released)
        return [Result.confirmed] * len(items)

    async def close(self) -> None:
        """Do nothing: what was not settled is simply not in the ledger."""
