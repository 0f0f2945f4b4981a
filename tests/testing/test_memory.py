"""The in-memory adapter: deliveries, and the redelivery of released messages."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from missive import Processor
from missive.testing import MemoryAdapter
from missive.transport import Credit, Disposition, Settlement


def test_a_released_delivery_wakes_a_waiting_fetch():
    """A released delivery wakes a waiting `fetch` of an adapter that does not end."""

    async def main():
        adapter = MemoryAdapter(Processor(name="t"), [b"1"], ends=False)
        session = await adapter.connect(SimpleNamespace())
        (delivery,) = await session.fetch(Credit(10, 1_000_000))
        fetching = asyncio.ensure_future(session.fetch(Credit(10, 1_000_000)))
        await asyncio.sleep(0)  # `fetch` waits
        await session.settle([Settlement(delivery, Disposition.release)])
        assert await asyncio.wait_for(fetching, 5) == [delivery]

    asyncio.run(main())
