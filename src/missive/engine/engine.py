"""The engine's life: it starts the rooms, keeps them going, drains them and stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from missive.adapters.base import Adapter
from missive.app.processor import Processor
from missive.dlq.contract import Sink
from missive.dlq.failure import describe_exception
from missive.engine.completion.idempotency import leased_routes
from missive.engine.completion.parking import park_routes
from missive.engine.dispatch.circuit import circuits_of
from missive.engine.flow import Flow
from missive.engine.intake.source import Source
from missive.engine.report import Report
from missive.engine.runtime import Runtime
from missive.errors import ForcedStop, MissiveError, ProcessingFailed
from missive.transport import Delivery, Session

_STOPPING = 5.0
"""Seconds that the workers of one kind have for their `after_processing` hooks and to end."""
_STOPPING_BY_FORCE = 0.5
"""The same where a handler still runs, and will not be waited for."""
_MOMENT = 0.3
"""Seconds that a stop may take before it says what it waits for."""
_FLUSHING = 5.0
_CLOSING = 6.0
"""Seconds for the last settlements, and for a session or the store to close: more than SQLite waits for a lock."""

logger = logging.getLogger("missive")


class Engine:
    """Runs one processor over its sources. `main` is its life, on a loop of its own."""

    def __init__(
        self,
        processor: Processor[Any],
        adapters: Sequence[Adapter],
        *,
        sink: Sink | None,
        concurrency: int,
        drain: float,
        handlers_loop: asyncio.AbstractEventLoop,
        runtime: Runtime | None = None,
    ) -> None:
        self._processor = processor
        self._adapters = adapters
        self._sink = sink
        self._concurrency = concurrency
        self._drain_seconds = drain
        self._handlers_loop = handlers_loop
        self._runtime = runtime or Runtime()
        leased_routes(processor.freeze(), sink)
        park_routes(processor.freeze(), sink)
        circuits_of(processor.freeze(), self._runtime.monotonic, concurrency)
        self._failure: MissiveError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_requests = 0
        self.cut_short = False
        """Whether the drain ended with work still running: that may keep the process from ending, too."""
        self._sources: Sequence[Source] = ()
        self.report = Report()
        """What has become of the messages until now."""

    # From outside, on any thread

    def stop(self) -> None:
        """Drain and stop; called again, stop at once."""
        self._stop_requests += 1
        self._tell_loop()

    @property
    def state(self) -> str:
        """`connecting` while a source is not connected, then `running`, then `stopping`; for a look from outside."""
        if self._stop_requests or self._failure is not None:
            return "stopping"
        sources = [source for source in self._sources if not source.adapter.background]
        connected = sources and all(source.ended or source.session is not None for source in sources)
        return "running" if connected else "connecting"

    def stop_once(self) -> None:
        """Drain and stop, unless that is going on already."""
        if not self._stop_requests:
            self.stop()

    def _tell_loop(self) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._stop_requested)

    # The life

    async def main(self) -> Report:
        """Run until the input ends, `stop` is called, or something fails; drain; return what happened.

        Raises `ForcedStop` when the drain was cut short, and other `MissiveError`s when processing failed.
        """
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._force = asyncio.Event()
        self._flow = Flow(
            self._processor,
            self._adapters,
            self._sink,
            self._concurrency,
            self._handlers_loop,
            self._runtime,
            fail=self._fail,
        )
        self._flow.report, self._sources = self.report, self._flow.sources
        if self._stop_requests:
            self._stop_requested()
        try:
            await self._start_and_run()
        finally:
            await self._close()
        if self._failure is not None:
            raise self._failure
        return self.report

    async def _start_and_run(self) -> None:
        try:
            if self._flow.crashes is not None:
                await self._flow.crashes.start(self._flow.pools, self._concurrency, self._flow.largest_batch)
            if self._flow.lot is not None:
                await self._flow.lot.load()
            for pool in self._flow.pools:
                await pool.start()
        except MissiveError as failed:
            self._fail(failed)
            return
        rooms = [self._guarded(self._flow.filing.run())]
        if self._flow.claims is not None:
            rooms += [self._guarded(self._flow.claims.run()), self._guarded(self._flow.claims.renew())]
        rooms += [self._guarded(settler.run()) for settler in self._flow.settlers.values()]
        rooms += [self._guarded(keeper.run()) for keeper in self._flow.keepers.values()]
        rooms += [self._guarded(pauser.run()) for pauser in self._flow.pausers.values()]
        rooms += [self._guarded(watchdog.run()) for watchdog in self._flow.watchdogs.values()]
        intakes = {source: self._guarded(source.run()) for source in self._flow.sources}
        self._flow.look()
        await self._until_done(list(intakes.values()))
        await self._drain(list(intakes.values()))
        for room in rooms:
            room.cancel()
        await asyncio.gather(*rooms, return_exceptions=True)

    def _guarded(self, room: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a room as a task; what it raises stops the engine, and is never lost."""

        async def guard() -> None:
            try:
                await room
            except MissiveError as failed:
                self._fail(failed)
            except Exception as error:  # noqa: BLE001 - a mistake of ours or an adapter's must not be a silent hang
                self._fail(ProcessingFailed(f"the engine failed: {describe_exception(error)}"))

        return asyncio.ensure_future(guard())

    async def _until_done(self, intakes: Sequence[asyncio.Task[None]]) -> None:
        """Wait until somebody says stop, or there is nothing left of any input that ends."""
        while not self._stop.is_set():
            # A source that only helps out, such as that of replays, keeps nothing alive.
            if all(s.ended and not s.items for s in self._flow.sources if not s.adapter.background):
                return
            self._flow.changed.clear()
            stopped = asyncio.ensure_future(self._stop.wait())
            changed = asyncio.ensure_future(self._flow.changed.wait())
            waiting = [task for task in intakes if not task.done()]
            await asyncio.wait([stopped, changed, *waiting], return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            changed.cancel()

    # Stopping

    def _stop_requested(self) -> None:
        if self._stop_requests > 1:
            self._force.set()
        self._stop.set()

    def _fail(self, failure: MissiveError) -> None:
        if self._failure is None:
            self._failure = failure
        self._stop.set()

    async def _drain(self, intakes: Sequence[asyncio.Task[None]]) -> None:
        """Stop intake, give back what was not started, and let the rest finish: all within the deadline."""
        self._flow.stop_dispatch()
        forget = self._runtime.call_later(_MOMENT, self._say_it_waits)
        draining = self._guarded(self._finish(intakes))
        forced = asyncio.ensure_future(self._force.wait())
        late = asyncio.ensure_future(self._runtime.sleep(self._drain_seconds))
        await asyncio.wait([draining, forced, late], return_when=asyncio.FIRST_COMPLETED)
        self.cut_short = not draining.done()
        forget()
        for task in (draining, forced, late):
            task.cancel()
        await self._runtime.within(
            _FLUSHING, asyncio.gather(*(settler.flush() for settler in self._flow.settlers.values()))
        )
        if self._flow.attempts is not None:
            self._flow.attempts.flush()
        if self._flow.claims is not None:
            await self._runtime.within(_FLUSHING, self._flow.claims.flush())
        self._say_what_is_left()

    def _say_it_waits(self) -> None:
        if self._stop.is_set() and self._flow.dispatcher.running:
            logger.info("stopping: waiting up to %g s for running work", self._drain_seconds)

    async def _finish(self, intakes: Sequence[asyncio.Task[None]]) -> None:
        while waiting := [intake for intake in intakes if not intake.done()]:
            for intake in waiting:
                intake.cancel()
            # Again, for a client that connects may swallow it, and the source then goes on to fetch.
            await self._runtime.within(_MOMENT, asyncio.wait(waiting))
        self._flow.drain([left for source in self._flow.sources if (left := await self._stop_intake(source))])
        await self._flow.finished()

    async def _stop_intake(self, source: Source) -> tuple[Source, Session, Sequence[Delivery]] | None:
        session = source.session
        if session is None:
            return None
        try:
            return source, session, await session.stop_intake()
        except MissiveError as trouble:
            logger.warning("%s while stopping intake", trouble)
        except Exception as error:  # noqa: BLE001 - an adapter's mistake must not keep the others from draining
            logger.error("%s failed while stopping intake: %s", source.adapter.url, describe_exception(error))  # noqa: TRY400 - no text
        return None

    def _say_what_is_left(self) -> None:
        running, left = self._flow.dispatcher.running, self._flow.unsettled
        self._flow.report.unsettled = left
        if self.cut_short:
            logger.error(
                "stopped by force with %d messages running and %d dead letters not yet in their store",
                running,
                self._flow.filing.waiting,
            )
            if self._failure is None:
                self._failure = ForcedStop(
                    f"stopped before {left} messages were settled; they come again where they can"
                )
        for source in self._flow.sources:
            if source.items and source.session is not None and source.session.capabilities.release == "none":
                logger.error("messages read from %s that are lost: %d", source.adapter.url, source.items)

    async def _close(self) -> None:
        for pool in self._flow.pools:
            pool.withdraw()  # what a drain that was cut short left to be started
            stopping = asyncio.ensure_future(pool.stop())
            if await self._runtime.within(_STOPPING_BY_FORCE if pool.outstanding else _STOPPING, stopping):
                failed = stopping.exception()
                if isinstance(failed, MissiveError):
                    self._fail(failed)
        for source in self._flow.sources:
            if source.session is not None:
                closing_session = asyncio.ensure_future(source.session.close())
                if await self._runtime.within(_CLOSING, closing_session) and (wrong := closing_session.exception()):
                    # Everything is settled that will be.
                    logger.warning("%s failed to close (%s)", source.adapter.url, type(wrong).__name__)
                source.adapter.attach(None)
        if self._flow.crashes is not None:
            self._flow.crashes.close()
        closing = asyncio.ensure_future(self._flow.filing.close())
        if await self._runtime.within(_CLOSING, closing) and isinstance(trouble := closing.exception(), MissiveError):
            logger.warning("%s", trouble)
