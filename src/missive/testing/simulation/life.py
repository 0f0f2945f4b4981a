"""One life: an engine on a loop of its own, until it is killed, told to stop, or done."""

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
"""So many seconds in which nothing is handled or settled, with nothing due, are no progress."""
_LOOKING = 10.0
_TO_STOP = 40.0
"""Seconds that an engine may take to stop, beyond its drain."""
_MOMENTS = (0.0, 0.0, 0.001, 0.02)
_DURATIONS = (0.0, 0.001, 0.01, 0.1, 1.0)


class End(StrEnum):
    """How a life ends."""

    crash = "crash"
    stop = "stop"
    force = "force"
    quiet = "quiet"
    """When everything is settled, without another fault."""


class Life:
    """Runs one engine over the world's broker and store. `dead` means that nothing it does has an effect any more."""

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
        self._seen = (0, 0)
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
        """Run it to its end, and leave nothing of it behind."""
        world, loop = self.world, self.loop
        world.trace.add("start", None, self.number)
        self._plan()
        main = loop.create_task(self._engine.main())
        main.add_done_callback(lambda _: loop.stop())
        try:
            loop.run_forever()
            if not self.dead and world.broken is None:
                self._check_end(main)
        except Deadlock:
            world.fail(Promise.progress, f"everything waits for ever: {self._alive()}")
        except Livelock:
            world.fail(Promise.progress, f"something runs in circles: {self._alive()}")
        self._die()
        loop.unwind()
        loop.close()

    # What others ask

    def moment(self) -> float:
        """Return how long it takes until another thread goes on."""
        return self._random.choice(_MOMENTS) * self._random.random()

    def duration(self, work: Work) -> float:
        """Return how long a sync handler takes: less than its timeout, for nothing can interrupt it."""
        timeout = float("inf") if work.route is None else work.route.terms.timeout
        return min(self._longest, timeout / 2) * self._random.random()

    def either(self) -> bool:
        """Return one or the other."""
        return self._random.random() < 0.5  # noqa: PLR2004

    async def pass_time(self) -> None:
        """Take as long as a call does in this weather."""
        self.point()
        if (delay := self.world.weather.delay()) > 0:
            await asyncio.sleep(delay)

    def point(self) -> None:
        """Pass a point at which the process may die."""
        if self._crash_in is not None:
            self._crash_in -= 1
            if self._crash_in == 0:
                self.crash()

    def started(self, work: Work) -> None:
        """Note that a handler begins."""
        if not self.dead:
            self.world.ledger.started(work)
            self.point()

    def ended(self, work: Work, *, cancelled: bool) -> None:
        """Note that a handler ended."""
        if not self.dead:
            self.world.ledger.ended(work, cancelled=cancelled)
            self.point()

    # How it ends

    def _plan(self) -> None:
        random, loop = self._random, self.loop
        if self._end is End.quiet:
            # Either the process that goes through the faults recovers, or one that has seen none.
            loop.call_later(random.random() * 5 if self.either() else 0.0, self._clear_up)
            loop.call_later(_LOOKING, self._look)
            if not self.world.broker.open:
                loop.call_later(0.5, self._engine.stop)
            return
        at = random.random() * random.choice((0.1, 1.0, 4.0))
        if self._end is End.crash:
            if self.either():
                self._crash_in = random.randint(1, 150)
            loop.call_later(at if self._crash_in is None else 8.0, self.crash)
            return
        loop.call_later(at, self._stop)
        if self._end is End.force:
            loop.call_later(at + random.random() * 0.2, self._stop)

    def _clear_up(self) -> None:
        world = self.world
        world.trace.add("clears up")
        calm = not world.weather.answers and not world.weather.transient
        world.weather.clear_up()
        world.broker.calm_since = world.clock.now
        # What the transport was told and never heard comes again with the next session.
        for session in () if calm else self.sessions:
            if any(one.session is session and one.in_limbo for one in world.ledger.holders):
                session.die()

    def crash(self) -> None:
        """Die at this instant."""
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
            self.loop.call_later(self._drain + _TO_STOP, self._too_late)

    def _too_late(self) -> None:
        self.world.fail(Promise.stops, f"it did not: {self._alive()}")

    def _wake(self) -> None:
        for session in self.sessions:
            session.wake()

    def _emptied(self) -> None:
        if self._end is End.quiet:
            # Long enough for whatever still comes of itself.
            self.loop.call_later(self._random.random() * 2, self._stop)

    def _look(self) -> None:
        """See whether there is progress."""
        world = self.world
        done = (world.broker.open, world.ledger.runs)
        if done != self._seen or world.clock.now <= world.ledger.due + _PATIENCE:
            self._seen = done
            self.loop.call_later(_PATIENCE, self._look)
            return
        left = ", ".join(f"m{entry.number}" for entry in world.ledger.entries if not entry.gone)
        self.world.fail(Promise.progress, f"there is none, with {left or 'nothing'} unsettled")

    def _check_end(self, main: asyncio.Task[Any]) -> None:
        """Check how the engine ended that was not killed."""
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
            world.fail(Promise.nothing_left, f"{', '.join(map(name_of, left))} did not")
        if error is None and world.ledger.running:
            world.fail(Promise.nothing_left, "a handler still runs")
        world.trace.add("ended by itself" if error is None else "ended by force")

    def _alive(self) -> str:
        return ", ".join(map(name_of, self.loop.unfinished())) or "nothing"

    def _unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not self.dead:
            error = context.get("exception")
            what = type(error).__name__ if error is None else describe_exception(error)
            self.world.fail(Promise.no_error, f"{context['message']}: {what}")
