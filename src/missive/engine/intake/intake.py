"""Intake: the loop that connects to one source, fetches within its credit, and reconnects."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from missive.dlq.failure import describe_exception
from missive.engine.intake.admission import Admission
from missive.engine.intake.backpressure import Backpressure
from missive.engine.intake.bounds import enforce_bounds
from missive.engine.intake.host import SourceHost
from missive.engine.intake.source import Source
from missive.engine.runtime import Runtime
from missive.engine.state import EngineState
from missive.errors import Fatal, MissiveError, SourceGone, StoreError, Transient, UsageError
from missive.transport import Delivery, EndOfInput, Session

_FIRST_BACKOFF = 0.2
_LONGEST_BACKOFF = 30.0

logger = logging.getLogger("missive")


class Intake:
    """Fetches from one source and hands each chunk of deliveries to admission."""

    def __init__(
        self,
        source: Source,
        host: SourceHost,
        admission: Admission,
        backpressure: Backpressure,
        state: EngineState,
        runtime: Runtime,
    ) -> None:
        self._source = source
        self._host = host
        self._admission = admission
        self._backpressure = backpressure
        self._state = state
        self._runtime = runtime
        self._backoff = _FIRST_BACKOFF
        self._reported = ""
        """The last connection error that was logged: the same error is logged once."""

    async def run(self) -> None:
        """Consume until cancelled. Raises `Fatal`.

        After the end of input, the loop waits: a session that dies over its last settlements has a successor.
        """
        source, url = self._source, self._source.adapter.url
        while True:
            try:
                session = await self._connect()
            except (Transient, StoreError) as error:
                await self._back_off(str(error))
                continue
            try:
                source.consuming = asyncio.ensure_future(self._consume(session))
                await source.consuming
            except EndOfInput:
                source.ended = True
                self._state.changed.set()
                await source.revived.wait()
                await self._back_off(f"{url} lost its connection")
            except asyncio.CancelledError:
                # Either this loop is cancelled, or only the fetch of a session that was found dead.
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    if source.consuming is not None:
                        source.consuming.cancel()
                    raise
                await self._leave(session, None)
                await self._back_off(f"{url} lost its connection")
            except (Transient, StoreError) as error:
                await self._leave(session, error)
                await self._back_off(str(error))
            except (Fatal, UsageError):
                raise
            except Exception as error:  # noqa: BLE001 - a mistake of an adapter must not look like the end of input
                logger.error("%s failed: %s; reconnecting", url, describe_exception(error))  # noqa: TRY400 - no text
                await source.drop(session)
                await self._back_off(f"{url} failed with {type(error).__name__}")

    async def _connect(self) -> Session:
        source = self._source
        session = await source.adapter.connect(self._host)
        try:
            self._admission.check_session(source, session)
        except (Fatal, UsageError):
            await session.close()
            raise
        source.session = session
        source.revived.clear()
        source.adapter.attach(session)
        for connected in self._state.observers.connected:
            connected(source.adapter, session)
        if self._reported:
            logger.warning("%s is connected again", source.adapter.url)
            self._reported = ""
        return session

    async def _consume(self, session: Session) -> None:
        source = self._source
        prepare = source.stages.prepare
        while True:
            credit = await source.credit()
            source.fetching = True
            try:
                deliveries = await session.fetch(credit)
            except MemoryError:  # the same fetch would fail again, and another session would repeat messages
                source.shrink_credit(credit)
                continue
            source.fetching = False
            if not deliveries:
                continue
            self._backoff = _FIRST_BACKOFF
            size = enforce_bounds(deliveries, source.adapter.max_body)
            source.left_while_preparing.clear()
            source.deleted_while_preparing.clear()
            try:
                if prepare:
                    await self._admission.prepare(source, deliveries)
            finally:
                # Cancellation does not lose the deliveries: they are admitted, and then given back.
                if source.session is session:
                    if source.left_while_preparing:
                        deliveries = [one for one in deliveries if one.lane not in source.left_while_preparing]
                        size = sum([len(one.body) for one in deliveries])
                    if source.deleted_while_preparing:
                        deleted = [one for one in deliveries if one.lane in source.deleted_while_preparing]
                        deliveries = [one for one in deliveries if one.lane not in source.deleted_while_preparing]
                        size = sum([len(one.body) for one in deliveries])
                        self._admission.take_deleted(source, deleted)
                    source.spend_credit(len(deliveries), size)
                    self._admission.take(source, session, deliveries)
            if session.capabilities.pauses:
                await self._backpressure.apply()

    async def _leave(self, session: Session, error: Exception | None) -> None:
        """Drop a session. If its queue was deleted, admit the messages that no fetch returned."""
        source, left = self._source, list[Delivery]()
        if isinstance(error, SourceGone):
            source.vanish(session)
        if session not in source.vanished:
            await source.drop(session)
            return
        with contextlib.suppress(MissiveError):
            left += await session.stop_intake()
        await source.drop(session)
        if left:
            source.spend_credit(len(left), enforce_bounds(left, source.adapter.max_body))
            self._admission.take(source, session, left)

    async def _back_off(self, error: str) -> None:
        if self._source.adapter.background:  # the replays of the store, whose outage is reported once
            self._host.store_failed(error)
        elif error != self._reported:
            logger.warning("%s; trying again", error)
            self._reported = error
        await self._runtime.sleep(self._backoff)
        self._backoff = min(self._backoff * 2, _LONGEST_BACKOFF)
