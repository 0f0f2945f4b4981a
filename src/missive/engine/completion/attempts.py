"""Attempts: failed attempts of unsettled messages are counted in the store, so that a crash does not reset them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from missive.engine.completion.records import identity
from missive.engine.intake.source import Source
from missive.engine.job import Job, JobsByLane
from missive.engine.runtime import Runtime
from missive.engine.stages import Stage
from missive.engine.store import StoreClient
from missive.errors import StoreError
from missive.outcome import Outcome
from missive.transport import Delivery, Disposition, Session

if TYPE_CHECKING:
    from missive.dlq.contract import Store

_WRITE_AFTER = 0.2
"""How long a spent attempt waits to be written with others, in seconds. A crash forgets at most that much."""

_WRITE_AGAIN = 2.0
"""The same after a failed write, in seconds."""
_MOST = 2**31 - 1
"""Largest number of attempts that every database can store."""


class AttemptCounter(Stage):
    """Counts spent attempts in the store, in batches; a message that never fails is never counted.

    Messages are counted by identity: the position, or the producer's id with the body while the transport reports a
    redelivery. Counts are looked up for redeliveries, and for the first deliveries of a session that have positions.
    """

    def __init__(self, service: str, store: StoreClient, runtime: Runtime) -> None:
        self._service = service
        self._store = store
        self._runtime = runtime
        self._counted: dict[Job, str] = {}
        """The identity of each held job with a count."""
        self._found: dict[str, int] = {}
        """The spent attempts of messages that are about to be taken."""
        self._new: dict[str, int] = {}
        """Counts to write."""
        self._done: set[str] = set()
        """Counts to delete."""
        self._sessions: dict[Source, tuple[Session | None, int]] = {}
        """The session of each source, and the number of deliveries before it."""
        self._write_scheduled = False
        self._unsure = False
        """Whether a look-up has failed: the store may have higher counts than this process."""

    def held(self, job: Job) -> None:
        """Count the spent attempt of a retried job."""
        delivery = job.delivery
        if delivery.record is not None or job.decision is None or job.decision.outcome is not Outcome.retried:
            return
        known = self._counted.get(job)
        if known is None:
            known = _identity_of(job.source, delivery)
            if known is None:
                return
            self._counted[job] = known
        self._new[known] = job.attempt
        self._done.discard(known)
        self._schedule_write()

    def replaced(self, job: Job, by: Job) -> None:
        """Keep the count of the delivery with another job."""
        if (known := self._counted.pop(job, None)) is not None:
            self._counted[by] = known

    def settled(self, source: Source, jobs: Sequence[Job], lost: bool) -> None:  # noqa: ARG002 - see Stage
        """Delete the counts of settled messages. The counts of messages that are redelivered stay."""
        if not self._counted:
            return
        for job in jobs:
            known = self._counted.pop(job, None)
            if known is not None and job.disposition is Disposition.ack and not lost:
                self._new.pop(known, None)
                self._done.add(known)
                self._schedule_write()

    def _is_early(self, source: Source) -> bool:
        """Return whether the session is so young that its deliveries may have been tried before."""
        session, before = self._sessions.get(source, (None, 0))
        if session is not source.session:
            before = source.fetched
            self._sessions[source] = source.session, before
        return source.fetched - before < source.limits.total_items

    async def prepare(self, source: Source, deliveries: Sequence[Delivery], redelivered: bool) -> None:
        """Look up the spent attempts of deliveries."""
        early = self._is_early(source)
        if not redelivered and not early:
            return
        known = [
            found
            for one in deliveries
            if one.record is None and (one.redelivered or (early and one.position is not None))
            if (found := _identity_of(source, one)) is not None
        ]
        if not known:
            return
        try:
            spent = await self._store.look_up(lambda store: store.attempts(self._service, known))
        except StoreError:  # the outage is reported already
            self._unsure = True
        else:
            self._found.update(spent)

    def taken(self, source: Source, session: Session, jobs: Iterable[Job], lanes: JobsByLane) -> None:  # noqa: ARG002 - see Stage
        """Set the attempt of jobs with a count."""
        if not self._found:
            return
        for job in jobs:
            known = _identity_of(source, job.delivery)
            if known is not None and (spent := self._found.get(known)) is not None:
                job.attempt = max(job.attempt, spent + 1)
                self._counted[job] = known
        self._found.clear()

    def _schedule_write(self, seconds: float = _WRITE_AFTER) -> None:
        if not self._write_scheduled:
            self._write_scheduled = True
            self._runtime.call_later(seconds, self._write)

    def _write(self) -> None:
        self._write_scheduled = False
        new, self._new = self._new, {}
        done, self._done = self._done, set()
        if not new and not done:
            return

        def write(store: Store) -> None:
            if new:
                stored = store.attempts(self._service, list(new)) if self._unsure else {}
                counts = {one: min(max(count, stored.get(one, 0)), _MOST) for one, count in new.items()}
                store.count_attempts(self._service, counts)
            if done:
                store.drop_attempts(self._service, done)

        def written(future: asyncio.Future[None]) -> None:
            if not future.cancelled() and isinstance(error := future.exception(), StoreError):
                self._store.failed("write", error)
                self._new = {**new, **self._new}
                self._done |= done - self._new.keys()
                self._schedule_write(_WRITE_AGAIN)

        asyncio.wrap_future(self._store.ask(write)).add_done_callback(written)

    async def flush(self) -> None:
        """Submit the outstanding counts. The store's thread writes them before it ends."""
        self._write()


def _identity_of(source: Source, delivery: Delivery) -> str | None:
    return identity(source.adapter.identity, delivery, hashlib.sha256(delivery.body).hexdigest())
