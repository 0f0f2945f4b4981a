"""The driver of a case: sessions, engines and the record of every message."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from missive.adapters.base import Adapter
from missive.app.processor import Processor
from missive.dlq.contract import Query
from missive.dlq.record import Record
from missive.dlq.sql import SQLStore
from missive.engine.limits import Limits
from missive.engine.runtime import Runtime
from missive.errors import MissiveError, Transient
from missive.testing.conformance.checks import ConformanceError, check
from missive.testing.conformance.delivery_log import DeliveryLog
from missive.testing.conformance.harness import Harness, Sent
from missive.testing.conformance.host import KitHost
from missive.testing.conformance.proxy import FaultProxy
from missive.testing.conformance.wrapping import WrappedAdapter
from missive.transport import (
    Capabilities,
    Credit,
    Delivery,
    Disposition,
    EndOfInput,
    Session,
    SessionStatus,
    Settlement,
    SettlementResult,
    Watermark,
)

T = TypeVar("T")

WAIT_SECONDS = 30.0
"""Time limit for an expected event, in seconds."""
CONNECT_SECONDS = 60.0
"""Time limit until a broker accepts consumers, also after SIGKILL, in seconds."""
QUIET_SECONDS = 0.3
"""Time without a delivery that proves that no message is left, in seconds."""
POLL_SECONDS = 0.01
"""Poll interval for a condition, in seconds."""


def numbered(*bounds: int) -> list[bytes]:
    """Return the numbers of `range(*bounds)` as message bodies."""
    return [b"%d" % number for number in range(*bounds)]


class Driver:
    """Drives one adapter through one case. `wrap` puts another adapter around each adapter of the harness."""

    def __init__(
        self,
        harness: Harness,
        directory: Path,
        *,
        deep: bool = False,
        wrap: Callable[[Adapter], Adapter] | None = None,
    ) -> None:
        self.harness = harness
        self.directory = directory
        self.deep = deep
        """Whether to run the long form of a case."""
        self.log = DeliveryLog()
        self.dlq = f"sqlite:///{directory / 'dlq.db'}"
        self.hosts: list[KitHost] = []
        self.capabilities: Capabilities | None = None
        """The declaration of the latest session."""
        self.duplicates = 0
        """Number of messages that were handled twice, or redelivered after they were handled."""
        self.faults = 0
        """Number of faults that the case caused. `Harness.duplicates` bounds the duplicates of each."""
        self.forgotten = 0
        """Number of settlements that the broker may have forgotten, from `Harness.forgotten_settlements`."""
        self.credit = Limits().items
        """Number of unsettled messages that an engine may hold, where each message is settled separately."""
        self._wrap = wrap
        self._sessions: list[Session] = []
        self._lanes: dict[Session, dict[str | None, list[tuple[Delivery, list[bool]]]]] = {}

    async def in_thread(self, fn: Callable[..., T], *args: Any) -> T:
        """Call a blocking function in a thread."""
        return await asyncio.to_thread(fn, *args)

    def adapter(
        self,
        processor: Processor[Any] | None = None,
        *,
        inside: Callable[[Session], Session] | None = None,
        **options: Any,
    ) -> Adapter:
        """Make the adapter under test. `inside` wraps its sessions, within the adapter of `wrap`."""
        made = self.harness.adapter(processor or Processor(name="conformance"), **options)
        if inside is not None:
            made = WrappedAdapter(made, inside)
        return made if self._wrap is None else self._wrap(made)

    async def publish(self, *messages: Sent | bytes) -> None:
        """Publish messages and record them."""
        sent = [Sent(message) if isinstance(message, bytes) else message for message in messages]
        self.log.published.update(message.body for message in sent)
        await self.in_thread(self.harness.publish, sent)

    # Sessions

    async def open(self, adapter: Adapter | None = None, **options: Any) -> Session:
        """Open a session. Connect again while the transport is not ready."""
        adapter = adapter or self.adapter(**options)
        deadline = time.monotonic() + CONNECT_SECONDS
        while True:
            host = KitHost(self.dlq)
            try:
                session = await adapter.connect(host)
                break
            except Transient:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)
        adapter.attach(session)
        self.capabilities = session.capabilities
        self.hosts.append(host)
        self._sessions.append(session)
        return session

    async def close(self, session: Session) -> None:
        """Close a session; the transport redelivers its unsettled messages."""
        async with asyncio.timeout(WAIT_SECONDS):
            await session.close()
        self._sessions.remove(session)
        self._lanes.pop(session, None)

    async def discard(self, session: Session) -> None:
        """Close a session whose connection is gone, and ignore its errors."""
        with contextlib.suppress(MissiveError):
            await self.close(session)
        if session in self._sessions:
            self._sessions.remove(session)

    async def close_all(self, *errors: type[Exception]) -> None:
        """Close the open sessions, and ignore the given errors."""
        for session in list(self._sessions):
            with contextlib.suppress(*errors):
                await self.close(session)

    async def crash(self, session: Session) -> None:
        """Send the broker SIGKILL and start it again. Without a broker, close the session."""
        if self.harness.broker:
            await self.in_thread(self.harness.kill)
        with contextlib.suppress(MissiveError):
            await self.close(session)
        if self.harness.broker:
            await self.in_thread(self.harness.start)

    async def fetch(self, session: Session, credit: Credit) -> Sequence[Delivery]:
        """Fetch once and record the deliveries. Return nothing at the end of the input."""
        try:
            deliveries = await session.fetch(credit)
        except EndOfInput:
            return ()
        check(deliveries, "fetch returned no delivery")
        check(len(deliveries) <= credit.items, "fetch returned more messages than its credit")
        self.record(session, deliveries)
        return deliveries

    async def take(
        self, session: Session, count: int, seconds: float = WAIT_SECONDS, *, least: int | None = None
    ) -> list[Delivery]:
        """Fetch up to `count` messages. Fail when fewer than `least` (default: `count`) arrive within `seconds`."""
        taken: list[Delivery] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while len(taken) < count:
                    more = await self.fetch(session, Credit(count - len(taken), 64 << 20))
                    if not more:
                        break
                    taken += more
        wanted = count if least is None else least
        check(len(taken) >= wanted, f"{len(taken)} of {wanted} messages arrived within {seconds:g} s")
        return taken

    def record(self, session: Session, deliveries: Sequence[Delivery]) -> None:
        """Record deliveries that a case fetched without the driver."""
        self.log.receive(deliveries)
        for delivery in deliveries:
            self._lanes.setdefault(session, {}).setdefault(delivery.lane, []).append((delivery, [False]))

    def recorded(self, session: Session) -> list[Delivery]:
        """Return the recorded and uncommitted deliveries of a session, lane by lane."""
        return [delivery for lane in self._lanes.get(session, {}).values() for delivery, _ in lane]

    async def settle(
        self, session: Session, deliveries: Sequence[Delivery], disposition: Disposition = Disposition.ack
    ) -> Sequence[SettlementResult]:
        """Settle deliveries, with a commit where the transport needs one, and record the confirmed acks."""
        if disposition is Disposition.ack:
            self.log.requested.update(delivery.body for delivery in deliveries)
        results = await session.settle([Settlement(delivery, disposition) for delivery in deliveries])
        check(len(results) == len(deliveries), "settle returned a different number of results than settlements")
        capabilities = session.capabilities
        if capabilities.commit == "cumulative":
            if disposition is Disposition.ack:
                await self._commit(session, deliveries)
            return results
        wrong = SettlementResult.sent if capabilities.replies else SettlementResult.confirmed
        check(wrong not in results, f"a result is {wrong.value}, but `replies` is {capabilities.replies}")
        if disposition is Disposition.ack:
            done = zip(deliveries, results, strict=True)
            self.log.confirmed.update(
                delivery.body for delivery, result in done if result is SettlementResult.confirmed
            )
        return results

    async def _commit(self, session: Session, deliveries: Sequence[Delivery]) -> None:
        """Commit the watermark of each lane: the position before its first unsettled delivery."""
        settled = {id(delivery) for delivery in deliveries}
        watermarks: dict[str | None, Watermark] = {}
        covered: list[Delivery] = []
        for lane, fetched in self._lanes.get(session, {}).items():
            for delivery, done in fetched:
                done[0] = done[0] or id(delivery) in settled
            while fetched and fetched[0][1][0]:
                delivery, _ = fetched.pop(0)
                check(delivery.position is not None, "a delivery of a cumulative transport has no position")
                watermarks[lane] = Watermark(delivery.position or 0)
                covered.append(delivery)
        if watermarks:
            results = await session.commit(watermarks)
            confirmed = {lane for lane, result in results.items() if result is SettlementResult.confirmed}
            self.log.confirmed.update(delivery.body for delivery in covered if delivery.lane in confirmed)

    # Engines

    @contextlib.asynccontextmanager
    async def serving(self, adapter: Adapter) -> AsyncIterator[asyncio.Task[None]]:
        """Run the engine over an adapter, and drain it at the end of the block."""
        task = asyncio.create_task(adapter.serve())
        try:
            yield task
        finally:
            task.cancel()
            async with asyncio.timeout(WAIT_SECONDS):
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    @contextlib.contextmanager
    def limited(self, credit: Credit, total_items: int | None = None) -> Iterator[None]:
        """Give engines a small credit, so that few messages use it up and few are in flight at a fault.

        `total_items` is the limit that includes messages that wait for their lane.
        """
        earlier = Runtime.limits
        total = Limits().total_items if total_items is None else total_items
        Runtime.limits, self.credit = Limits(credit.items, credit.bytes, total), credit.items
        try:
            yield
        finally:
            Runtime.limits = earlier

    @contextlib.contextmanager
    def proxy(self) -> Iterator[FaultProxy]:
        """Run a fault proxy in front of the broker."""
        address = self.harness.address
        if address is None:
            raise ConformanceError("the harness has no `address` for a fault proxy. Return the broker's host and port.")
        with FaultProxy(*address, listen=self.harness.proxy_port) as proxy:
            yield proxy

    async def until(self, condition: Callable[[], object], event: str, seconds: float = WAIT_SECONDS) -> None:
        """Wait for a condition. Raise `ConformanceError` with the name of the event when the time is up."""
        deadline = time.monotonic() + seconds
        while not condition():
            check(time.monotonic() < deadline, f"waited {seconds:g} s for {event}")
            await asyncio.sleep(POLL_SECONDS)

    async def until_empty(self) -> None:
        """Wait until the source holds no message, where the harness can count them."""
        deadline = time.monotonic() + WAIT_SECONDS
        while left := await self.in_thread(self.harness.remaining):
            check(time.monotonic() < deadline, f"{left} messages are still at the source")
            await asyncio.sleep(POLL_SECONDS)

    async def status(
        self, session: Session, expected: Callable[[SessionStatus], bool], seconds: float = WAIT_SECONDS
    ) -> SessionStatus:
        """Poll the status of a session until it is as expected or the time is up; return the latest."""
        deadline = time.monotonic() + seconds
        while True:
            status = await session.status()
            if expected(status) or time.monotonic() > deadline:
                return status
            await asyncio.sleep(POLL_SECONDS)

    def dead_letters(self) -> list[Record]:
        """Return the dead letters in the store of the case."""
        with contextlib.closing(SQLStore(self.dlq)) as store:
            return list(store.query(Query()))
