"""The store as a source: records chosen for replay enter the engine like any other message. Nothing is republished."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from missive.adapters.base import Adapter
from missive.adapters.threaded import ClientThread, ThreadedSession
from missive.app.processor import Processor
from missive.dlq.contract import Query, RecordLease, Store
from missive.dlq.record import Record, Status
from missive.errors import StoreError, Transient
from missive.ids import new_id
from missive.outcome import Outcome
from missive.transport import (
    Capabilities,
    Credit,
    Delivery,
    Disposition,
    EndOfInput,
    Host,
    Settlement,
    SettlementResult,
)

_POLL, _LEAST_POLL = 1.0, 0.01
_LEASE = 60.0
_AT_ONCE = 100
_EXPIRE_EVERY = 60.0
"""In seconds: what is kept no longer is deleted by the running workers, a thousand at a time."""
_FILED = frozenset({Outcome.dead_lettered, Outcome.retried, Outcome.nacked})


class Tolerance:
    """How many failures a replay bears: never do more run at once than may still fail."""

    def __init__(self, failures: int | None = None) -> None:
        self._failures_left = failures
        self._running = 0

    @property
    def is_exceeded(self) -> bool:
        """Whether it has had as many failures as it bears."""
        return self._failures_left is not None and self._failures_left <= 0

    def allow(self, wanted: int) -> int:
        """Return how many of `wanted` may begin."""
        return wanted if self._failures_left is None else max(min(wanted, self._failures_left - self._running), 0)

    def start(self, count: int) -> None:
        """Count what begins."""
        self._running += count

    def finish(self, settlements: Sequence[Settlement]) -> None:
        """Count what has ended, and which of it failed."""
        self._running -= len(settlements)
        if self._failures_left is not None:
            self._failures_left -= sum(one.outcome in _FILED for one in settlements)


class ReplayAdapter(Adapter):
    """Delivers the records of a service that are queued for replay, and those that are parked and due.

    With `replay`, only those of that replay, and its input ends with them; `service` is whose records they are.
    Without, it helps out beside other sources: it takes up what operators queue, and keeps nothing alive.
    """

    transport = "dlq"

    def __init__(
        self,
        processor: Processor[Any],
        store: Store,
        *,
        replay: str | None = None,
        service: str | None = None,
        on_settled: Callable[[int], None] | None = None,
        drain: float = 25,
        rate_limit: str | None = None,
        tolerance: Tolerance | None = None,
    ) -> None:
        super().__init__(processor, drain=drain, rate_limit=rate_limit)
        self.tolerance = tolerance or Tolerance()
        self.store = store
        self.replay = replay
        self.service = service or processor.name
        self.on_settled = on_settled
        self._tokens: dict[str, str] = {}

    def add_leases(self, leases: Sequence[RecordLease]) -> None:
        """Remember what was taken up, and under which token."""
        if self.replay is not None:
            self._tokens |= {lease.record.id: lease.token for lease in leases}

    def drop_leases(self, ids: Iterable[str]) -> None:
        """Forget what was settled."""
        for one in ids:
            self._tokens.pop(one, None)

    def release_leases(self) -> None:
        """Give back what the engine did not, when it was cut short. Raises `StoreError`."""
        for token in set(self._tokens.values()):
            self.store.release_records([one for one, held in self._tokens.items() if held == token], token)
        self._tokens.clear()

    @property
    def background(self) -> bool:  # type: ignore[override]
        """Only a replay of its own is a reason to go on."""
        return self.replay is None

    @property
    def destination(self) -> str:
        """The service's dead letters."""
        return self.service

    async def connect(self, host: Host) -> ReplaySession:
        """Start taking up records."""
        return ReplaySession(self, host)


