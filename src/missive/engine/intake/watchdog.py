"""The watchdog: it looks whether there is progress where there should be, says so where there is none, and repairs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from missive.dlq.failure import describe_exception
from missive.engine.runtime import Runtime
from missive.errors import StoreError, Transient
from missive.transport import Session, SessionStatus

if TYPE_CHECKING:
    from missive.engine.intake.source import Source

EVERY = 5.0
"""Seconds between two looks."""
ANSWERS_WITHIN = 20.0
"""Seconds: to drop a session costs redeliveries, and a broker may be slow for a while."""
_STALLED = 30.0
"""Seconds without a delivery, though messages wait and there is credit, after which a consumer is made anew."""

logger = logging.getLogger("missive")


class Watchdog:
    """Watches the intake of sources: a consumer that is dead and does not know it, or gets nothing though much waits.

    Progress is what came, and not that a connection is open. Either is repaired by dropping the session, after which
    the engine connects again; what it held comes again.
    """

    def __init__(self, source: Source, runtime: Runtime, *, busy: Callable[[], bool]) -> None:
        self._source = source
        self._runtime = runtime
        self._busy = busy
        self._session: Session | None = None
        self._fetched = 0
        self._since = 0.0

    async def run(self) -> None:
        """Look, every few seconds, until cancelled."""
        while True:
            await self._runtime.sleep(EVERY)
            session = self._source.session
            if session is None or self._source.ended:
                continue
            if (trouble := self._trouble(session, await self._status(session))) is not None:
                logger.warning("%s; connecting again", trouble)
                await self._source.drop(session)

    def _trouble(self, session: Session, status: SessionStatus | None) -> str | None:
        """Return what is wrong with a session, or None."""
        now, source = self._runtime.monotonic(), self._source
        if session is not self._session or source.fetched != self._fetched or not source.fetching or self._busy():
            self._session, self._fetched, self._since = session, source.fetched, now
        url = source.adapter.url
        if status is None:
            return f"{url} does not answer"
        if status.connected is False:
            return f"{url} lost its consumer and did not notice"
        if status.lag and now - self._since >= _STALLED:
            return f"{url} has {status.lag} messages and delivered none for {now - self._since:.0f} s"
        return None

    async def _status(self, session: Session) -> SessionStatus | None:
        """Ask a session how it is; None where it did not answer."""
        asking = asyncio.ensure_future(self._asked(session.status()))
        return asking.result() if await self._runtime.within(ANSWERS_WITHIN, asking) else None

    async def _asked(self, question: Coroutine[Any, Any, SessionStatus]) -> SessionStatus:
        try:
            return await question
        except (Transient, StoreError):
            return SessionStatus(connected=False)
        except Exception as error:  # noqa: BLE001 - an adapter's mistake; that it cannot tell is no reason to drop it
            logger.error("%s failed to tell its status: %s", self._source.adapter.url, describe_exception(error))  # noqa: TRY400 - no text
            return SessionStatus()
