"""The state of one source: its session, its credit, and the lanes that leave it."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from missive.adapters.base import Adapter
from missive.engine.runtime import Runtime
from missive.engine.stages import Stages
from missive.errors import Fatal
from missive.transport import Credit, Delivery, Session, Settlement, SettlementResult

if TYPE_CHECKING:
    from missive.engine.completion.exits import Exits
    from missive.engine.completion.settlement import Settler
    from missive.engine.job import Job

_RESUME = 0.75
"""Share of a limit below which a full source fetches again, so that it never fetches one message at a time."""
_SHRINK = 8
"""Factor by which the credit shrinks after a fetch that did not fit in memory."""
_GONE_SECONDS = 10.0
"""Time between two log lines about deleted messages, in seconds."""
_CLOSE_SECONDS = 2.0
"""Maximum time for a dead session to close, in seconds."""


logger = logging.getLogger("missive")


class _Gone(Session):
    """Stands for the session of messages that were deleted while they were held. It is never called."""

    def __init__(self) -> None: ...

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        raise NotImplementedError

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        raise NotImplementedError

    async def close(self) -> None: ...


GONE: Session = _Gone()


class Source:
    """One adapter that is being consumed."""

    exits: Exits
    """Takes the jobs of a dead session; set by the assembly."""
    settler: Settler
    """Settles the jobs of this source; set by the assembly."""
    stages: Stages
    """The stages of this source and of the engine, in order; set by the assembly."""

    def __init__(self, adapter: Adapter, runtime: Runtime) -> None:
        self.adapter = adapter
        self.limits = runtime.limits
        self.session: Session | None = None
        self.items = 0
        """Number of deliveries that are fetched and not settled."""
        self.bytes = 0
        """Size of their bodies, in bytes."""
        self.waiting = 0
        """Number of them that wait for their lane, batch, limit or retry. They do not count against `limits.items`."""
        self.crowded = asyncio.Event()
        """Set when the waiting deliveries may keep others from being fetched."""
        self.crowded_at = sys.maxsize
        """Number of waiting deliveries from which `crowded` is set; `Relief` sets it."""
        self.refused = 0
        """Number of them that stay unsettled because there is no dead letter queue."""
        self.fetched = 0
        """Number of deliveries that were ever fetched."""
        self.fetching = False
        """Whether a fetch is in progress."""
        self.leaving: set[str] = set()
        """Lanes that belong to another consumer, or soon will: no message of them starts."""
        self.left_while_preparing: set[str] = set()
        """Lanes that left while the fetched deliveries were being prepared."""
        self.deleted_while_preparing: set[str] = set()
        """Lanes whose messages were deleted while the fetched deliveries were being prepared."""
        self.ended = False
        """Whether the input has ended."""
        self.lapsed: Session | None = None
        """The last session that the transport ended because a delivery was held for longer than its lease."""
        self.revived = asyncio.Event()
        """Set when a session is lost after the end of input."""
        self.consuming: asyncio.Future[None] | None = None
        """The loop that fetches from the current session."""
        self._runtime = runtime
        self.vanished: set[object] = {GONE}
        """Sessions whose messages were deleted with their queue, and `GONE`, the session of other deleted messages."""
        self._gone = 0
        """Number of deleted messages that no log line has reported yet."""
        self._gone_reported = False
        """Whether a log line has reported deleted messages within the last seconds."""
        self._share = 1
        """Divisor of the credit, above 1 after a fetch that did not fit in memory."""
        self._waits_for_credit = False
        self._wake = asyncio.Event()

    # Credit

    async def credit(self) -> Credit:
        """Wait until the source may fetch, and return how much."""
        full = self._is_full(1.0)
        while full or self.stages.blocked:
            self._waits_for_credit = True
            self.crowded.set()
            self._wake.clear()
            await self._wake.wait()
            full = self._is_full(_RESUME)
        self._waits_for_credit = False
        limits = self.limits
        items = min(limits.items - self.items + self.waiting, limits.total_items - self.items)
        if self._share > 1:
            return Credit(max(1, items // self._share), max(1, (limits.bytes - self.bytes) // self._share))
        return Credit(items, limits.bytes - self.bytes)

    def shrink_credit(self, credit: Credit) -> None:
        """Ask for less after a fetch did not fit in memory. Raise `Fatal` when a single message did not fit."""
        if credit.items == 1:
            raise Fatal(
                f"{self.adapter.url}: the next message does not fit in memory. Give the process more memory, or remove"
                " the message"
            )
        if self._share == 1:
            logger.warning("%s: a fetch did not fit in memory; fetching less at once", self.adapter.url)
        self._share = min(self._share * _SHRINK, credit.items * self._share)

    def _is_full(self, share: float) -> bool:
        limits = self.limits
        return (
            self.items - self.waiting >= limits.items * share
            or self.items >= limits.total_items * share
            or self.bytes >= limits.bytes * share
        )

    def spend_credit(self, deliveries: int, size: int) -> None:
        """Take credit for fetched deliveries, whose bodies have `size` bytes."""
        self._share = max(1, self._share // 2)
        self.items += deliveries
        self.fetched += deliveries
        self.bytes += size

    def return_credit(self, deliveries: int, size: int) -> None:
        """Return the credit of settled or lost deliveries, whose bodies have `size` bytes."""
        self.items -= deliveries
        self.bytes -= size
        self.nudge()

    def nudge(self) -> None:
        """Check again whether there is credit."""
        if self._waits_for_credit:
            self._wake.set()

    # Jobs that wait for their own lane, batch, limit or retry

    def mark_waiting(self, job: Job) -> None:
        """Stop counting a job against the credit of others."""
        if not job.waiting:
            job.waiting = True
            self.waiting += 1
            if self.waiting >= self.crowded_at:
                self.crowded.set()
            self.nudge()

    def mark_all_waiting(self, jobs: Iterable[Job]) -> None:
        """Stop counting jobs against the credit of others."""
        count = 0
        for job in jobs:
            if not job.waiting:
                job.waiting = True
                count += 1
        self.waiting += count
        if self.waiting >= self.crowded_at:
            self.crowded.set()
        self.nudge()

    def mark_ready(self, job: Job) -> None:
        """Count a job against the credit again."""
        if job.waiting:
            job.waiting = False
            self.waiting -= 1

    def mark_all_ready(self, jobs: Iterable[Job]) -> None:
        """Count jobs against the credit again."""
        for job in jobs:
            if job.waiting:
                job.waiting = False
                self.waiting -= 1

    # The session and its lanes

    def count_gone(self, count: int) -> None:
        """Report messages that were deleted while they were held: at once, and then at most every ten seconds."""
        self._gone += count
        if self._gone == count and not self._gone_reported:
            self._report_gone()

    def _report_gone(self) -> None:
        count, self._gone = self._gone, 0
        self._gone_reported = bool(count)
        if count:
            logger.warning(
                "%s: %d messages were deleted while they were held; they are handled, and are not redelivered",
                self.adapter.url,
                count,
            )
            self._runtime.call_later(_GONE_SECONDS, self._report_gone)

    def vanish(self, session: Session) -> None:
        """Keep the messages of a session whose queue was deleted: they are handled, and need no settlement."""
        if session in self.vanished:
            return
        self.vanished.add(session)
        if self.items:
            logger.warning(
                "%s was deleted while %d of its messages were held; they are handled, and are not redelivered",
                self.adapter.url,
                self.items,
            )
        if self.consuming is not None:
            self.consuming.cancel()  # the intake collects the messages that no fetch returned, and connects again

    def leave(self, lanes: Collection[str]) -> None:
        """Start nothing more of these lanes, including deliveries that are being fetched."""
        self.leaving.update(lanes)
        self.left_while_preparing.update(lanes)

    async def drop(self, session: Session) -> None:
        """Give up a dead session: nothing of it is settled any more."""
        if self.session is session:
            self.session = None
            if session.enforced_lease is not None:
                self.lapsed = session
            self.leaving.clear()
            self.ended = False
            self.revived.set()
            self.adapter.attach(None)
            self.exits.session_lost(self, session)
            if self.consuming is not None:
                self.consuming.cancel()
        closing = asyncio.ensure_future(session.close())
        closing.add_done_callback(_retrieve)
        await self._runtime.within(_CLOSE_SECONDS, closing)


def _retrieve(closed: asyncio.Future[None]) -> None:
    """Retrieve the exception of a closing session, so that asyncio does not report it as never retrieved."""
    if not closed.cancelled():
        closed.exception()