class ReplaySession(ThreadedSession):
    """Claims records under a lease, and closes them as they are handled."""

    capabilities = Capabilities(lease=_LEASE)

    def __init__(self, adapter: ReplayAdapter, host: Host) -> None:
        super().__init__(ClientThread("missive-replay"))
        self.client = adapter.store
        self._adapter = adapter
        self._host = host
        self._token = new_id()
        self._leased: deque[Delivery] = deque()
        self._patience = _POLL
        self._expire_at = host.time() + _EXPIRE_EVERY
        self._more = asyncio.Event()

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Claim records; look again when the next is due, and every second, or end where a replay's are all done."""
        tolerance = self._adapter.tolerance
        while not self._leased or not tolerance.allow(1):
            self._more.clear()
            if tolerance.is_exceeded:
                raise EndOfInput
            if not self._leased and (room := tolerance.allow(min(credit.items, _AT_ONCE))):
                await self.thread.run(self._lease_records, room)
            if self._leased and tolerance.allow(1):
                break
            if self._adapter.replay is not None and not self._leased and await self.thread.run(self._is_done):
                raise EndOfInput
            await self._pause()
        some = [self._leased.popleft() for _ in range(tolerance.allow(min(credit.items, len(self._leased))))]
        tolerance.start(len(some))
        return some

    async def _pause(self) -> None:
        """Wait until it is time to look again, or something was settled."""
        waits = [asyncio.ensure_future(self._host.sleep(self._patience)), asyncio.ensure_future(self._more.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        """Close what was handled or discarded; what failed again is in the store as dead already."""
        results = await self.thread.run(self._settle, settlements)
        self._adapter.tolerance.finish(settlements)
        self._more.set()  # the next of their lanes, perhaps
        if self._adapter.on_settled is not None:
            self._adapter.on_settled(sum(settlement.disposition is Disposition.ack for settlement in settlements))
        return results

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[SettlementResult]:
        """Keep the claims."""
        ids = [str(delivery.record_id) for delivery in deliveries]
        ours = await self.thread.run(self._asked, self._adapter.store.extend_leases, ids, self._token, _LEASE)
        return [SettlementResult.confirmed if record_id in ours else SettlementResult.fenced for record_id in ids]

    async def stop_intake(self) -> Sequence[Delivery]:
        """Return what a cancelled fetch had claimed."""
        await self.quiesce()
        left = list(self._leased)
        self._leased.clear()
        return left

    def _is_done(self) -> bool:
        """Tell whether nothing of the replay is queued any more: not here, and not with one that was killed."""
        asked = Query(replay=self._adapter.replay, service=self._adapter.service, statuses=(Status.queued,))
        return not self._asked(self._adapter.store.count, asked)

    def _lease_records(self, limit: int) -> None:
        adapter = self._adapter
        if adapter.replay is None:
            self._asked(adapter.store.advance)
            if (now := self._host.time()) >= self._expire_at:
                more = self._asked(adapter.store.expire)
                self._expire_at = now if more else now + _EXPIRE_EVERY
        leases = self._asked(adapter.store.lease_records, adapter.service, self._token, limit, _LEASE, adapter.replay)
        adapter.add_leases(leases)
        self._leased.extend(map(_delivery, leases))
        self._patience = _POLL
        if not leases and (due := self._asked(adapter.store.next_due, adapter.service)) is not None:
            self._patience = min(_POLL, max(_LEAST_POLL, due - self._host.time()))

    def _settle(self, items: Sequence[Settlement]) -> list[SettlementResult]:
        done: set[str] = set()
        for outcome, status in ((Outcome.acked, Status.resolved), (Outcome.discarded, Status.discarded)):
            ids = [str(item.delivery.record_id) for item in items if item.outcome is outcome]
            if ids:
                done |= self._asked(self._adapter.store.resolve, ids, self._token, status, "replay")
        released = [str(item.delivery.record_id) for item in items if item.disposition is Disposition.release]
        if released:
            done |= self._asked(self._adapter.store.release_records, released, self._token)
        # What failed again is dead or parked in the store by now.
        done |= {str(i.delivery.record_id) for i in items if i.disposition is Disposition.ack and i.outcome in _FILED}
        self._adapter.drop_leases(str(item.delivery.record_id) for item in items)
        return [
            SettlementResult.confirmed if str(item.delivery.record_id) in done else SettlementResult.fenced
            for item in items
        ]

    @staticmethod
    def _asked(call: Callable[..., Any], *arguments: object) -> Any:
        """Ask the store; its trouble is this session's."""
        try:
            return call(*arguments)
        except StoreError as error:
            trouble = Transient(str(error))
        raise trouble


def _delivery(lease: RecordLease) -> Delivery:
    record = lease.record
    return Delivery(
        record.body,
        headers=record.headers,
        producer_id=record.message_id,
        topic=record.topic,
        key=record.key,
        timestamp=record.sent_at,
        content_type=record.content_type,
        token=lease.token,
        attempt=record.next_attempt,
        redelivered=True,
        native=NoNative(record),
        record_id=record.id,
        record=record,
    )


class NoNative:
    """Stands in for the transport's object on a replay, and says so when it is touched."""

    def __init__(self, record: Record) -> None:
        self._where = record.origin.transport

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"context.native.{name}: this is a replay of a dead letter of {self._where}, and that transport's object"
            " is gone; ask context.native.is_replay first"
            if not name.startswith("__")
            else name
        )

    is_replay = True

    def __repr__(self) -> str:
        return "<no native object: a replay>"
