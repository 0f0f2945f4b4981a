"""Contexts: one for each attempt at a message, and one for each worker. Handlers and hooks receive them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol

from typing_extensions import TypeVar

from missive.durations import seconds
from missive.errors import DeadLetter, OutcomeConflict, ResourceError, UsageError
from missive.messages import Message
from missive.outcome import Outcome
from missive.resources.key import NO_OVERRIDES, Overrides, ResourceKey, belongs_to_worker
from missive.resources.scope import AttemptResources, WorkerResources

if TYPE_CHECKING:
    from missive.app.processor import Processor
    from missive.once.declaration import Once
    from missive.once.table import Effect

M_co = TypeVar("M_co", bound=Message, covariant=True, default=Message)
T = TypeVar("T")


class State:
    """A namespace for your own attributes: `context.state.connection = …`."""

    __slots__ = ("__dict__",)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def __repr__(self) -> str:
        return f"<State: {', '.join(vars(self)) or 'empty'}>"


class Recorded(NamedTuple):
    """The outcome that a handler recorded, with its label, detail and delay in seconds."""

    outcome: Outcome
    label: str | None = None
    detail: str | None = None
    delay: float | None = None

    def __repr__(self) -> str:
        return f"<Recorded: {self.outcome}>"


_ACKED = Recorded(Outcome.acked)
_NACKED = Recorded(Outcome.nacked)


class RunningAttempt(Protocol):
    """The part of a running attempt that its context uses."""

    @property
    def deadline(self) -> float:
        """The time of the attempt's timeout, in seconds on the engine's clock; infinite without a timeout."""
        ...

    @property
    def handler(self) -> str | None:
        """The name of the handler."""
        ...

    @property
    def once(self) -> Once[Any] | None:
        """The `once=` of the handler, or None."""
        ...

    def grant(self, seconds: float) -> None:
        """Extend the timeout. Raise `UsageError` when the lease cannot be renewed and would end first."""
        ...

    def mark_duplicate(self, duplicate: bool) -> None:
        """Record whether the effect of the message has already happened."""
        ...


class ProcessingContext(Generic[M_co]):
    """The context of one worker. Each sync worker thread has its own, and async handlers share one.

    `state` holds the objects of `before_processing` hooks, such as a connection, which therefore stays in one thread.
    """

    __slots__ = ("_processor", "clock", "opened", "overrides", "state")

    def __init__(
        self,
        processor: Processor[Any],
        clock: Callable[[], float] = time.monotonic,
        overrides: Overrides = NO_OVERRIDES,
    ) -> None:
        self._processor = processor
        self.clock = clock
        self.state = State()
        self.overrides = overrides
        """The replacements of resources in a test client."""
        self.opened: WorkerResources | None = None
        """For the engine: the open resources, which it closes; None before the first use."""

    @property
    def processor(self) -> Processor[Any]:
        """The processor that the engine runs."""
        return self._processor

    def get(self, key: ResourceKey[T]) -> T:
        """Return a worker's resource, as `HandlingContext.get` does. Raise `ResourceError` for a message's resource."""
        return self._resources(key).get(key, self)

    async def aget(self, key: ResourceKey[T]) -> T:
        """Return a worker's resource, sync or async, as `HandlingContext.aget` does."""
        return await self._resources(key).aget(key, self)

    def _resources(self, key: ResourceKey[Any]) -> WorkerResources:
        if not belongs_to_worker(key):
            raise ResourceError(
                f"the resource {key.name} belongs to a message: get it from a HandlingContext, or declare it with"
                " scope='worker'"
            )
        if self.opened is None:
            self.opened = WorkerResources(self.overrides)
        return self.opened


