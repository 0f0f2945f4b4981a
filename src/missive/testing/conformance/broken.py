"""Adapters that are broken on purpose, around a good one: the kit must catch each."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from missive.adapters.contract import Adapter, Credit, Delivery, Host, Item, Mark, Result, Session, SessionStatus, Verb


class BrokenAdapter(Adapter):
    """Passes everything on to another adapter, but for what its kind breaks."""

    transport = "broken"
    caught_by: ClassVar[int]
    """The case that must fail."""
    kind: ClassVar[type[BrokenSession]]

    def __init__(self, inner: Adapter) -> None:
        super().__init__(inner.processor, drain=inner.drain)
        self.inner = inner

    @property
    def destination(self) -> str:
        """As the one inside."""
        return self.inner.destination

    @property
    def url(self) -> str:
        """As the one inside."""
        return self.inner.url

    async def connect(self, host: Host) -> Session:
        """Open a session inside a broken one."""
        return self.kind(await self.inner.connect(host))


class BrokenSession(Session):
    """Passes everything on."""

    def __init__(self, inner: Session) -> None:
        super().__init__()
        self.inner = inner
        self.capabilities = inner.capabilities
        self.client = inner.client

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Pass it on."""
        return await self.inner.fetch(credit)

    async def settle(self, items: Sequence[Item]) -> Sequence[Result]:
        """Pass it on."""
        return await self.inner.settle(items)

    async def commit(self, marks: Mapping[str | None, Mark]) -> Mapping[str | None, Result]:
        """Pass it on."""
        return await self.inner.commit(marks)

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[Result]:
        """Pass it on."""
        return await self.inner.extend(deliveries)

    async def pause(self, lanes: Collection[str]) -> None:
        """Pass it on."""
        await self.inner.pause(lanes)

    async def resume(self, lanes: Collection[str]) -> None:
        """Pass it on."""
        await self.inner.resume(lanes)

    async def status(self) -> SessionStatus:
        """Pass it on."""
        return await self.inner.status()

    async def stop_intake(self) -> Sequence[Delivery]:
        """Pass it on."""
        return await self.inner.stop_intake()

    async def close(self) -> None:
        """Pass it on."""
        await self.inner.close()


class _AcksEarly(BrokenSession):
    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        deliveries = await self.inner.fetch(credit)
        await self.inner.settle([Item(delivery, Verb.ack) for delivery in deliveries])
        return deliveries

    async def settle(self, items: Sequence[Item]) -> Sequence[Result]:
        good = Result.confirmed if self.capabilities.replies else Result.sent
        return [good] * len(items)


class AcksEarly(BrokenAdapter):
    """Acks what it fetches, before anybody has handled it."""

    caught_by = 8
    kind = _AcksEarly


class _Forgets(BrokenSession):
    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        while True:
            deliveries = await self.inner.fetch(credit)
            again = [delivery for delivery in deliveries if delivery.redelivered]
            await self.inner.settle([Item(delivery, Verb.ack) for delivery in again])
            if fresh := [delivery for delivery in deliveries if not delivery.redelivered]:
                return fresh


class LosesOnReconnect(BrokenAdapter):
    """Takes what comes again after a reconnect for done."""

    caught_by = 8
    kind = _Forgets


class _MixesUp(BrokenSession):
    def __init__(self, inner: Session) -> None:
        super().__init__(inner)
        self._fetched: list[Delivery] = []

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        deliveries = await self.inner.fetch(credit)
        self._fetched += deliveries
        return deliveries

    async def settle(self, items: Sequence[Item]) -> Sequence[Result]:
        # The oldest, whichever was asked for.
        oldest = [Item(delivery, item.verb) for delivery, item in zip(self._fetched, items, strict=False)]
        del self._fetched[: len(items)]
        results = list(await self.inner.settle(oldest))
        good = Result.confirmed if self.capabilities.replies else Result.sent
        return results + [good] * (len(items) - len(results))


class MixesUpSettlements(BrokenAdapter):
    """Settles the oldest message in place of the one that it is asked to."""

    caught_by = 17
    kind = _MixesUp


class _Greedy(BrokenSession):
    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        return await self.inner.fetch(Credit(credit.items * 2, credit.bytes))


class FetchesPastCredit(BrokenAdapter):
    """Fetches twice what it was asked for."""

    caught_by = 18
    kind = _Greedy


class _Leaky(BrokenSession):
    def __init__(self, inner: Session) -> None:
        super().__init__(inner)
        self._task = asyncio.ensure_future(asyncio.sleep(3600))


class LeaksTask(BrokenAdapter):
    """Starts a task for each session, and never ends it."""

    caught_by = 41
    kind = _Leaky


BROKEN: tuple[type[BrokenAdapter], ...] = (
    AcksEarly,
    LosesOnReconnect,
    MixesUpSettlements,
    FetchesPastCredit,
    LeaksTask,
)
"""All of them."""
