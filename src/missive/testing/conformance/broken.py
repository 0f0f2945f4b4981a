"""Adapters that are broken on purpose, around a good one: the kit must catch each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import ClassVar

from missive.adapters.base import Adapter
from missive.testing.conformance.wrapping import WrappedAdapter, WrappedSession
from missive.transport import Credit, Delivery, Disposition, Session, Settlement, SettlementResult


class BrokenAdapter(WrappedAdapter):
    """Passes everything on to another adapter, but for what its kind breaks."""

    caught_by: ClassVar[tuple[int, ...]]
    """The cases that must fail."""
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
    """Acks what it fetches, before anybody has handled it."""

    caught_by = (8, 60)
    kind = _AcksEarly


class _Forgets(WrappedSession):
    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        while True:
            deliveries = await self.inner.fetch(credit)
            again = [delivery for delivery in deliveries if delivery.redelivered]
            await self.inner.settle([Settlement(delivery, Disposition.ack) for delivery in again])
            if fresh := [delivery for delivery in deliveries if not delivery.redelivered]:
                return fresh


class LosesOnReconnect(BrokenAdapter):
    """Takes what comes again after a reconnect for done."""

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
        # The oldest, whichever was asked for.
        oldest = [
            Settlement(delivery, settlement.disposition)
            for delivery, settlement in zip(self._fetched, settlements, strict=False)
        ]
        del self._fetched[: len(settlements)]
        results = list(await self.inner.settle(oldest))
        good = SettlementResult.confirmed if self.capabilities.replies else SettlementResult.sent
        return results + [good] * (len(settlements) - len(results))


class MixesUpSettlements(BrokenAdapter):
    """Settles the oldest message in place of the one that it is asked to."""

    caught_by = (17,)
    kind = _MixesUp


class _Greedy(WrappedSession):
    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        return await self.inner.fetch(Credit(credit.items * 2, credit.bytes))


class FetchesPastCredit(BrokenAdapter):
    """Fetches twice what it was asked for."""

    caught_by = (18,)
    kind = _Greedy


class _Leaky(WrappedSession):
    def __init__(self, inner: Session) -> None:
        super().__init__(inner)
        self._task = asyncio.ensure_future(asyncio.sleep(3600))


class LeaksTask(BrokenAdapter):
    """Starts a task for each session, and never ends it."""

    caught_by = (41,)
    kind = _Leaky


class _Talkative(WrappedSession):
    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        deliveries = await self.inner.fetch(credit)
        for delivery in deliveries:
            logging.getLogger("missive").debug("fetched %r", delivery.body)
        return deliveries


class LogsBodies(BrokenAdapter):
    """Logs what it fetches, where only the lowest level shows it."""

    caught_by = (70,)
    kind = _Talkative


BROKEN: tuple[type[BrokenAdapter], ...] = (
    AcksEarly,
    LosesOnReconnect,
    MixesUpSettlements,
    FetchesPastCredit,
    LeaksTask,
    LogsBodies,
)
"""All of them."""
