"""Intake: one source's sessions. It connects, fetches within its credit, and connects again when a session dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from missive.adapters.base import Adapter
from missive.dlq.failure import describe_exception
from missive.engine.runtime import Runtime
from missive.errors import Fatal, StoreError, Transient
from missive.transport import Credit, Delivery, EndOfInput, Session, Watermark

if TYPE_CHECKING:
    from missive.engine.completion.dead_letters import DeadLetterWriter
    from missive.engine.job import Job

CREDIT = Credit(items=1000, bytes=64 * 1024 * 1024)
"""How much of one source may be unsettled at once and could run."""

MOST_ITEMS = 5_000
"""How many deliveries of one source may be unsettled at once in all, with those that are behind others of their own."""

_RESUME = 0.75
_CLOSING = 2.0
"""Seconds for a dead session to close, which may fail in any way."""
_FIRST_BACKOFF = 0.2
_LONGEST_BACKOFF = 30.0

logger = logging.getLogger("missive")


class Lanes(Protocol):
    """Who looks after lanes that come and go, as `Host` says it."""

    async def gained(self, marks: Mapping[str, Watermark | None]) -> None:
        """Take up lanes."""
        ...

    async def lost(self, lanes: Collection[str], *, may_commit: bool, deadline: float) -> None:
        """Let go of lanes."""
        ...


class SourceHost:
    """What one source's sessions are offered."""

    lanes: Lanes
    """Who is told which lanes come and go; set before the first session."""

    def __init__(self, service: str, runtime: Runtime, filing: DeadLetterWriter) -> None:
        self.service = service
        self.credit = Credit(MOST_ITEMS, CREDIT.bytes)
        self._runtime = runtime
        self._filing = filing

    async def sleep(self, seconds: float) -> None:
        """Wait on the engine's clock."""
        await self._runtime.sleep(seconds)

    def time(self) -> float:
        """Return the engine's wall clock, in seconds since 1970."""
        return self._runtime.time()

    async def load_checkpoint(self, source: str) -> str | None:
        """Return what `remember` kept."""
        return await self._filing.load_checkpoint(source)

    async def save_checkpoint(self, source: str, value: str) -> bool:
        """Keep a few bytes beside the dead letters."""
        return await self._filing.save_checkpoint(source, value)

    def report(self, line: str) -> None:
        """Tell the operator one line."""
        logger.info(line)

    async def lanes_gained(self, watermarks: Mapping[str, Watermark | None]) -> None:
        """Take up lanes where their marks are."""
        await self.lanes.gained(watermarks)

    async def lanes_lost(self, lanes: Collection[str], *, may_commit: bool, deadline: float) -> None:
        """Let go of lanes."""
        await self.lanes.lost(lanes, may_commit=may_commit, deadline=deadline)


