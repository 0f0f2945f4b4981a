"""Adapters that are broken on purpose. Each wraps a correct adapter, and the suite must catch it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import ClassVar

from missive.adapters.base import Adapter
from missive.testing.conformance.wrapping import WrappedAdapter, WrappedSession
from missive.transport import Credit, Delivery, Disposition, Session, Settlement, SettlementResult


class BrokenAdapter(WrappedAdapter):
    """An adapter whose sessions have one fault. The adapter inside supplies the rest of their behaviour."""

    caught_by: ClassVar[tuple[int, ...]]
    """Numbers of the cases that must fail."""
    kind: ClassVar[type[WrappedSession]]

    def __init__(self, inner: Adapter) -> None:
        super().__init__(inner, self.kind)


class _AcksEarly(WrappedSession):
    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        deliveries = await self.inner.fetch(credit)
        await self.inner.settle([Settlement(delivery, Disposition.ack) for delivery in deliveries])
        return deliveries

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        good = SettlementResult.confirmed if self.capabilities.replies else SettlementResult.sent
        return [good] * len(settlements)


class AcksEarly(BrokenAdapter):
    """Acks messages when it fetches them, before a handler has run."""

    caught_by = (8, 60)
    kind = _AcksEarly


class _Forgets(WrappedSession):
    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        while True:
            deliveries = await self.inner.fetch(credit)
            redelivered = [delivery for delivery in deliveries if delivery.redelivered]
            await self.inner.settle([Settlement(delivery, Disposition.ack) for delivery in redelivered])
            if fresh := [delivery for delivery in deliveries if not delivery.redelivered]:
                return fresh


class LosesOnReconnect(BrokenAdapter):
    """Acks redelivered messages after a reconnect, as if they had been handled."""

    caught_by = (8,)
    kind = _Forgets


class _MixesUp(WrappedSession):
    def __init__(self, inner: Session) -> None:
        super().__init__(inner)
        self._fetched: list[Delivery] = []

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        deliveries = await self.inner.fetch(credit)
        self._fetched += deliveries
        return deliveries

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        oldest = [
            Settlement(delivery, settlement.disposition)
            for delivery, settlement in zip(self._fetched, settlements, strict=False)
        ]
        del self._fetched[: len(settlements)]
        results = list(await self.inner.settle(oldest))
        good = SettlementResult.confirmed if self.capabilities.replies else SettlementResult.sent
        return results + [good] * (len(settlements) - len(results))


class MixesUpSettlements(BrokenAdapter):
    """Settles the oldest message instead of the requested message."""

    caught_by = (17,)
    kind = _MixesUp


class _Greedy(WrappedSession):
    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        return await self.inner.fetch(Credit(credit.items * 2, credit.bytes))


class FetchesPastCredit(BrokenAdapter):
    """Fetches twice as many messages as its credit."""

    caught_by = (18,)
    kind = _Greedy


class _Leaky(WrappedSession):
    def __init__(self, inner: Session) -> None:
        super().__init__(inner)
        self._task = asyncio.ensure_future(asyncio.sleep(3600))


class LeaksTask(BrokenAdapter):
    """Starts a task for each session and never ends the task."""

    caught_by = (41,)
    kind = _Leaky


class _Talkative(WrappedSession):
    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        deliveries = await self.inner.fetch(credit)
        for delivery in deliveries:
            logging.getLogger("missive").debug("fetched %r", delivery.body)
        return deliveries


class LogsBodies(BrokenAdapter):
    """Logs the bodies of fetched messages at the level DEBUG."""

    caught_by = (70,)
    kind = _Talkative


class _Strict(WrappedSession):
    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        deliveries = await self.inner.fetch(credit)
        for delivery in deliveries:
            for name, value in delivery.headers or ():
                (name + value).encode("ascii")
        return deliveries


class RaisesOnOddHeaders(BrokenAdapter):
    """Raises an exception at headers that are not ASCII, and delivers nothing behind them."""

    caught_by = (73,)
    kind = _Strict


BROKEN: tuple[type[BrokenAdapter], ...] = (
    AcksEarly,
    LosesOnReconnect,
    MixesUpSettlements,
    FetchesPastCredit,
    LeaksTask,
    LogsBodies,
    RaisesOnOddHeaders,
)
"""All adapters that are broken on purpose."""
