"""An in-memory adapter for tests and benchmarks, which records every settlement."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from missive.adapters.base import DEFAULT_MAX_BODY, Adapter
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
    """Delivers the given messages, and ends unless `ends` is false.

    It redelivers released messages, and delayed ones where its capabilities have a `max_delay`. `settled` has every
    settlement in order.
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
        max_body: int = DEFAULT_MAX_BODY,
    ) -> None:
        super().__init__(processor, drain=drain, rate_limit=rate_limit, max_body=max_body)
        self.waiting: deque[Delivery] = deque(Delivery(d) if isinstance(d, bytes) else d for d in deliveries)
        self.settled: list[Settlement] = []
        self.capabilities = capabilities or Capabilities()
        self.ends = ends
        self.sessions = 0

    @property
    def destination(self) -> str:
        """The name of the source."""
        return "memory"

    async def connect(self, host: Host) -> MemorySession:
        """Open a session."""
        self.sessions += 1
        return MemorySession(self, host)


class MemorySession(Session):
    """A session of a `MemoryAdapter`."""

    def __init__(self, adapter: MemoryAdapter, host: Host) -> None:
        super().__init__()
        self.capabilities = adapter.capabilities
        self.client = adapter.waiting
        self._adapter = adapter
        self._host = host
        self._more = asyncio.Event()
        self._delayed: set[asyncio.Future[None]] = set()

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Return waiting messages, up to the items of the credit."""
        waiting = self._adapter.waiting
        while not waiting:
            if self._adapter.ends:
                raise EndOfInput
            self._more.clear()
            await self._more.wait()
        return [waiting.popleft() for _ in range(min(credit.items, len(waiting)))]

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        """Record settlements. Released deliveries wait again at once, delayed ones after their delay."""
        self._adapter.settled.extend(settlements)
        released = [settlement.delivery for settlement in settlements if settlement.disposition is Disposition.release]
        if released:
            self._adapter.waiting.extend(released)
            self._more.set()
        for settlement in settlements if self.capabilities.max_delay else ():
            if settlement.disposition is Disposition.delay:
                redelivery = asyncio.ensure_future(self._redeliver(settlement))
                self._delayed.add(redelivery)
                redelivery.add_done_callback(self._redelivered)
        return [SettlementResult.confirmed] * len(settlements)

    async def _redeliver(self, item: Settlement) -> None:
        await self._host.sleep(item.delay)
        again = msgspec.structs.replace(item.delivery, attempt=item.attempt + 1, redelivered=True)
        self._adapter.waiting.append(again)

    def _redelivered(self, redelivery: asyncio.Future[None]) -> None:
        self._delayed.discard(redelivery)
        self._more.set()

    async def close(self) -> None:
        """Cancel the redelivery of delayed messages. `settled` shows only their delay."""
        for redelivery in self._delayed:
            redelivery.cancel()