class HandlingContext(Generic[M_co]):
    """The context of one attempt at one message.

    `ack`, `nack`, `retry`, `dead_letter` and `discard` record the outcome. The message is settled when the handler is
    done. A handler that returns without recording an outcome acks. An exception is a failure, also after `ack()`; any
    other recorded outcome stands. Recording a second, different outcome raises `OutcomeConflict`.

    Use a context only in its own handler and hooks, and not after they finish.
    """

    __slots__ = (
        "_adapter",
        "_attempt",
        "_decided",
        "_exception",
        "_message",
        "_native",
        "_running",
        "_state",
        "_worker",
        "opened",
        "recorded",
    )

    def __init__(
        self,
        message: M_co,
        worker: ProcessingContext[Any],
        attempt: int = 1,
        native: object = None,
        adapter: object = None,
        running: RunningAttempt | None = None,
    ) -> None:
        self._message = message
        self._worker = worker
        self._attempt = attempt
        self._native = native
        self._adapter = adapter
        self._running = running
        self.recorded: Recorded | None = None
        """The outcome that the handler has recorded, for the engine."""
        self._decided: Outcome | None = None
        self._exception: BaseException | None = None
        self._state: State | None = None
        self.opened: AttemptResources | None = None
        """For the engine: the open resources, which it closes; None before the first use."""

    def ack(self) -> None:
        """Record that the message is handled. Returning from the handler does the same."""
        self._record(_ACKED)

    def nack(self) -> None:
        """Record that this worker cannot handle the message now. The message runs again after at least one second.

        A nack spends no attempt.
        """
        self._record(_NACKED)

    def retry(self, after: float | timedelta | None = None) -> None:
        """Record that the message must run again, as its next attempt.

        `after` is the delay in seconds, or a timedelta. None takes the delay of the retry policy, or five seconds.
        Raise ValueError for a negative or infinite delay.
        """
        self._record(Recorded(Outcome.retried, delay=seconds(after)))

    def dead_letter(self, reason: str, *, detail: str | None = None) -> None:
        """Record that the message becomes a dead letter.

        `reason` is a short constant label, which operators see and metrics count. `detail` is as confidential as the
        message.
        """
        self._record(Recorded(Outcome.dead_lettered, label=reason, detail=detail))

    def discard(self, reason: str) -> None:
        """Record that the message needs no work. `reason` is a short constant label."""
        self._record(Recorded(Outcome.discarded, label=reason))

    def extend(self, more: float | timedelta) -> None:
        """Extend the timeout of this attempt by a number of seconds, or a timedelta.

        The engine renews the lease of the message while the handler runs. Raise `UsageError` when the transport's
        lease cannot be renewed and would end before the new timeout.
        """
        running, granted = self._running, seconds(more)
        if running is not None and granted is not None:
            running.grant(granted)

    @property
    def remaining(self) -> float:
        """The seconds until the timeout of this attempt; negative after it, infinite without a timeout."""
        return float("inf") if self._running is None else self._running.deadline - self._worker.clock()

    def get(self, key: ResourceKey[T]) -> T:
        """Return the value of a resource. The first use opens the resource, and later uses return the same object.

        A message's resource is closed when its handler is done, and a worker's resource when the worker ends. Raise
        the exception that the resource's function raises before its yield; the next use then opens it anew. Raise
        `ResourceError` for an async resource, which `await context.aget(key)` opens.
        """
        if belongs_to_worker(key):
            return self._worker.get(key)
        return self._resources().get(key, self)

    async def aget(self, key: ResourceKey[T]) -> T:
        """Return the value of a sync or async resource; else as `get`. Sync resources are opened on the loop."""
        if belongs_to_worker(key):
            return await self._worker.aget(key)
        return await self._resources().aget(key, self)

    def _resources(self) -> AttemptResources:
        if self.opened is None:
            self.opened = AttemptResources(self._worker.overrides)
        return self.opened

    def claim(self, connection: Any) -> bool:
        """Claim the effect of this message in the handler's transaction. Return False when it has already happened.

        A handler with `once=` calls `if not context.claim(connection): return` before the effect, in the same
        transaction. `connection` is a Connection or Session of SQLAlchemy, or a connection of sqlite3, psycopg,
        psycopg2, pymysql or mysqlclient. The call blocks while another transaction holds the same claim; an async
        handler therefore uses `aclaim`.

        Raise `OnceConflict` when the effect has happened for another body, `DeadLetter` for a message without a key,
        `UsageError` for a handler without `once=` or a connection without a transaction, and the errors of the
        database.
        """
        from missive.once.table import claim  # noqa: PLC0415 - only handlers that claim load it

        return self._claimed(claim(connection, self._effect()))

    async def aclaim(self, connection: Any) -> bool:
        """Claim as `claim` does, with SQLAlchemy's AsyncConnection or AsyncSession, or psycopg's AsyncConnection."""
        from missive.once.table import aclaim  # noqa: PLC0415 - as above

        return self._claimed(await aclaim(connection, self._effect()))

    def _effect(self) -> Effect:
        from missive.once.declaration import NO_KEY, checked_name  # noqa: PLC0415 - as above
        from missive.once.table import Effect  # noqa: PLC0415 - as above

        handler = None if self._running is None else self._running.handler
        once = None if self._running is None else self._running.once
        if handler is None or once is None:
            raise UsageError(f"{handler or 'this handler'} has no once=. Declare the key of its effects with once=")
        digest = once.digest_of(self._message)
        if digest is None:
            raise DeadLetter(NO_KEY)
        service = checked_name(self._worker.processor.name, "a processor")
        return Effect(service, handler, digest, self._message.raw_data, once.ttl)

    def _claimed(self, ours: bool) -> bool:
        if self._running is not None:
            self._running.mark_duplicate(not ours)
        return ours

    def _record(self, recorded: Recorded) -> None:
        earlier = self.recorded
        if earlier is not None and earlier.outcome is not recorded.outcome:
            raise OutcomeConflict(
                f"this message is already recorded as {earlier.outcome}, and cannot be {recorded.outcome} too"
            )
        self.recorded = recorded

    def conclude(self, outcome: Outcome | None, exception: BaseException | None) -> None:
        """Set `outcome` and `exception`. For the engine, before the `after_handling` hooks."""
        self._decided = outcome
        self._exception = exception

    @property
    def outcome(self) -> Outcome | None:
        """The recorded outcome, or None. In `after_handling` hooks, the decided outcome."""
        if self._decided is not None:
            return self._decided
        return self.recorded.outcome if self.recorded is not None else None

    @property
    def exception(self) -> BaseException | None:
        """The exception of the handler, in `after_handling` hooks."""
        return self._exception

    @property
    def message(self) -> M_co:
        """The message."""
        return self._message

    @property
    def processing_ctx(self) -> ProcessingContext[M_co]:
        """The context of the worker that runs the handler."""
        return self._worker

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1, as exactly as the transport reports it."""
        return self._attempt

    @property
    def native(self) -> Any:
        """The transport's object for this message, as the adapter documents it; None in a test client."""
        return self._native

    @property
    def adapter(self) -> Any:
        """The adapter of the message: its `client`, and `call(fn)` to run `fn` on the thread that owns the client."""
        return self._adapter

    @property
    def state(self) -> State:
        """A namespace for this attempt, which its hooks and its handler share."""
        if self._state is None:
            self._state = State()
        return self._state

    def __repr__(self) -> str:
        return f"<HandlingContext: attempt {self._attempt}, {self.outcome or 'undecided'}>"


HandlingHook = Callable[[ProcessingContext[Any], HandlingContext[Any]], object]
"""A `before_handling` or `after_handling` hook."""

ProcessingHook = Callable[[ProcessingContext[Any]], object]
"""A `before_processing` or `after_processing` hook."""
