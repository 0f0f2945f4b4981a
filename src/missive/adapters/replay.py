"""The dead letter store as a source: the engine handles replayed records like any other message."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from missive.adapters.base import Adapter
from missive.adapters.orphans import Orphans
from missive.adapters.threaded import ClientThread, ThreadedSession
from missive.app.processor import Processor
from missive.dlq.contract import Query, RecordLease, Store
from missive.dlq.record import Record, Status
from missive.errors import StoreError, StoreRefused
from missive.ids import new_id
from missive.outcome import Outcome, Reason
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

_POLL = 1.0
"""Poll interval without a due record, in seconds."""
_MIN_POLL = 0.01
"""Shortest wait for a due record, in seconds."""
_LEASE = 60.0
"""Record lease, in seconds."""
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 2.0
"""Pauses between two tries while the store fails, in seconds."""
_GRACE = 2 * _LONGEST_BACKOFF
"""Time after an outage in which nothing is leased, so that every worker can write its results first, in seconds."""
_MAX_LEASED = 100
"""Maximum number of records in one lease call."""
_POSTPONED, _PORTIONS = 1000, 10
"""Number of records of busy handlers that are postponed in one call, and number of calls before a lease call."""
_EXPIRE_EVERY = 60.0
"""Interval at which workers delete expired records, in seconds."""
_NO_BODY = "the body was too large to keep, so that only an edited body can run"
_FILED = frozenset({Outcome.dead_lettered, Outcome.retried, Outcome.nacked})
"""Outcomes after which the store already has the record as dead or parked."""


T = TypeVar("T")

logger = logging.getLogger("missive")


class Tolerance:
    """The limit on failures of a replay. Never more messages run at once than may still fail."""

    def __init__(self, failures: int | None = None) -> None:
        self._failures_left = failures
        self._running = 0

    @property
    def is_exceeded(self) -> bool:
        """Whether the failures have reached the limit."""
        return self._failures_left is not None and self._failures_left <= 0

    def allow(self, wanted: int) -> int:
        """Return how many of `wanted` messages may start."""
        return wanted if self._failures_left is None else max(min(wanted, self._failures_left - self._running), 0)

    def start(self, count: int) -> None:
        """Count messages that start."""
        self._running += count

    def finish(self, settlements: Sequence[Settlement]) -> None:
        """Count messages that finished, and the failures among them."""
        self._running -= len(settlements)
        if self._failures_left is not None:
            self._failures_left -= sum(one.outcome in _FILED for one in settlements)


class ReplayAdapter(Adapter):
    """Delivers the queued records of a service, and its parked records that are due.

    With `replay`, the adapter delivers the records of this replay only, and its input ends after them. `service` is the
    owner of the records. Without `replay`, the adapter is a background source: it delivers the records that operators
    queue until the other sources end.
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
        rate_limit: str | None = None,
        tolerance: Tolerance | None = None,
    ) -> None:
        super().__init__(processor, rate_limit=rate_limit, max_body=sys.maxsize)  # its source had a bound
        self.tolerance = tolerance or Tolerance()
        self.store = store
        self.replay = replay
        self.service = service or processor.name
        self.on_settled = on_settled
        self.busy: Callable[[], Mapping[str, float]] = dict
        """Returns the handlers whose records stay in the store, each with the time in seconds; the engine sets it."""
        self.unwritten: dict[str, asyncio.Future[None]] = {}
        """The records that the engine has adopted and that are not durable yet."""
        self._tokens: dict[str, str] = {}

    def add_leases(self, leases: Sequence[RecordLease]) -> None:
        """Record the leases of this replay's records."""
        if self.replay is not None:
            self._tokens |= {lease.record.id: lease.token for lease in leases}

    def drop_leases(self, ids: Iterable[str]) -> None:
        """Forget the leases of settled records."""
        for one in ids:
            self._tokens.pop(one, None)

    def release_leases(self) -> None:
        """Release the leases that remain after a forced stop. Raise `StoreError` on failure."""
        for token in set(self._tokens.values()):
            self.store.release_records([one for one, other in self._tokens.items() if other == token], token)
        self._tokens.clear()

    @property
    def background(self) -> bool:  # type: ignore[override]
        """Whether this adapter has no replay to finish."""
        return self.replay is None

    @property
    def destination(self) -> str:
        """The service that owns the records."""
        return self.service

    async def connect(self, host: Host) -> ReplaySession:
        """Open a session."""
        return ReplaySession(self, host)


