"""Life: one simulated process, from the start of its engine until the process dies, stops or is done."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Any

from missive.app.processor import Processor
from missive.dlq.failure import describe_exception
from missive.engine.engine import Engine
from missive.engine.job import Work
from missive.errors import ForcedStop, MissiveError
from missive.testing.simulation.loop import Deadlock, Livelock, VirtualLoop, name_of
from missive.testing.simulation.runtime import SimulatedRuntime
from missive.testing.simulation.session import SimulatedAdapter, SimulatedSession
from missive.testing.simulation.store import SimulatedStore
from missive.testing.simulation.trace import Promise
from missive.testing.simulation.world import World

_PATIENCE = 120.0
"""Time without a run, a settlement or a due retry that counts as no progress, in seconds."""
_FIRST_CHECK = 10.0
"""Time until the first check for progress, in seconds."""
_STOP_SECONDS = 40.0
"""Maximum time for a stop, in addition to the drain, in seconds."""
_PAUSES = (0.0, 0.0, 0.001, 0.02)
"""Maximum times until another thread continues, in seconds."""
_DURATIONS = (0.0, 0.001, 0.01, 0.1, 1.0)
"""Maximum durations of sync handlers, in seconds."""


class End(StrEnum):
    """The end of a life."""

    crash = "crash"
    stop = "stop"
    force = "force"
    quiet = "quiet"
    """The engine stops after everything is settled. Faults end during this life."""


class Life:
    """Runs one engine with the broker and the store of the world. After `dead` is set, its actions have no effect."""

    def __init__(
        self, world: World, processor: Processor[Any], number: int, end: End, *, concurrency: int, drain: float
    ) -> None:
        self.world = world
        self.number = number
        self.dead = False
        self.loop = VirtualLoop(world.clock)
        self.sessions: list[SimulatedSession] = []
        self._end = end
        self._drain = drain
        self._random = world.random
        self._longest = self._random.choice(_DURATIONS)
        self._crash_in: int | None = None
        self._progress = (0, 0)
        self._stopping = False
        world.ledger.new_life(concurrency)
        self.loop.set_exception_handler(self._unhandled)
        self._engine = Engine(
            processor,
            [SimulatedAdapter(processor, self, drain)],
            sink=SimulatedStore(self),
            concurrency=concurrency,
            drain=drain,
            handlers_loop=self.loop,
            runtime=SimulatedRuntime(self),
        )
        world.stop = self.loop.stop
        world.broker.changed = self._wake
        world.broker.emptied = self._emptied

    def run(self) -> None:
        """Run the life to its end, and end all its tasks."""
        world, loop = self.world, self.loop
        world.trace.add("start", None, self.number)
        self._plan()
        main = loop.create_task(self._engine.main())
        main.add_done_callback(lambda _: loop.stop())
        try:
            loop.run_forever()
            if not self.dead and world.failure is None:
                self._check_end(main)
        except Deadlock:
            world.fail(Promise.progress, f"everything waits forever: {self._alive()}")
        except Livelock:
            world.fail(Promise.progress, f"something loops without end: {self._alive()}")
        self._die()
        loop.unwind()
        loop.close()

    # Calls from the other parts of the simulation

    def pause(self) -> float:
        """Return the time until another thread continues, in seconds."""
        return self._random.choice(_PAUSES) * self._random.random()

    def duration(self, work: Work) -> float:
        """Return the duration of a sync handler, in seconds: below its timeout, because it cannot be interrupted."""
        timeout = float("inf") if work.route is None else work.route.terms.timeout
        return min(self._longest, timeout / 2) * self._random.random()

    def coin(self) -> bool:
        """Return a random bool."""
        return self._random.random() < 0.5  # noqa: PLR2004

    async def delay_call(self) -> None:
        """Wait for the duration of a call, which may be slow. The process may die before."""
        self.crash_point()
        if (delay := self.world.rates.delay()) > 0:
            await asyncio.sleep(delay)

    def crash_point(self) -> None:
        """Die, if the process is to die at this point."""
        if self._crash_in is not None:
            self._crash_in -= 1
            if self._crash_in == 0:
                self.crash()

    def started(self, work: Work) -> None:
        """Note that a handler starts."""
        if not self.dead:
            self.world.ledger.started(work)
            self.crash_point()

    def ended(self, work: Work, *, cancelled: bool) -> None:
        """Note that a handler ended."""
        if not self.dead:
            self.world.ledger.ended(work, cancelled=cancelled)
            self.crash_point()

    # The end

    def _plan(self) -> None:
        random, loop = self._random, self.loop
        if self._end is End.quiet:
            # Faults end during this life or at its start: a process that saw faults recovers, or a fresh one.
            loop.call_later(random.random() * 5 if self.coin() else 0.0, self._end_faults)
            loop.call_later(_FIRST_CHECK, self._check_progress)
            if not self.world.broker.open:
                loop.call_later(0.5, self._engine.stop)
            return
        at = random.random() * random.choice((0.1, 1.0, 4.0))
        if self._end is End.crash:
            if self.coin():
                self._crash_in = random.randint(1, 150)
            loop.call_later(at if self._crash_in is None else 8.0, self.crash)
            return
        loop.call_later(at, self._stop)
        if self._end is End.force:
            loop.call_later(at + random.random() * 0.2, self._stop)

    def _end_faults(self) -> None:
        world = self.world
        world.trace.add("faults end")
        calm = not world.rates.answers and not world.rates.transient
        world.rates.clear()
        world.broker.calm_since = world.clock.now
        # Messages whose settlement was lost are redelivered to the next session.
        for session in () if calm else self.sessions:
            if any(one.session is session and one.unconfirmed for one in world.ledger.holders):
                session.die()

    def crash(self) -> None:
        """Die now."""
        if not self.dead:
            self.world.trace.add("crash")
            self._die()
            self.loop.stop()

    def _die(self) -> None:
        self.dead = True
        for session in self.sessions:
            session.die()

    def _stop(self) -> None:
        self.world.trace.add("stop")
        self._engine.stop()
        if not self._stopping:
            self._stopping = True
            self.loop.call_later(self._drain + _STOP_SECONDS, self._too_late)

    def _too_late(self) -> None:
        self.world.fail(Promise.stops, f"it did not stop: {self._alive()}")

    def _wake(self) -> None:
        for session in self.sessions:
            session.wake()

    def _emptied(self) -> None:
        if self._end is End.quiet:
            # Leave some time for late events.
            self.loop.call_later(self._random.random() * 2, self._stop)

    def _check_progress(self) -> None:
        """Fail the schedule when there was no progress since the last check."""
        world = self.world
        done = (world.broker.open, world.ledger.runs)
        if done != self._progress or world.clock.now <= world.ledger.due + _PATIENCE:
            self._progress = done
            self.loop.call_later(_PATIENCE, self._check_progress)
            return
        left = ", ".join(f"m{entry.number}" for entry in world.ledger.entries if not entry.removed)
        self.world.fail(Promise.progress, f"it stopped with {left or 'nothing'} unsettled")

    def _check_end(self, main: asyncio.Task[Any]) -> None:
        """Check the end of an engine that was not killed."""
        world = self.world
        if not main.done():
            world.fail(Promise.stops, "the loop was stopped before the engine ended")
            return
        error = main.exception()
        expected = error is None or (isinstance(error, ForcedStop) and self._end is not End.quiet)
        if not expected:
            text = str(error) if isinstance(error, MissiveError) else type(error).__name__
            world.fail(Promise.stops, f"it ended with {type(error).__name__}: {text}")
        if left := self.loop.unfinished():
            world.fail(Promise.nothing_left, f"{', '.join(map(name_of, left))} still runs")
        if error is None and world.ledger.running:
            world.fail(Promise.nothing_left, "a handler still runs")
        world.trace.add("ended normally" if error is None else "ended by force")

    def _alive(self) -> str:
        return ", ".join(map(name_of, self.loop.unfinished())) or "nothing"

    def _unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not self.dead:
            error = context.get("exception")
            what = type(error).__name__ if error is None else describe_exception(error)
            self.world.fail(Promise.no_error, f"{context['message']}: {what}")
