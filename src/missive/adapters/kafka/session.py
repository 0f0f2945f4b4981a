"""One membership of a group, on the engine's loop: hand out deliveries, commit, pause lanes, and leave."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence

from missive.adapters.kafka.beginnings import Beginnings
from missive.adapters.kafka.consumer import KafkaConsumer
from missive.adapters.kafka.settings import Settings
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

MAX_METADATA = 3000
"""Size limit for the metadata of an offset, in bytes. A broker's default is 4096 (`offset.metadata.max.bytes`)."""

_CLOSE_SECONDS = 10.0


class KafkaSession(ThreadedSession):
    """One consumer in a group. A lane is `topic/partition`, and a position is an offset."""

    capabilities = Capabilities(
        commit="cumulative", max_watermark=MAX_METADATA, pauses=True, order="lane", fences=True, attempts="none"
    )

    def __init__(self, settings: Settings, host: Host, beginnings: Beginnings) -> None:
        self._settings = settings
        self._host = host
        self._chunks: deque[tuple[list[Delivery], int]] = deque()
        self._arrival = asyncio.Event()
        self._joined = False
        self._stopped = False
        self._closed = False
        self._error: Exception | None = None
        self._consumer = KafkaConsumer(
            settings,
            host,
            beginnings,
            arrived=self._arrived,
            lost=self._lost,
            deleted=self._deleted,
            failed=self._failed,
            loop=asyncio.get_running_loop(),
        )
        super().__init__(self._consumer)

    async def open(self, seconds: float) -> None:
        """Create the client, and connect to the brokers within `seconds`. Raise `Fatal` and `Transient`."""
        await self.thread.run(self._consumer.open, seconds)
        self.client = self._consumer.client

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Return consumed messages. The first call joins the group."""
        if not self._joined:
            self._joined = True
            await self.thread.run(self._consumer.join)
        chunks = self._chunks
        while not chunks:
            self._raise_if_failed()
            self._arrival.clear()
            await self._arrival.wait()
        deliveries, size = chunks[0]
        if len(deliveries) <= credit.items and size <= credit.bytes:
            chunks.popleft()
        else:
            deliveries, size = self._split_first(credit)
        self._consumer.flow.fetched(len(deliveries), size)
        return deliveries

    def _split_first(self, credit: Credit) -> tuple[list[Delivery], int]:
        """Take the part of the first chunk that the credit covers."""
        deliveries, total = self._chunks.popleft()
        count = credit.count_fitting(deliveries)
        size = sum([len(one.body) for one in deliveries[:count]])
        if count < len(deliveries):
            self._chunks.appendleft((deliveries[count:], total - size))
        return deliveries[:count], size

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        """Confirm all settlements: Kafka commits watermarks of lanes, not single messages."""
        return [SettlementResult.confirmed] * len(settlements)

    async def commit(self, watermarks: Mapping[str | None, Watermark]) -> Mapping[str | None, SettlementResult]:
        """Commit offsets. Their metadata records the messages that are done beyond them."""
        self._raise_if_failed()
        if self._closed:
            return dict.fromkeys(watermarks, SettlementResult.fenced)
        return await self.thread.run(self._consumer.commit, watermarks, self._consumer.snapshot())

    async def first_positions(self, lanes: Collection[str]) -> Mapping[str, int]:
        """Return the first offset of each partition: retention deletes messages that no consumer has handled."""
        if self._error is not None or self._closed:
            return {}
        return await self.thread.run(self._consumer.first_positions, self._consumer.snapshot(), lanes)

    async def pause(self, lanes: Collection[str]) -> None:
        """Stop the delivery of lanes."""
        await self.thread.run(self._consumer.flow.pause, set(lanes), self._consumer.snapshot())

    async def resume(self, lanes: Collection[str]) -> None:
        """Continue the delivery of paused lanes."""
        await self.thread.run(self._consumer.resume, set(lanes))

    async def status(self) -> SessionStatus:
        """Return the lag of this member's partitions, as far as the client knows it."""
        if self._error is not None:
            return SessionStatus(connected=False)
        return SessionStatus(lag=await self.thread.run(self._consumer.lag))

    async def stop_intake(self) -> Sequence[Delivery]:
        """Stop consuming, and drop the messages that no fetch returned: no committed offset passes them."""
        self._stopped = True
        self._drop(lambda _: True)
        await self.thread.run(self._consumer.stop)
        return ()

    async def close(self) -> None:
        """Leave the group and end the thread. A static member stays in the group until its session times out."""
        self.client = None
        self._closed = True
        leaving = asyncio.ensure_future(self._consumer.leave())
        await asyncio.wait([leaving], timeout=_CLOSE_SECONDS)
        if leaving.done():
            leaving.exception()  # ignored: the member is gone even when leaving failed
        await super().close()

    def _raise_if_failed(self) -> None:
        if self._error is not None:
            # A new exception each time: the traceback of one that is raised again grows.
            raise type(self._error)(str(self._error))

    # Reports of the consumer, on the engine's loop

    def _arrived(self, deliveries: list[Delivery], size: int) -> None:
        if self._stopped:
            self._consumer.flow.fetched(len(deliveries), size)
            return
        self._chunks.append((deliveries, size))
        self._arrival.set()

    async def _lost(self, lanes: Collection[str], *, may_commit: bool) -> None:
        self._drop(lambda lane: lane in lanes)
        await self._host.lanes_lost(lanes, may_commit=may_commit, deadline=self._settings.handover)

    async def _deleted(self, lanes: Collection[str], buffered: Sequence[Delivery]) -> None:
        await self._host.lanes_deleted(lanes, [*self._drop(lambda lane: lane in lanes), *buffered])

    def _failed(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._arrival.set()

    def _drop(self, selects: Callable[[str | None], bool]) -> list[Delivery]:
        """Drop the messages of selected lanes that no fetch returned, and return them."""
        chunks, dropped = list(self._chunks), list[Delivery]()
        self._chunks.clear()
        for deliveries, size in chunks:
            rest = [delivery for delivery in deliveries if not selects(delivery.lane)]
            rest_size = sum(len(delivery.body) for delivery in rest)
            self._consumer.flow.fetched(len(deliveries) - len(rest), size - rest_size)
            dropped += [delivery for delivery in deliveries if selects(delivery.lane)]
            if rest:
                self._chunks.append((rest, rest_size))
        return dropped
