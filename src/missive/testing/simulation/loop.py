"""Virtual time: an event loop that advances its clock to the next timer instead of waiting."""

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

_MAX_IDLE_TURNS = 20_000
"""After this many turns without an advance of time, the loop raises Livelock."""


class Deadlock(Exception):
    """Raised by the loop when every task waits and no timer is set.

    A task waits forever, or for a real thread or socket, which do not exist in virtual time.
    """


class Livelock(Exception):
    """Raised by the loop when tasks keep running and no time passes."""


class Clock:
    """Virtual seconds, shared by the loops of one schedule."""

    def __init__(self) -> None:
        self.now = 0.0


class _VirtualSelector(selectors.SelectSelector):
    """Advances the clock instead of waiting. No socket is ever ready."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.turns = 0
        """Number of calls since time last advanced."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock
        if timeout > 0:
            self._clock.now += timeout
            self.turns = 0
        else:
            self.turns += 1
            if self.turns > _MAX_IDLE_TURNS:
                raise Livelock
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop on a virtual clock. Equal calls give an equal order of callbacks."""

    def __init__(self, clock: Clock) -> None:
        self._virtual = clock
        self._ending = False
        self._tasks: list[asyncio.Task[Any]] = []
        self._virtual_selector = _VirtualSelector(clock)
        super().__init__(self._virtual_selector)
        self.set_task_factory(self._new_task)

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self._virtual.now

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Call `call_soon`, because no other threads exist."""
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(
        self,
        executor: Executor | None,  # noqa: ARG002 - no threads exist
        func: Callable[[*Ts], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        """Call a function at once, and return its result at the next turn."""
        future: asyncio.Future[T] = self.create_future()
        try:
            result = func(*args)
        except Exception as error:  # noqa: BLE001 - passed to the caller
            self.call_soon(_settle, future, None, error)
        else:
            self.call_soon(_settle, future, result, None)
        return future

    def unfinished(self) -> Sequence[asyncio.Task[Any]]:
        """Return the running tasks, the oldest first."""
        return [task for task in self._tasks if not task.done()]

    def _new_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        if self._ending:
            coro.close()
            raise RuntimeError("the loop is unwinding and starts no tasks")
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
        self._tasks.append(task)
        return task

    def unwind(self) -> None:
        """Cancel all tasks until none is left, without an advance of time and without new tasks."""
        self._ending = True
        self._virtual_selector.turns = 0
        for _ in range(_MAX_IDLE_TURNS):
            if not (alive := self.unfinished()):
                break
            for task in alive:
                task.cancel()
            self.call_soon(self.stop)
            self.run_forever()
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.exception()  # marks the exception as retrieved


def name_of(task: asyncio.Task[Any]) -> str:
    """Return the name of the coroutine of a task."""
    coro = task.get_coro()
    return getattr(coro, "__qualname__", type(coro).__name__)


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if not future.done():
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
