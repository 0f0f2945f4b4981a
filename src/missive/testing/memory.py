"""An adapter whose messages are given in memory, with a ledger of what was settled; for tests and measurements."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from missive.adapters.base import Adapter
from missive.app.processor import Processor
from missive.transport import (
    Capabilities,
    Credit,
    Delivery,
    Disposition,
    EndOfInput,
    Host,
    Session,
    Settlement,
    SettlementResult,
)


class MemoryAdapter(Adapter):
    """Delivers what it was given, then ends; what is released comes again, and what is delayed, with such capabilities.

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
        self.settled: list[Settlement] = []
        self.capabilities = capabilities or Capabilities()
        self.ends = ends
        self.sessions = 0

    @property
    def destination(self) -> str:
        """What it is called."""
        return "memory"

    async def connect(self, host: Host) -> MemorySession:
        """Start delivering."""
        self.sessions += 1
        return MemorySession(self, host)


class MemorySession(Session):
    """One session of a `MemoryAdapter`."""

    def __init__(self, adapter: MemoryAdapter, host: Host) -> None:
        super().__init__()
        self.capabilities = adapter.capabilities
        self.client = adapter.waiting
        self._adapter = adapter
        self._host = host
        self._more = asyncio.Event()
        self._delayed: set[asyncio.Future[None]] = set()

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Return what waits, up to the credit in items."""
        waiting = self._adapter.waiting
        while not waiting:
            if self._adapter.ends:
                raise EndOfInput
            self._more.clear()
            await self._more.wait()
        return [waiting.popleft() for _ in range(min(credit.items, len(waiting)))]

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        """Write the ledger; a released delivery waits again, and one that is delayed after its delay."""
        self._adapter.settled.extend(settlements)
        released = [settlement.delivery for settlement in settlements if settlement.disposition is Disposition.release]
        self._adapter.waiting.extend(released)
        for settlement in settlements if self.capabilities.max_delay else ():
            if settlement.disposition is Disposition.delay:
                coming = asyncio.ensure_future(self._come_again(settlement))
                self._delayed.add(coming)
                coming.add_done_callback(self._came)
        return [SettlementResult.confirmed] * len(settlements)

    async def _come_again(self, item: Settlement) -> None:
        await self._host.sleep(item.delay)
        again = msgspec.structs.replace(item.delivery, attempt=item.attempt + 1, redelivered=True)
        self._adapter.waiting.append(again)

    def _came(self, coming: asyncio.Future[None]) -> None:
        self._delayed.discard(coming)
        self._more.set()

    async def close(self) -> None:
        """Forget what was delayed: like all that was not settled it is simply not in the ledger as done."""
        for coming in self._delayed:
            coming.cancel()
