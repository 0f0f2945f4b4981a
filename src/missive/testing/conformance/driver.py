"""What drives an adapter in a case: a host of the kit's, sessions, an engine, and the ledger of it all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from missive.adapters.base import Adapter
from missive.app.processor import Processor
from missive.dlq.contract import Query
from missive.dlq.record import Record
from missive.dlq.sql import SQLStore
from missive.engine.intake import source as intake
from missive.errors import MissiveError, Transient
from missive.testing.conformance.harness import Harness, Sent
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
"""How long anything may take that must happen."""
CONNECT_SECONDS = 60.0
"""How long a broker may take until it can be consumed from, also after it was killed."""
QUIET_SECONDS = 0.3
"""How long nothing must come to be sure of it, beyond the harness's `redelivery_seconds`."""
POLL_SECONDS = 0.01


class ConformanceError(AssertionError):
    """The adapter did not do what the case asks for; says what."""


def check(condition: object, what: str) -> None:
    """Raise `ConformanceError` unless the condition holds."""
    if not condition:
        raise ConformanceError(what)


class DeliveryLog:
    """What was published, delivered, asked to be settled, and confirmed; by body, which is unique in a case."""

    def __init__(self) -> None:
        self.published: set[bytes] = set()
        self.delivered: Counter[bytes] = Counter()
        self.requested: set[bytes] = set()
        self.confirmed: set[bytes] = set()
        self.handled: Counter[bytes] = Counter()

    def receive(self, deliveries: Iterable[Delivery]) -> None:
        """Enter deliveries. Fails for one that was never published, or that was confirmed as settled before."""
        for delivery in deliveries:
            check(delivery.body in self.published, "a phantom: it was never published")
            check(delivery.body not in self.confirmed, "it was confirmed as settled, and is delivered again")
            self.delivered[delivery.body] += 1

    @property
    def missing(self) -> set[bytes]:
        """What was published and never delivered."""
        return self.published - set(self.delivered)


class KitHost:
    """A small `Host`: what a session may ask of the engine."""

    service = "conformance"
    credit = Credit(1000, 64 << 20)

    def __init__(self, dlq: str | None = None) -> None:
        self._dlq = dlq
        self.said: list[str] = []
        self.gained: dict[str, Watermark | None] = {}

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    def time(self) -> float:
        """Return the time."""
        return time.time()

    async def load_checkpoint(self, source: str) -> str | None:
        """Return what an engine, or another host, kept in the case's store."""
        return await asyncio.to_thread(self._recall, source)

    async def save_checkpoint(self, source: str, value: str) -> bool:
        """Keep it in the case's store."""
        return await asyncio.to_thread(self._remember, source, value)

    def _recall(self, source: str) -> str | None:
        if self._dlq is None:
            return None
        with contextlib.closing(SQLStore(self._dlq)) as store:
            return store.load_checkpoint(self.service, source)

    def _remember(self, source: str, value: str) -> bool:
        if self._dlq is None:
            return False
        with contextlib.closing(SQLStore(self._dlq)) as store:
            store.save_checkpoint(self.service, source, value)
        return True

    def report(self, line: str) -> None:
        """Keep the line."""
        self.said.append(line)

    async def lanes_gained(self, watermarks: Mapping[str, Watermark | None]) -> None:
        """Keep the marks."""
        self.gained.update(watermarks)

    async def lanes_lost(self, lanes: Collection[str], *, may_commit: bool, deadline: float) -> None:  # noqa: ARG002
        """Nothing runs here that must end first."""
        for lane in lanes:
            self.gained.pop(lane, None)


