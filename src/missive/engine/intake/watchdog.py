"""The watchdog: it finds a source that makes no progress, reports it, and reconnects."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from missive.dlq.failure import describe_exception
from missive.engine.intake.backpressure import Backpressure
from missive.engine.intake.source import Source
from missive.engine.runtime import Runtime
from missive.engine.state import EngineState
from missive.errors import SourceGone, StoreError, Transient
from missive.transport import Session, SessionStatus

EVERY = 5.0
"""Time between two checks, in seconds."""
ANSWER_SECONDS = 20.0
"""Maximum time for a status, in seconds. It is long, because a dropped session costs redeliveries."""
_STALLED = 30.0
"""Time without a delivery after which a source with waiting messages and credit reconnects, in seconds."""

logger = logging.getLogger("missive")


class Watchdog:
    """Checks the intake of one source for a dead consumer, and for one that receives nothing while messages wait.

    Progress means deliveries, and not an open connection. Either fault is repaired by dropping the session: the engine
    then reconnects, and the messages of the session are redelivered.
    """

    def __init__(self, source: Source, backpressure: Backpressure, state: EngineState, runtime: Runtime) -> None:
        self._source = source
        self._backpressure = backpressure
        self._state = state
        self._runtime = runtime
        self._session: Session | None = None
        self._fetched = 0
        self._since = 0.0

    async def run(self) -> None:
        """Check the source every few seconds, until cancelled."""
        while True:
            await self._runtime.sleep(EVERY)
            session = self._source.session
            if session is None or self._source.ended:
                continue
            if (fault := self._fault(session, await self._status(session))) is not None:
                logger.warning("%s; reconnecting", fault)
                await self._source.drop(session)

    @property
    def _engine_waits(self) -> bool:
        """Whether the engine itself has a reason to fetch nothing."""
        return self._source.stages.blocked or self._state.draining or self._backpressure.paused

    def _fault(self, session: Session, status: SessionStatus | None) -> str | None:
        """Return the fault of a session, or None."""
        now, source = self._runtime.monotonic(), self._source
        progress = session is not self._session or source.fetched != self._fetched
        if progress or not source.fetching or self._engine_waits:
            self._session, self._fetched, self._since = session, source.fetched, now
        url = source.adapter.url
        if status is not None and status.lag is not None and not source.adapter.background:
            for lag in self._state.observers.lag:
                lag(source.adapter, status.lag)
        if status is None:
            return f"{url} does not answer"
        if status.connected is False:
            return f"{url} lost its consumer without noticing"
        if status.lag and now - self._since >= _STALLED:
            return f"{url} has {status.lag} messages and delivered none for {now - self._since:.0f} s"
        return None

    async def _status(self, session: Session) -> SessionStatus | None:
        """Return the status of a session; None when there is no answer in time."""
        asking = asyncio.ensure_future(self._ask(session.status()))
        return asking.result() if await self._runtime.within(ANSWER_SECONDS, asking) else None

    async def _ask(self, question: Coroutine[Any, Any, SessionStatus]) -> SessionStatus:
        try:
            return await question
        except SourceGone:
            if (session := self._source.session) is not None:
                self._source.vanish(session)
            return SessionStatus()
        except (Transient, StoreError):
            return SessionStatus(connected=False)
        except Exception as error:  # noqa: BLE001 - a mistake of an adapter, and no reason to drop the session
            logger.error("%s failed to report its status: %s", self._source.adapter.url, describe_exception(error))  # noqa: TRY400 - no text
            return SessionStatus()