class ReplaySession(ThreadedSession):
    """A session that leases records and closes them after they are handled."""

    capabilities = Capabilities(lease=_LEASE)

    def __init__(self, adapter: ReplayAdapter, host: Host) -> None:
        super().__init__(ClientThread("missive-replay"))
        self.client = adapter.store
        self._adapter = adapter
        self._host = host
        self._token = new_id()
        self._leased: deque[Delivery] = deque()
        self._poll_delay = _POLL
        self._expire_at = host.time() + _EXPIRE_EVERY
        self._more = asyncio.Event()
        self._busy: Mapping[str, float] = {}
        """What `ReplayAdapter.busy` returned last."""
        self._orphans: Orphans | None = None
        self._held: set[str] = set()
        """The records that this session has leased and not settled."""
        self._lease_at = 0.0
        """Time before which nothing is leased, because the store has just recovered."""
        self._failing = False
        """Whether the store failed the latest call."""

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Lease records. Poll every second and when the next record is due; end after the last record of a replay."""
        tolerance = self._adapter.tolerance
        while not self._leased or not tolerance.allow(1):
            self._more.clear()
            if tolerance.is_exceeded:
                raise EndOfInput
            if not self._leased and (allowed := tolerance.allow(min(credit.items, _MAX_LEASED))):
                self._busy = self._adapter.busy()
                await self._patiently(self._lease_records, allowed)
            if self._leased and tolerance.allow(1):
                break
            if self._adapter.replay is not None and not self._leased and await self._patiently(self._is_done):
                raise EndOfInput
            await self._pause()
        some = [self._leased.popleft() for _ in range(tolerance.allow(min(credit.items, len(self._leased))))]
        tolerance.start(len(some))
        return some

    async def _patiently(self, call: Callable[..., T], *arguments: Any) -> T:
        """Call the store until it answers, and return the result. The leases and the results are kept until then.

        Raises `StoreRefused` when the store cannot do this at all.
        """
        backoff = _FIRST_BACKOFF
        while True:
            try:
                result = await self.thread.run(call, *arguments)
            except StoreRefused:
                raise
            except StoreError as error:
                if not self._failing:
                    self._failing = True
                    logger.error("%s; the results of replays are kept until they can be written", error)  # noqa: TRY400 - one line
                await self._host.sleep(backoff)
                backoff = min(backoff * 2, _LONGEST_BACKOFF)
            else:
                if self._failing:
                    await self._recover()
                return result

    async def _recover(self) -> None:
        """Renew the leases after an outage. Others renew theirs before this session leases more."""
        self._failing = False
        self._lease_at = self._host.time() + _GRACE
        try:
            await self.thread.run(self._adapter.store.extend_leases, set(self._held), self._token, _LEASE)
        except StoreError:
            self._failing = True

    async def _pause(self) -> None:
        """Wait until the next poll or settlement."""
        waits = [asyncio.ensure_future(self._host.sleep(self._poll_delay)), asyncio.ensure_future(self._more.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        """Close the handled and discarded records. Failed records are already dead or parked in the store."""
        if unwritten := self._adapter.unwritten:
            ids = [one.delivery.record_id for one in settlements]
            await asyncio.gather(*[unwritten[one] for one in ids if one in unwritten])
        results = await self._patiently(self._settle, settlements, set())
        self._held.difference_update(str(one.delivery.record_id) for one in settlements)
        self._adapter.tolerance.finish(settlements)
        self._more.set()  # the next records of their lanes may be available now
        if self._adapter.on_settled is not None:
            self._adapter.on_settled(sum(settlement.disposition is Disposition.ack for settlement in settlements))
        return results

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[SettlementResult]:
        """Renew the record leases."""
        ids = [str(delivery.record_id) for delivery in deliveries]
        if self._failing:  # `_recover` renews them
            return [SettlementResult.confirmed] * len(ids)
        try:
            ours = await self.thread.run(self._adapter.store.extend_leases, ids, self._token, _LEASE)
        except StoreRefused:
            raise
        except StoreError:
            return [SettlementResult.confirmed] * len(ids)
        ours |= self._adapter.unwritten.keys()
        return [SettlementResult.confirmed if record_id in ours else SettlementResult.fenced for record_id in ids]

    def adopt(self, record: Record, written: asyncio.Future[None]) -> Delivery:
        """Return the delivery of a record that the engine stores under this session's lease."""
        self._adapter.unwritten[record.id] = written
        written.add_done_callback(lambda _: self._adapter.unwritten.pop(record.id, None))
        self._adapter.tolerance.start(1)
        self._held.add(record.id)
        return _delivery(RecordLease(record, self._token))

    async def stop_intake(self) -> Sequence[Delivery]:
        """Return the leased records that no fetch returned."""
        await self.quiesce()
        left = list(self._leased)
        self._leased.clear()
        return left

    def _is_done(self) -> bool:
        """Return whether no record of the replay is queued, including records that a killed process leased."""
        query = Query(replay=self._adapter.replay, service=self._adapter.service, statuses=(Status.queued,))
        return not self._adapter.store.count(query)

    def _lease_records(self, limit: int) -> None:
        adapter = self._adapter
        if self._failing:
            adapter.store.load_checkpoint("", "")  # `_recover` comes before a lease
            return
        if 0 < self._lease_at - self._host.time() <= _GRACE:
            return
        if adapter.replay is None:
            adapter.store.advance()
            # A time that is more than one period ahead shows that the clock was set back.
            if not 0 < self._expire_at - (now := self._host.time()) <= _EXPIRE_EVERY:
                more = adapter.store.expire()
                self._expire_at = now if more else now + _EXPIRE_EVERY
        if self._busy:
            self._postpone(self._busy)
        leases: Sequence[RecordLease] = adapter.store.lease_records(
            adapter.service, self._token, limit, _LEASE, adapter.replay
        )
        adapter.add_leases(leases)
        if adapter.replay is None:  # a command chose the code that runs its records
            leases = self._leave_orphans(leases)
        self._held |= {lease.record.id for lease in leases}
        self._leased.extend(map(_delivery, leases))
        self._poll_delay = _POLL
        if not leases and (due := adapter.store.next_due(adapter.service)) is not None:
            self._poll_delay = min(_POLL, max(_MIN_POLL, due - self._host.time()))

    def _postpone(self, busy: Mapping[str, float]) -> None:
        """Leave the due records of busy handlers in the store until their handlers may start more.

        Each portion is due a second after the one before, so that many records of a busy handler are not moved at once.
        """
        adapter, now = self._adapter, self._host.time()
        for portion in range(_PORTIONS):
            due = {handler: now + seconds + portion for handler, seconds in busy.items()}
            moved = adapter.store.postpone(adapter.service, due, _POSTPONED, adapter.replay)
            if moved < _POSTPONED:
                break

    def _leave_orphans(self, leases: Sequence[RecordLease]) -> Sequence[RecordLease]:
        """Return the leases of records that can run or end, and leave the others for another worker or later."""
        if self._orphans is None:
            self._orphans = Orphans(self._adapter.processor, self._adapter.service)
        ready, left, due = self._orphans.sort(leases, self._host.time())
        if left:
            self._adapter.store.leave_orphans(left, self._token, due)
        return ready

    def _settle(self, settlements: Sequence[Settlement], done: set[str]) -> list[SettlementResult]:
        """Write the results, and add the written ids to `done`: a later call continues there."""
        store = self._adapter.store
        for outcome, status in ((Outcome.acked, Status.resolved), (Outcome.discarded, Status.discarded)):
            ids = [one for one in _ids(settlements, lambda one: one.outcome is outcome) if one not in done]  # noqa: B023
            if ids:
                done |= store.resolve(ids, self._token, status, "replay")
            if self._failing:  # the answer to an earlier call may be lost
                done |= {one for one in ids if one not in done and _is_closed(store.get(one), status)}
        released = _ids(settlements, lambda one: one.disposition is Disposition.release)
        if released:
            done |= store.release_records(released, self._token)
        delayed = _ids(settlements, lambda one: one.disposition is Disposition.delay)
        if delayed:
            due = self._host.time() + max(self._busy.values(), default=_POLL)
            done |= store.release_records(delayed, self._token, due)
        done |= set(_ids(settlements, lambda one: one.disposition is Disposition.ack and one.outcome in _FILED))
        self._adapter.drop_leases(str(one.delivery.record_id) for one in settlements)
        return [
            SettlementResult.confirmed if str(one.delivery.record_id) in done else SettlementResult.fenced
            for one in settlements
        ]


def _ids(settlements: Sequence[Settlement], chosen: Callable[[Settlement], bool]) -> list[str]:
    return [str(one.delivery.record_id) for one in settlements if chosen(one)]


def _is_closed(record: Record | None, status: Status) -> bool:
    return record is not None and record.status is status and record.closed_by == "replay"


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
        too_large=_NO_BODY if record.reason is Reason.too_large and not record.body else None,
    )


class NoNative:
    """The value of `context.native` on a replay. Access to its attributes raises `AttributeError`."""

    def __init__(self, record: Record) -> None:
        self._where = record.origin.transport

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"context.native.{name}: this message is a replay of a dead letter from {self._where}, and a replay has no"
            " native object; check context.native.is_replay first"
            if not name.startswith("__")
            else name
        )

    is_replay = True

    def __repr__(self) -> str:
        return "<no native object: a replay>"
