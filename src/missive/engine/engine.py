"""The engine: it starts the stations, keeps them running, drains them and stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Coroutine, Sequence
from typing import Any

from missive.adapters.base import Adapter
from missive.app.processor import Processor
from missive.dlq.contract import Sink
from missive.dlq.failure import describe_exception
from missive.engine.assembly import Assembler, Stations, check_declarations
from missive.engine.intake.placements import Placements
from missive.engine.intake.source import Source
from missive.engine.report import Report
from missive.engine.runtime import Runtime
from missive.engine.stages import Stage
from missive.engine.state import EngineState
from missive.errors import ForcedStop, MissiveError, ProcessingFailed
from missive.telemetry.observer import Observer, Observers
from missive.transport import Delivery, Session

_STOP_SECONDS = 5.0
"""Maximum time for the workers of one pool to run their `after_processing` hooks and end, in seconds."""
_FORCED_STOP_SECONDS = 0.5
"""The same while a handler still runs that is not waited for."""
_MOMENT = 0.3
"""Time after which a stop reports that it waits, in seconds."""
_FLUSH_SECONDS = 5.0
"""Maximum time for the last settlements, in seconds."""
_CLOSE_SECONDS = 6.0
"""Maximum time for a session or the store to close, in seconds. SQLite waits less for a lock."""
_LAST_SECONDS = 1.0
"""Time for the last settlements, and for closing, after the drain has used all its time, in seconds."""

_TICK_SECONDS = 1.0
"""Time between two ticks of the observers, in seconds."""

logger = logging.getLogger("missive")


class Engine:
    """Runs one processor over its sources. `main` is its life, on a loop of its own."""

    stations: Stations
    """The connected stations; set when `main` begins."""

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
        observers: Sequence[Observer] = (),
    ) -> None:
        self._processor = processor
        self._adapters = adapters
        self._sink = sink
        self._concurrency = concurrency
        self._drain_seconds = drain
        self._handlers_loop = handlers_loop
        self._runtime = runtime or Runtime()
        check_declarations(processor, sink, self._runtime)
        self._state = EngineState()
        self._state.observers = Observers(observers)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_requests = 0
        self._drained_at = math.inf
        """When the drain must have ended, on the engine's clock."""
        self.cut_short = False
        """Whether the drain ended while work was running. Such work may also keep the process from ending."""

    # From outside, on any thread

    @property
    def report(self) -> Report:
        """What became of the messages so far."""
        return self._state.report

    @property
    def state(self) -> str:
        """The phase: `connecting` until every source is connected, then `running`, then `stopping`."""
        if self._stop_requests or self._state.failure is not None:
            return "stopping"
        sources = [source for source in self._state.sources if not source.adapter.background]
        connected = sources and all(source.ended or source.session is not None for source in sources)
        return "running" if connected else "connecting"

    def share_sources(self, digest_key: bytes) -> Placements:
        """Note that this process is one of several workers. Called before `main`.

        Return the lanes of values for the supervisor, under its key.
        """
        self._state.one_of_several = True
        self._state.placements.share(digest_key)
        return self._state.placements

    def stop(self) -> None:
        """Drain and stop. The second call stops at once."""
        self._stop_requests += 1
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the engine has ended
                loop.call_soon_threadsafe(self._stop_requested)

    def stop_once(self) -> None:
        """Drain and stop, unless that has begun."""
        if not self._stop_requests:
            self.stop()

    # The life

    async def main(self) -> Report:
        """Run until the input ends, `stop` is called, or something fails; then drain and return the report.

        Raises `ForcedStop` when the drain was cut short, and other `MissiveError`s when processing failed.
        """
        self._loop = asyncio.get_running_loop()
        self._force = asyncio.Event()
        assembler = Assembler(
            self._processor, self._sink, self._concurrency, self._handlers_loop, self._state, self._runtime
        )
        self.stations = assembler.assemble(self._adapters)
        if self._stop_requests:
            self._stop_requested()
        try:
            await self._start_and_run()
        finally:
            await self._close()
        if self._state.failure is not None:
            raise self._state.failure
        return self._state.report

    async def _start_and_run(self) -> None:
        stations = self.stations
        try:
            if not await self._within_drain(asyncio.ensure_future(self._start())):
                self.cut_short = True
                raise ForcedStop("stopped by force: a before_processing hook did not end")
        except MissiveError as failure:
            self._state.fail(failure)
            return
        loops = [self._guard(loop) for stage in stations.stages.all for loop in stage.loops()]
        loops += [self._guard(watchdog.run()) for watchdog in stations.watchdogs]
        if self._state.observers.tick:
            loops.append(self._guard(self._tick()))
        intakes = [self._guard(intake.run()) for intake in stations.intakes.values()]
        stations.monitor.poll()
        await self._until_done(intakes)
        await self._drain(intakes)
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        for drained in self._state.observers.drained:
            drained()

    async def _start(self) -> None:
        for stage in self.stations.stages.all:
            await stage.open()
        for pool in self.stations.pools:
            await pool.start()

    async def _within_drain(self, starting: asyncio.Task[None]) -> bool:
        """Wait for the start. After a stop signal, wait for the time of a drain. Return whether it is done."""
        stopped = asyncio.ensure_future(self._state.stop.wait())
        forced = asyncio.ensure_future(self._force.wait())
        await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            late = asyncio.wait([starting, forced], return_when=asyncio.FIRST_COMPLETED)
            await self._runtime.within(self._drain_seconds, late)
        done = starting.done()
        for task in (stopped, forced, starting):
            task.cancel()
        if done:
            starting.result()
        return done

    async def _tick(self) -> None:
        while True:
            await self._runtime.sleep(_TICK_SECONDS)
            for tick in self._state.observers.tick:
                tick()

    def _guard(self, loop: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a loop as a task. An exception stops the engine; none is lost."""

        async def guarded() -> None:
            try:
                await loop
            except MissiveError as failure:
                self._state.fail(failure)
            except Exception as error:  # noqa: BLE001 - a mistake of the engine or an adapter must not hang silently
                self._state.fail(ProcessingFailed(f"the engine failed: {describe_exception(error)}"))

        return asyncio.ensure_future(guarded())

    async def _until_done(self, intakes: Sequence[asyncio.Task[None]]) -> None:
        """Wait until a stop is requested, or every input that ends has ended and is settled, also in the store."""
        state = self._state
        while not state.stop.is_set():
            # A background source, such as the replay adapter, keeps nothing alive.
            if all(s.ended and not s.items for s in state.sources if not s.adapter.background):
                relocation = self.stations.relocation
                if relocation is None or not await relocation.has_left():
                    return
                await self._runtime.within(_MOMENT, state.stop.wait())
                continue
            state.changed.clear()
            stopped = asyncio.ensure_future(state.stop.wait())
            changed = asyncio.ensure_future(state.changed.wait())
            waiting = [task for task in intakes if not task.done()]
            await asyncio.wait([stopped, changed, *waiting], return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            changed.cancel()

    # Stopping

    def _stop_requested(self) -> None:
        if self._stop_requests > 1:
            self._force.set()
        self._state.stop.set()

    async def _drain(self, intakes: Sequence[asyncio.Task[None]]) -> None:
        """Stop intake, give back unstarted work, and let the rest finish, all within the deadline."""
        self._drained_at = self._runtime.monotonic() + self._drain_seconds
        self.stations.drain.stop_starting()
        cancel_report = self._runtime.call_later(_MOMENT, self._report_waiting)
        draining = self._guard(self._finish(intakes))
        forced = asyncio.ensure_future(self._force.wait())
        late = asyncio.ensure_future(self._runtime.sleep(self._drain_seconds))
        await asyncio.wait([draining, forced, late], return_when=asyncio.FIRST_COMPLETED)
        self.cut_short = not draining.done()
        cancel_report()
        for task in (draining, forced, late):
            task.cancel()
        if self._state.stuck and self.cut_short:
            hanging, now = self.stations.monitor.give_up(), self._runtime.monotonic()
            await self._runtime.within(_FLUSH_SECONDS, self.stations.drain.file_stuck(hanging, now))
        await self._runtime.within(self._left(_FLUSH_SECONDS), self._flush_settlers())
        settling = {source.settler for source in self._state.sources}
        await self._runtime.within(
            self._left(_FLUSH_SECONDS),
            self._flush_stages([stage for stage in self.stations.stages.all if stage not in settling]),
        )
        self._report_unsettled()

    def _left(self, seconds: float) -> float:
        """Return how long one of the last steps may take: at most `seconds`, so that a drain keeps its time."""
        return min(seconds, max(_LAST_SECONDS, self._drained_at - self._runtime.monotonic()))

    @staticmethod
    async def _flush_stages(stages: Sequence[Stage]) -> None:
        for stage in stages:
            await stage.flush()

    async def _flush_settlers(self) -> None:
        # In a coroutine, because asyncio reports a cancelled gather() as an exception that was never retrieved.
        await asyncio.gather(*(source.settler.flush() for source in self._state.sources))

    def _report_waiting(self) -> None:
        if self._state.stop.is_set() and self.stations.dispatcher.running:
            logger.info("stopping: waiting up to %g s for running handlers", self._drain_seconds)

    async def _finish(self, intakes: Sequence[asyncio.Task[None]]) -> None:
        while waiting := [intake for intake in intakes if not intake.done()]:
            for intake in waiting:
                intake.cancel()
            # Repeated, because a client that connects may swallow a cancellation, and the source then fetches.
            await self._runtime.within(_MOMENT, asyncio.wait(waiting))
        drain = self.stations.drain
        stopped = await asyncio.gather(*map(self._stop_intake, self._state.sources))
        drain.give_back([left for left in stopped if left is not None])
        await drain.finished()

    async def _stop_intake(self, source: Source) -> tuple[Source, Session, Sequence[Delivery]] | None:
        session = source.session
        if session is None:
            return None
        try:
            stopping = asyncio.ensure_future(session.stop_intake())
            # The records of a store that does not answer must not keep other messages from being given back.
            if source.adapter.background and not await self._runtime.within(_MOMENT, stopping):
                return None
            return source, session, await stopping
        except MissiveError as error:
            logger.warning("%s while stopping intake", error)
        except Exception as error:  # noqa: BLE001 - a mistake of one adapter must not keep the others from draining
            logger.error("%s failed while stopping intake: %s", source.adapter.url, describe_exception(error))  # noqa: TRY400 - no text
        return None

    def _report_unsettled(self) -> None:
        state, stations = self._state, self.stations
        running, left = stations.dispatcher.running, state.unsettled
        state.report.unsettled = left
        if self.cut_short and (left or not state.stuck):
            logger.error(
                "stopped by force with %d messages running and %d dead letters not yet in their store",
                running,
                stations.dead_letters.pending,
            )
            if state.failure is None:
                state.failure = ForcedStop(
                    f"stopped before {left} messages were settled; their transports redeliver them where they can"
                )
        for source in state.sources:
            if source.items and source.session is not None and source.session.capabilities.release == "none":
                logger.error("messages read from %s that are lost: %d", source.adapter.url, source.items)

    async def _close(self) -> None:
        stations = self.stations
        for pool in stations.pools:
            pool.withdraw()  # the work that a drain that was cut short left unstarted
            stopping = asyncio.ensure_future(pool.stop())
            if await self._runtime.within(_FORCED_STOP_SECONDS if pool.outstanding else _STOP_SECONDS, stopping):
                failed = stopping.exception()
                if isinstance(failed, MissiveError):
                    self._state.fail(failed)
            elif not pool.outstanding:
                logger.warning("after_processing hooks or resources did not end in %g s", _STOP_SECONDS)
        await asyncio.gather(*map(self._close_session, self._state.sources))
        for stage in stations.stages.all:
            stage.close()
        closing = asyncio.ensure_future(stations.store.close())
        if await self._runtime.within(self._left(_CLOSE_SECONDS), closing) and isinstance(
            error := closing.exception(), MissiveError
        ):
            logger.warning("%s", error)

    async def _close_session(self, source: Source) -> None:
        if source.session is None:
            return
        closing = asyncio.ensure_future(source.session.close())
        if await self._runtime.within(self._left(_CLOSE_SECONDS), closing) and (error := closing.exception()):
            # Everything that can be settled is settled.
            logger.warning("%s failed to close (%s)", source.adapter.url, type(error).__name__)
        source.adapter.attach(None)
