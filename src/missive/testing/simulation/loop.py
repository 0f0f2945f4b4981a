"""Virtual time: an event loop that never waits, and jumps to the next thing that is due."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextvars import Context
from typing import Any, TypeVar

from typing_extensions import TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_MOST_AT_ONCE = 20_000
"""So many turns of a loop without time going on are a circle."""


class Deadlock(Exception):
    """Everything waits, and nothing is due: on real threads or sockets, which no virtual time has, or for ever."""


class Livelock(Exception):
    """Something goes on and on, and no time passes."""


class Clock:
    """Virtual seconds, which go on over several loops."""

    def __init__(self) -> None:
        self.now = 0.0


class _NeverWaits(selectors.SelectSelector):
    """Finds nothing ready; in place of waiting, it moves the clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.turns = 0
        """How often it was asked without time going on."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock
        if timeout > 0:
            self._clock.now += timeout
            self.turns = 0
        else:
            self.turns += 1
            if self.turns > _MOST_AT_ONCE:
                raise Livelock
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop on a virtual clock. The order in which it runs things depends on nothing but what was asked of it."""

    def __init__(self, clock: Clock) -> None:
        self._virtual = clock
        self._ending = False
        self._tasks: list[asyncio.Task[Any]] = []
        self._never_waits = _NeverWaits(clock)
        super().__init__(self._never_waits)
        self.set_task_factory(self._new_task)

    def time(self) -> float:
        """Return virtual seconds."""
        return self._virtual.now

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Call soon: there are no other threads."""
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(
        self,
        executor: Executor | None,  # noqa: ARG002 - there are no threads
        func: Callable[[*Ts], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        """Call a function here and now, and give its result at the next turn."""
        future: asyncio.Future[T] = self.create_future()
        try:
            result = func(*args)
        except Exception as error:  # noqa: BLE001 - the caller gets it
            self.call_soon(_settle, future, None, error)
        else:
            self.call_soon(_settle, future, result, None)
        return future

    def unfinished(self) -> Sequence[asyncio.Task[Any]]:
        """Return the tasks that are not done, the oldest first."""
        return [task for task in self._tasks if not task.done()]

    def _new_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        if self._ending:
            coro.close()
            raise RuntimeError("the loop is coming to its end")
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
        self._tasks.append(task)
        return task

    def unwind(self) -> None:
        """Cancel everything until there is nothing left, without time going on and without anything new."""
        self._ending = True
        self._never_waits.turns = 0
        for _ in range(_MOST_AT_ONCE):
            if not (alive := self.unfinished()):
                break
            for task in alive:
                task.cancel()
            self.call_soon(self.stop)
            self.run_forever()
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.exception()  # so that it counts as seen


def name_of(task: asyncio.Task[Any]) -> str:
    """Return the name of what a task runs."""
    coro = task.get_coro()
    return getattr(coro, "__qualname__", type(coro).__name__)


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if not future.done():
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
