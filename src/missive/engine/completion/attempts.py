"""Attempts: how often messages were tried that stay unsettled at their source, so that no crash begins them anew."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from missive.engine.completion.dead_letters import identity
from missive.engine.intake.source import MOST_ITEMS
from missive.engine.job import Job
from missive.engine.runtime import Runtime
from missive.errors import StoreError
from missive.transport import Disposition

if TYPE_CHECKING:
    from missive.dlq.contract import Store
    from missive.engine.completion.dead_letters import DeadLetterWriter
    from missive.engine.intake.source import Source
    from missive.transport import Delivery, Session

_EVERY = 0.2
"""Seconds that a failure may wait to be counted with others: what a crash forgets at the most."""

logger = logging.getLogger("missive")


class Attempts:
    """Counts failed attempts in the store, in batches, and only once something failed.

    What is counted is known by its identity: its position, or its producer's id and body where it comes again. It is
    looked for where a transport says that it comes again, and among the first of each session that have positions.
    """

    def __init__(self, service: str, filing: DeadLetterWriter, runtime: Runtime) -> None:
        self._service = service
        self._filing = filing
        self._runtime = runtime
        self._counted: dict[Job, str] = {}
        self._known: dict[str, int] = {}
        """What was spent on messages that are about to be taken."""
        self._new: dict[str, int] = {}
        self._done: set[str] = set()
        self._sessions: dict[Source, tuple[Session | None, int]] = {}
        """The session of each source, and how many deliveries had come before it."""
        self._waiting = False

    def spent(self, job: Job) -> None:
        """Note that an attempt at a job is spent, which stays unsettled."""
        delivery = job.delivery
        if delivery.record is not None:
            return
        known = self._counted.get(job)
        if known is None:
            known = identity(job.source.adapter.url, delivery, hashlib.sha256(delivery.body).hexdigest())
            if known is None:
                return
            self._counted[job] = known
        self._new[known] = job.attempt
        self._done.discard(known)
        self._later()

    def settled(self, jobs: Iterable[Job], *, gone: bool) -> None:
        """Forget what is counted of jobs that are done with; of those that come again, the store keeps it."""
        if not self._counted:
            return
        for job in jobs:
            known = self._counted.pop(job, None)
            if known is not None and job.disposition is Disposition.ack and not gone:
                self._new.pop(known, None)
                self._done.add(known)
                self._later()

    def is_early(self, source: Source) -> bool:
        """Tell whether a source's session is so young that what it delivers may have been tried before."""
        session, before = self._sessions.get(source, (None, 0))
        if session is not source.session:
            before = source.fetched
            self._sessions[source] = source.session, before
        return source.fetched - before < MOST_ITEMS

    async def look(self, source: Source, deliveries: Sequence[Delivery]) -> None:
        """Learn what was spent on some deliveries, before they are taken."""
        url, early = source.adapter.url, self.is_early(source)
        known = [
            found
            for one in deliveries
            if one.record is None and (one.redelivered or (early and one.position is not None))
            if (found := identity(url, one, hashlib.sha256(one.body).hexdigest())) is not None
        ]
        if not known:
            return
        try:
            spent = await asyncio.wrap_future(self._filing.ask(lambda store: store.attempts(self._service, known)))
        except StoreError as trouble:
            logger.warning("%s while looking how often messages were tried", trouble)
        else:
            self._known.update(spent)

    def take(self, jobs: Iterable[Job]) -> None:
        """Give jobs the attempts that were counted."""
        if not self._known:
            return
        for job in jobs:
            delivery = job.delivery
            known = identity(job.source.adapter.url, delivery, hashlib.sha256(delivery.body).hexdigest())
            if known is not None and (spent := self._known.get(known)) is not None:
                job.attempt = max(job.attempt, spent + 1)
                self._counted[job] = known
        self._known.clear()

    def _later(self) -> None:
        if not self._waiting:
            self._waiting = True
            self._runtime.call_later(_EVERY, self._write)

    def _write(self) -> None:
        self._waiting = False
        self.flush()

    def flush(self) -> None:
        """Write what was counted, on the store's thread."""
        new, self._new = self._new, {}
        done, self._done = self._done, set()
        if not new and not done:
            return

        def write(store: Store) -> None:
            if new:
                store.count_attempts(self._service, new)
            if done:
                store.drop_attempts(self._service, done)

        def wrote(written: asyncio.Future[None]) -> None:
            if not written.cancelled() and isinstance(trouble := written.exception(), StoreError):
                logger.warning("%s while counting attempts; trying again", trouble)
                self._new = {**new, **self._new}
                self._done |= done - self._new.keys()
                self._later()

        asyncio.wrap_future(self._filing.ask(write)).add_done_callback(wrote)