class Driver:
    """Drives one adapter in one case. `wrap` puts another adapter around those of the harness."""

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
        self.log = DeliveryLog()
        self.dlq = f"sqlite:///{directory / 'dlq.db'}"
        self.hosts: list[KitHost] = []
        self.capabilities: Capabilities | None = None
        """What the last session declared."""
        self.duplicates = 0
        """How many messages were handled twice, or came again though they were handled, after faults."""
        self.faults = 0
        """How many faults there were, after each of which the harness says how many may be handled again."""
        self.forgotten = 0
        """How many settlements the broker may have forgotten in all, by what the harness says."""
        self.credit = intake.CREDIT.items
        """How many messages an engine has in flight at most, where each is settled by itself."""
        self._wrap = wrap
        self._sessions: list[Session] = []
        self._lanes: dict[Session, dict[str | None, list[tuple[Delivery, list[bool]]]]] = {}

    async def blocking(self, fn: Callable[..., T], *args: Any) -> T:
        """Call the harness on a thread."""
        return await asyncio.to_thread(fn, *args)

    def adapter(
        self,
        processor: Processor[Any] | None = None,
        *,
        inside: Callable[[Session], Session] | None = None,
        **options: Any,
    ) -> Adapter:
        """Make the adapter under test; `inside` makes what goes around its own sessions, within `wrap`."""
        made = self.harness.adapter(processor or Processor(name="conformance"), **options)
        if inside is not None:
            made = WrappedAdapter(made, inside)
        return made if self._wrap is None else self._wrap(made)

    async def publish(self, *messages: Sent | bytes) -> None:
        """Publish, and enter it in the ledger."""
        sent = [Sent(message) if isinstance(message, bytes) else message for message in messages]
        self.log.published.update(message.body for message in sent)
        await self.blocking(self.harness.publish, sent)

    # Sessions

    async def open(self, adapter: Adapter | None = None, **options: Any) -> Session:
        """Open a session; one that the transport is not ready for yet is tried again."""
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

    async def fetch(self, session: Session, credit: Credit) -> Sequence[Delivery]:
        """Fetch once, and enter it; nothing where the input has ended."""
        try:
            deliveries = await session.fetch(credit)
        except EndOfInput:
            return ()
        check(deliveries, "fetch returned nothing")
        check(len(deliveries) <= credit.items, "fetch returned more than the credit in items")
        self.note(session, deliveries)
        return deliveries

    async def take(
        self, session: Session, count: int, seconds: float = WAIT_SECONDS, *, least: int | None = None
    ) -> list[Delivery]:
        """Fetch until there are so many. Fails when there are fewer than `least` (all of them) in time."""
        taken: list[Delivery] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while len(taken) < count:
                    more = await self.fetch(session, Credit(count - len(taken), 64 << 20))
                    if not more:
                        break
                    taken += more
        wanted = count if least is None else least
        check(len(taken) >= wanted, f"{len(taken)} of {wanted} messages came in {seconds:g} s")
        return taken

    async def settle(
        self, session: Session, deliveries: Sequence[Delivery], disposition: Disposition = Disposition.ack
    ) -> Sequence[SettlementResult]:
        """Settle, by commit where that is how; enters what was confirmed."""
        if disposition is Disposition.ack:
            self.log.requested.update(delivery.body for delivery in deliveries)
        results = await session.settle([Settlement(delivery, disposition) for delivery in deliveries])
        check(len(results) == len(deliveries), "settle returned another number of results than there were items")
        capabilities = session.capabilities
        if capabilities.commit == "cumulative":
            if disposition is Disposition.ack:
                await self._commit(session, deliveries)
            return results
        wrong = SettlementResult.sent if capabilities.replies else SettlementResult.confirmed
        here = wrong not in results or not capabilities.replies
        check(
            here and (capabilities.replies or SettlementResult.confirmed not in results),
            f"a settlement is {wrong.value}",
        )
        if disposition is Disposition.ack:
            done = zip(deliveries, results, strict=True)
            self.log.confirmed.update(
                delivery.body for delivery, result in done if result is SettlementResult.confirmed
            )
        return results

    async def _commit(self, session: Session, deliveries: Sequence[Delivery]) -> None:
        """Commit how far each lane is done without a gap."""
        settled = {id(delivery) for delivery in deliveries}
        marks: dict[str | None, Watermark] = {}
        covered: list[Delivery] = []
        for lane, fetched in self._lanes.get(session, {}).items():
            for delivery, done in fetched:
                done[0] = done[0] or id(delivery) in settled
            while fetched and fetched[0][1][0]:
                delivery, _ = fetched.pop(0)
                check(delivery.position is not None, "a cumulative transport gives positions")
                marks[lane] = Watermark(delivery.position or 0)
                covered.append(delivery)
        if marks:
            results = await session.commit(marks)
            good = {lane for lane, result in results.items() if result is SettlementResult.confirmed}
            self.log.confirmed.update(delivery.body for delivery in covered if delivery.lane in good)

    def note(self, session: Session, deliveries: Sequence[Delivery]) -> None:
        """Enter deliveries that a case fetched itself."""
        self.log.receive(deliveries)
        for delivery in deliveries:
            self._lanes.setdefault(session, {}).setdefault(delivery.lane, []).append((delivery, [False]))

    def noted(self, session: Session) -> list[Delivery]:
        """Return what was entered for a session and is not committed, in no order between lanes."""
        return [delivery for lane in self._lanes.get(session, {}).values() for delivery, _ in lane]

    @contextlib.contextmanager
    def limited(self, credit: Credit) -> Iterator[None]:
        """Let engines have a small credit, so that little uses it up, and little is in flight at a fault."""
        earlier = intake.CREDIT
        intake.CREDIT, self.credit = credit, credit.items
        try:
            yield
        finally:
            intake.CREDIT = earlier

    @contextlib.contextmanager
    def proxy(self) -> Iterator[FaultProxy]:
        """Put a fault proxy before the broker."""
        address = self.harness.address
        if address is None:
            raise ConformanceError("the harness has no address to put a proxy before")
        with FaultProxy(*address, listen=self.harness.proxy_port) as proxy:
            yield proxy

    async def drop(self, session: Session) -> None:
        """Close a session whose connection is gone, whatever it says."""
        with contextlib.suppress(MissiveError):
            await self.close(session)
        if session in self._sessions:
            self._sessions.remove(session)

    async def close(self, session: Session) -> None:
        """Close a session; what it had unsettled comes again."""
        async with asyncio.timeout(WAIT_SECONDS):
            await session.close()
        self._sessions.remove(session)
        self._lanes.pop(session, None)

    async def crash(self, session: Session) -> None:
        """SIGKILL the broker and start it again; without one, drop the session."""
        if self.harness.broker:
            await self.blocking(self.harness.kill)
        with contextlib.suppress(MissiveError):
            await self.close(session)
        if self.harness.broker:
            await self.blocking(self.harness.start)

    # The engine

    @contextlib.asynccontextmanager
    async def serving(self, adapter: Adapter) -> AsyncIterator[asyncio.Task[None]]:
        """Run the whole engine over an adapter; drained at the end."""
        task = asyncio.create_task(adapter.serve())
        try:
            yield task
        finally:
            task.cancel()
            async with asyncio.timeout(WAIT_SECONDS):
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def until(self, condition: Callable[[], object], what: str, seconds: float = WAIT_SECONDS) -> None:
        """Wait for a condition; fails, saying what was waited for."""
        deadline = time.monotonic() + seconds
        while not condition():
            check(time.monotonic() < deadline, f"waited {seconds:g} s for {what}")
            await asyncio.sleep(POLL_SECONDS)

    async def emptied(self) -> None:
        """Wait until the source holds nothing for us, where it can be told."""
        deadline = time.monotonic() + WAIT_SECONDS
        while await self.blocking(self.harness.remaining):
            check(time.monotonic() < deadline, "something is left at the source")
            await asyncio.sleep(POLL_SECONDS)

    async def worker(self, target: str, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
        """Start `missive run` in the case's directory; what it says is thrown away."""
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "missive", "run", target, *arguments),
            cwd=self.directory,
            env={**os.environ, **(env or {})},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def end(self, process: Process) -> None:
        """Kill a process that still runs."""
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def told(
        self, session: Session, enough: Callable[[SessionStatus], bool], seconds: float = WAIT_SECONDS
    ) -> SessionStatus:
        """Ask a session how it is until that is enough, or for so many seconds; returns what it said last."""
        deadline = time.monotonic() + seconds
        while True:
            status = await session.status()
            if enough(status) or time.monotonic() > deadline:
                return status
            await asyncio.sleep(POLL_SECONDS)

    def dead_letters(self, url: str | None = None) -> list[Record]:
        """Return the dead letters in the case's store, or another one."""
        with contextlib.closing(SQLStore(url or self.dlq)) as store:
            return list(store.query(Query()))

    # The end

    async def balance(self) -> None:
        """Close all that is open, take and ack what is still there, and balance the ledger: no loss, nothing left."""
        for session in list(self._sessions):
            with contextlib.suppress(MissiveError):
                await self.close(session)
        log = self.log
        out = {body for body in log.published if body not in log.confirmed and not log.handled[body]}
        if not self.harness.reads_once:
            session = await self.open()
            if out:
                # What was settled without an answer may or may not come again.
                sure = out - log.requested
                waits = bool(sure) or bool(await self.blocking(self.harness.remaining))
                seconds = self.harness.redelivery_seconds if waits else QUIET_SECONDS
                left = await self.take(session, len(out), seconds, least=len(sure))
                await self.settle(session, left)
            while extra := await self.take(session, 1, await self._quiet(session), least=0):
                # What was handled and not committed comes again where a transport is cumulative, and else after faults.
                again = self._is_again(extra[0])
                check(again and (session.capabilities.commit == "cumulative" or self.faults), "something is left over")
                self.duplicates += bool(self.faults)
                await self.settle(session, extra)
            await self.close(session)
            left_there = await self.blocking(self.harness.remaining)
            deadline = time.monotonic() + WAIT_SECONDS
            while left_there and time.monotonic() < deadline:
                await asyncio.sleep(0.1)
                left_there = await self.blocking(self.harness.remaining)
            check(not left_there, f"{left_there} messages are still at the broker")
        lost = {body for body in log.published if not log.delivered[body] and not log.handled[body]}
        check(not lost, f"{len(lost)} messages are lost")
        able, bound = self.capabilities, self.harness.duplicates
        # Where acks are answered only what the engine had in flight comes again; else all that are on their way may.
        if able is not None and able.commit == "each" and able.replies:
            bound = min(bound, self.credit)
        most = self.faults * bound + self.forgotten
        check(self.duplicates <= most, f"{self.duplicates} duplicates after {self.faults} faults")

    async def _quiet(self, session: Session) -> float:
        """Return how many seconds nothing must come for there to be nothing left."""
        if session.capabilities.commit != "cumulative":
            return QUIET_SECONDS
        left = await self.blocking(self.harness.remaining)
        return self.harness.redelivery_seconds if left else QUIET_SECONDS

    def _is_again(self, delivery: Delivery) -> bool:
        return bool(self.log.handled[delivery.body]) and delivery.body not in self.log.confirmed

    async def abandon(self) -> None:
        """Close what is open after a failure."""
        for session in list(self._sessions):
            with contextlib.suppress(Exception):
                await self.close(session)
