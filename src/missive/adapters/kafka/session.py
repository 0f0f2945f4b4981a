"""One membership of a group. The consumer belongs to one thread, which polls it and serves what is asked of it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from missive.adapters.kafka.consumer import KafkaConsumer
from missive.adapters.threaded import ThreadedSession
from missive.transport import (
    Capabilities,
    Credit,
    Delivery,
    Host,
    SessionStatus,
    Settlement,
    SettlementResult,
    Watermark,
)

if TYPE_CHECKING:
    from missive.adapters.kafka.adapter import KafkaAdapter

MAX_MARK = 3000
"""Bytes of gaps beside a position: a broker keeps 4096 (`offset.metadata.max.bytes`) unless it is told otherwise."""

_CLOSING = 10.0

logger = logging.getLogger("missive")


class KafkaSession(ThreadedSession):
    """A consumer in a group, on the engine's side. A lane is `topic/partition`, a position an offset."""

    capabilities = Capabilities(
        commit="cumulative", max_watermark=MAX_MARK, pauses=True, order="lane", fences=True, attempts="none"
    )

    def __init__(self, adapter: KafkaAdapter, host: Host) -> None:
        self._adapter = adapter
        self._host = host
        self._chunks: deque[tuple[list[Delivery], int]] = deque()
        self._arrival = asyncio.Event()
        self._joined = False
        self._stopped = False
        self._closed = False
        self._error: Exception | None = None
        self._consumer = KafkaConsumer(
            adapter, host, arrived=self._arrived, lost=self._lost, died=self._died, loop=asyncio.get_running_loop()
        )
        super().__init__(self._consumer)

    async def open(self, seconds: float) -> None:
        """Make the consumer, and reach the brokers. Raises `Fatal` and `Transient`."""
        await self.thread.run(self._consumer.open, seconds)
        self.client = self._consumer.client

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Return what was consumed; the first time, join the group."""
        if not self._joined:
            self._joined = True
            await self.thread.run(self._consumer.join)
        chunks = self._chunks
        while not chunks:
            self._raise_if_dead()
            self._arrival.clear()
            await self._arrival.wait()
        deliveries, size = chunks[0]
        if len(deliveries) <= credit.items and size <= credit.bytes:
            chunks.popleft()
        else:
            deliveries, size = self._first(credit)
        self._consumer.took(len(deliveries), size)
        return deliveries

    def _first(self, credit: Credit) -> tuple[list[Delivery], int]:
        """Take as much of the first chunk as there is credit for."""
        deliveries, whole = self._chunks.popleft()
        count = credit.count_fitting(deliveries)
        size = sum([len(one.body) for one in deliveries[:count]])
        if count < len(deliveries):
            self._chunks.appendleft((deliveries[count:], whole - size))
        return deliveries[:count], size

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        """Do nothing: how far a partition is done is committed, and not each message."""
        return [SettlementResult.confirmed] * len(settlements)

    async def commit(self, watermarks: Mapping[str | None, Watermark]) -> Mapping[str | None, SettlementResult]:
        """Commit offsets, with what is done beyond them as their metadata."""
        self._raise_if_dead()
        if self._closed:
            return dict.fromkeys(watermarks, SettlementResult.fenced)
        return await self.thread.run(self._consumer.commit, watermarks, self._consumer.lives())

    async def pause(self, lanes: Collection[str]) -> None:
        """Consume no more of these partitions."""
        await self.thread.run(self._consumer.pause, set(lanes), self._consumer.lives())

    async def resume(self, lanes: Collection[str]) -> None:
        """Consume these partitions again."""
        await self.thread.run(self._consumer.resume, set(lanes))

    async def status(self) -> SessionStatus:
        """Return how many messages of this member's partitions wait, as far as the client knows."""
        if self._error is not None:
            return SessionStatus(connected=False)
        return SessionStatus(lag=await self.thread.run(self._consumer.lag))

    async def stop_intake(self) -> Sequence[Delivery]:
        """Consume no more. What was consumed and not fetched is forgotten: its mark stays before it."""
        self._stopped = True
        self._drop(lambda _: True)
        await self.thread.run(self._consumer.stop)
        return ()

    async def close(self) -> None:
        """Leave the group, and end the thread; a static member stays in it until its session times out."""
        self.client = None
        self._closed = True
        leaving = asyncio.ensure_future(self._consumer.leave())
        await asyncio.wait([leaving], timeout=_CLOSING)
        if leaving.done():
            leaving.exception()  # one that fails to leave is gone all the same
        await super().close()

    def _raise_if_dead(self) -> None:
        if self._error is not None:
            # A new one each time: raised again, an exception's traceback grows.
            raise type(self._error)(str(self._error))

    # What the consumer says, on the engine's loop

    def _arrived(self, deliveries: list[Delivery], size: int) -> None:
        if self._stopped:
            self._consumer.took(len(deliveries), size)
            return
        self._chunks.append((deliveries, size))
        self._arrival.set()

    async def _lost(self, lanes: Collection[str], *, may_commit: bool) -> None:
        self._drop(lambda lane: lane in lanes)
        await self._host.lanes_lost(lanes, may_commit=may_commit, deadline=self._adapter.handover)

    def _died(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._arrival.set()

    def _drop(self, which: Callable[[str | None], bool]) -> None:
        """Forget what was handed over and not fetched of some lanes."""
        chunks = list(self._chunks)
        self._chunks.clear()
        for deliveries, size in chunks:
            rest = [delivery for delivery in deliveries if not which(delivery.lane)]
            left = sum(len(delivery.body) for delivery in rest)
            self._consumer.took(len(deliveries) - len(rest), size - left)
            if rest:
                self._chunks.append((rest, left))