class Source:
    """One adapter being consumed.

    `accept` is called with a new session, and raises `Fatal` for one that will not do. `prepare` is awaited before each
    chunk that was fetched, and `take` is called with it; where lanes can be paused, `pace` is awaited then. `lost` is
    called when a session is gone, and `over` at the end of input. `blocked` says whether something else, such as a
    store that cannot be written, forbids to fetch.
    """

    def __init__(
        self,
        adapter: Adapter,
        host: SourceHost,
        runtime: Runtime,
        *,
        accept: Callable[[Source, Session], None],
        take: Callable[[Source, Session, Sequence[Delivery]], None],
        lost: Callable[[Source, Session], None],
        over: Callable[[], None],
        blocked: Callable[[], bool],
        pace: Callable[[Source], Awaitable[None]],
        prepare: Callable[[Source, Sequence[Delivery]], Awaitable[None]] | None = None,
    ) -> None:
        self.adapter = adapter
        self.host = host
        self.session: Session | None = None
        self.items = 0
        """Deliveries fetched and not settled."""
        self.bytes = 0
        self.behind = 0
        """Of these, those that wait for something of their own, such as their lane: no reason to starve the others."""
        self.refused = 0
        """Of these, those that stay unsettled because there is nowhere to file them."""
        self.leased = False
        """Whether deliveries have had leases, which end."""
        self.pauses = False
        """Whether single lanes could be paused."""
        self.fetched = 0
        """Deliveries that ever came."""
        self.fetching = False
        """Whether a session is being asked for deliveries now."""
        self.leaving: set[str] = set()
        """Lanes that are somebody else's, or soon are: nothing of them is begun."""
        self._left: set[str] = set()
        """Those that left while what was fetched was being prepared."""
        self.ended = False
        """The input is over: there will never be more."""
        self._runtime = runtime
        self._accept = accept
        self._pace = pace
        self._take = take
        self._lost = lost
        self._over = over
        self._blocked = blocked
        self._prepare = prepare
        self._waiting = False
        self._wake = asyncio.Event()
        self._revived = asyncio.Event()
        self._consuming: asyncio.Future[None] | None = None
        self._backoff = _FIRST_BACKOFF
        self._said = ""

    async def run(self) -> None:
        """Consume until cancelled. Raises `Fatal`.

        After the end of input it waits: a session that dies over its last settlements is followed by another.
        """
        while True:
            try:
                session = await self._connect()
            except (Transient, StoreError) as trouble:
                await self._back_off(str(trouble))
                continue
            try:
                self._consuming = asyncio.ensure_future(self._consume(session))
                await self._consuming
            except EndOfInput:
                self.ended = True
                self._over()
                await self._revived.wait()
                await self._back_off(f"{self.adapter.url} lost its connection")
            except asyncio.CancelledError:
                # Either this source was cancelled, or only the fetch of a session that was found dead.
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    if self._consuming is not None:
                        self._consuming.cancel()
                    raise
                await self._back_off(f"{self.adapter.url} lost its connection")
            except (Transient, StoreError) as trouble:
                await self.drop(session)
                await self._back_off(str(trouble))
            except Fatal:
                raise
            except Exception as error:  # noqa: BLE001 - an adapter's mistake must not look like an end of input
                logger.error("%s failed: %s; connecting again", self.adapter.url, describe_exception(error))  # noqa: TRY400 - no text
                await self.drop(session)
                await self._back_off(f"{self.adapter.url} failed with {type(error).__name__}")

    async def _connect(self) -> Session:
        session = await self.adapter.connect(self.host)
        try:
            self._accept(self, session)
        except Fatal:
            await session.close()
            raise
        self.session = session
        self._revived.clear()
        self.leased = self.leased or session.capabilities.lease is not None
        self.pauses = self.pauses or session.capabilities.pauses
        self.adapter.attach(session)
        if self._said:
            logger.warning("%s is connected again", self.adapter.url)
            self._said = ""
        return session

    async def _consume(self, session: Session) -> None:
        while True:
            credit = await self._credit()
            self.fetching = True
            deliveries = await session.fetch(credit)
            self.fetching = False
            if deliveries:
                self._backoff = _FIRST_BACKOFF
                self._left.clear()
                try:
                    if self._prepare is not None:
                        await self._prepare(self, deliveries)
                finally:
                    # Also when it is cancelled, for then they are to be given back.
                    if self.session is session:
                        if self._left:
                            deliveries = [one for one in deliveries if one.lane not in self._left]
                        self.took(deliveries)
                        self._take(self, session, deliveries)
                if session.capabilities.pauses:
                    await self._pace(self)

    async def _credit(self) -> Credit:
        """Wait until there is credit worth a fetch, and return it."""
        full = self._is_full(1.0)
        while full or self._blocked():
            self._waiting = True
            self._wake.clear()
            await self._wake.wait()
            # With hysteresis, so that a full window does not lead to fetches of one.
            full = self._is_full(_RESUME)
        self._waiting = False
        items = min(CREDIT.items - self.items + self.behind, MOST_ITEMS - self.items)
        return Credit(items, CREDIT.bytes - self.bytes)

    def _is_full(self, share: float) -> bool:
        return (
            self.items - self.behind >= CREDIT.items * share
            or self.items >= MOST_ITEMS * share
            or self.bytes >= CREDIT.bytes * share
        )

    def leave(self, lanes: Collection[str]) -> None:
        """Begin nothing more of these lanes, also of what is being fetched."""
        self.leaving.update(lanes)
        self._left.update(lanes)

    def put_behind(self, job: Job) -> None:
        """Note that a job waits for something of its own."""
        if not job.behind:
            job.behind = True
            self.behind += 1
            self.nudge()

    def put_all_behind(self, jobs: Iterable[Job]) -> None:
        """Note that jobs wait for something of their own."""
        behind = 0
        for job in jobs:
            if not job.behind:
                job.behind = True
                behind += 1
        self.behind += behind
        self.nudge()

    def put_forward(self, job: Job) -> None:
        """Note that it does no longer."""
        if job.behind:
            job.behind = False
            self.behind -= 1

    def put_all_forward(self, jobs: Iterable[Job]) -> None:
        """Note that jobs do no longer."""
        for job in jobs:
            if job.behind:
                job.behind = False
                self.behind -= 1

    def took(self, deliveries: Sequence[Delivery]) -> None:
        """Take credit for deliveries that came."""
        self.items += len(deliveries)
        self.fetched += len(deliveries)
        self.bytes += sum([len(delivery.body) for delivery in deliveries])

    def release(self, deliveries: int, size: int) -> None:
        """Give credit back for deliveries that are settled, or lost with their session."""
        self.items -= deliveries
        self.bytes -= size
        self.nudge()

    def nudge(self) -> None:
        """Look again whether there is credit."""
        if self._waiting:
            self._wake.set()

    async def drop(self, session: Session) -> None:
        """Give a dead session up: nothing of it is settled any more."""
        if self.session is session:
            self.session = None
            self.leaving.clear()
            self.ended = False
            self._revived.set()
            self.adapter.attach(None)
            self._lost(self, session)
            if self._consuming is not None:
                self._consuming.cancel()
        closing = asyncio.ensure_future(session.close())
        closing.add_done_callback(_look_at)
        await self._runtime.within(_CLOSING, closing)

    async def _back_off(self, trouble: str) -> None:
        # The same trouble is said once, and not at each try.
        if trouble != self._said:
            logger.warning("%s; trying again", trouble)
            self._said = trouble
        await self._runtime.sleep(self._backoff)
        self._backoff = min(self._backoff * 2, _LONGEST_BACKOFF)


def _look_at(closed: asyncio.Future[None]) -> None:
    """Look at how the closing of a dead session ended, so that asyncio does not complain that nobody did."""
    if not closed.cancelled():
        closed.exception()
