"""What a handler and a hook are given besides the message: one context a message, one a worker."""

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
    """A bag of attributes of your own: `context.state.connection = …`."""

    __slots__ = ("__dict__",)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def __repr__(self) -> str:
        return f"<State: {', '.join(vars(self)) or 'empty'}>"


class Recorded(NamedTuple):
    """What a handler recorded: the outcome and what goes with it."""

    outcome: Outcome
    label: str | None = None
    detail: str | None = None
    delay: float | None = None

    def __repr__(self) -> str:
        return f"<Recorded: {self.outcome}>"


_ACKED = Recorded(Outcome.acked)
_NACKED = Recorded(Outcome.nacked)


class Attempt(Protocol):
    """The running attempt behind a context, as far as the context needs it."""

    @property
    def deadline(self) -> float:
        """The end of the attempt's timeout, on the engine's clock; infinite without one."""
        ...

    @property
    def handler(self) -> str | None:
        """The name of the handler."""
        ...

    @property
    def once(self) -> Once[Any] | None:
        """The handler's `once=`, if it has one."""
        ...

    def grant(self, seconds: float) -> None:
        """Extend the timeout. Raises `UsageError` where the lease would end first and cannot be renewed."""
        ...

    def mark_duplicate(self, duplicate: bool) -> None:
        """Note whether the effect of the message has already happened."""
        ...


class ProcessingContext(Generic[M_co]):
    """One worker's context: a sync worker thread has its own, async handlers share one.

    `state` keeps what a `before_processing` hook opened, such as a connection, which then never crosses threads.
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
        """What stands in for resources, in a test client."""
        self.opened: WorkerResources | None = None
        """For the engine: what it has to close, once there is something."""

    @property
    def processor(self) -> Processor[Any]:
        """The processor that runs."""
        return self._processor

    def get(self, key: ResourceKey[T]) -> T:
        """Return a resource of the worker's; see `HandlingContext.get`. Raises `ResourceError` for a message's."""
        return self._resources(key).get(key, self)

    async def aget(self, key: ResourceKey[T]) -> T:
        """Return a resource of the worker's, sync or async; see `HandlingContext.aget`."""
        return await self._resources(key).aget(key, self)

    def _resources(self, key: ResourceKey[Any]) -> WorkerResources:
        if not belongs_to_worker(key):
            raise ResourceError(f"the resource {key.name} is a message's: ask a HandlingContext, or make it a worker's")
        if self.opened is None:
            self.opened = WorkerResources(self.overrides)
        return self.opened


class HandlingContext(Generic[M_co]):
    """One attempt at one message: how it should end, and what surrounds it.

    `ack`, `nack`, `retry`, `dead_letter` and `discard` record the outcome; the message is settled when the
    handler is done. Returning without recording one acks; raising is a failure, also after `ack()`, while any
    other recorded outcome stands. Recording a second, different outcome raises `OutcomeConflict`.
    """

    __slots__ = (
        "_adapter",
        "_attempt",
        "_decided",
        "_exception",
        "_message",
        "_native",
        "_recorded",
        "_running",
        "_state",
        "_worker",
        "opened",
    )

    def __init__(
        self,
        message: M_co,
        worker: ProcessingContext[Any],
        attempt: int = 1,
        native: object = None,
        adapter: object = None,
        running: Attempt | None = None,
    ) -> None:
        self._message = message
        self._worker = worker
        self._attempt = attempt
        self._native = native
        self._adapter = adapter
        self._running = running
        self._recorded: Recorded | None = None
        self._decided: Outcome | None = None
        self._exception: BaseException | None = None
        self._state: State | None = None
        self.opened: AttemptResources | None = None
        """For the engine: what it has to close, once there is something."""

    def ack(self) -> None:
        """Record that the message is handled. Optional: returning says the same."""
        self._record(_ACKED)

    def nack(self) -> None:
        """Record 'not here, not now': the message comes back after at least a second, and no attempt is spent."""
        self._record(_NACKED)

    def retry(self, after: float | timedelta | None = None) -> None:
        """Record that the message shall be run again, as its next attempt, after so many seconds (five if None)."""
        self._record(Recorded(Outcome.retried, delay=seconds(after)))

    def dead_letter(self, reason: str, *, detail: str | None = None) -> None:
        """Record that the message shall be filed as a dead letter.

        `reason` is a short constant label, shown and counted; `detail` is kept as confidential as the message.
        """
        self._record(Recorded(Outcome.dead_lettered, label=reason, detail=detail))

    def discard(self, reason: str) -> None:
        """Record that nothing needs to be done about the message; `reason` is a short constant label."""
        self._record(Recorded(Outcome.discarded, label=reason))

    def extend(self, more: float | timedelta) -> None:
        """Grant this attempt so many seconds beyond its timeout.

        The lease of the message needs no care: the engine renews it while the handler runs. Raises `UsageError` where
        the transport's lease cannot be renewed and would end before that.
        """
        running, granted = self._running, seconds(more)
        if running is not None and granted is not None:
            running.grant(granted)

    @property
    def remaining(self) -> float:
        """Seconds until this attempt's timeout; below zero when it has passed, infinite where there is none."""
        return float("inf") if self._running is None else self._running.deadline - self._worker.clock()

    def get(self, key: ResourceKey[T]) -> T:
        """Return what a resource yields: it is opened at its first use, and is the same object afterwards.

        A message's resource is closed when its handler is done, a worker's when the worker ends. Raises whatever its
        function raises before the yield, of which nothing is kept: the next use tries again. Raises `ResourceError`
        for an async resource, which `await context.aget(key)` opens.
        """
        if belongs_to_worker(key):
            return self._worker.get(key)
        return self._resources().get(key, self)

    async def aget(self, key: ResourceKey[T]) -> T:
        """Return what a resource yields, sync or async; else as `get`. A sync one is opened on the loop."""
        if belongs_to_worker(key):
            return await self._worker.aget(key)
        return await self._resources().aget(key, self)

    def _resources(self) -> AttemptResources:
        if self.opened is None:
            self.opened = AttemptResources(self._worker.overrides)
        return self.opened

    def claim(self, connection: Any) -> bool:
        """Claim this message's effect in a transaction of the handler's own; False when the effect is there already.

        For a handler with `once=`: `if not context.claim(connection): return`, before the effect and in the same
        transaction. `connection` is SQLAlchemy's Connection or Session, or one of sqlite3, psycopg, psycopg2, pymysql
        or mysqlclient. It waits while another transaction has the same claim, so an async handler uses `aclaim`.

        Raises `OnceConflict` when the effect happened for another body, `DeadLetter` for a message without a key,
        `UsageError` for a handler without `once=` or a connection that has no transaction, and what the database
        raises.
        """
        from missive.once.table import claim  # noqa: PLC0415 - only those pay for it that use it

        return self._claimed(claim(connection, self._effect()))

    async def aclaim(self, connection: Any) -> bool:
        """Do the same with SQLAlchemy's AsyncConnection or AsyncSession, or psycopg's AsyncConnection."""
        from missive.once.table import aclaim  # noqa: PLC0415 - as above

        return self._claimed(await aclaim(connection, self._effect()))

    def _effect(self) -> Effect:
        from missive.once.declaration import NO_KEY, checked_name  # noqa: PLC0415 - as above
        from missive.once.table import Effect  # noqa: PLC0415 - as above

        handler = None if self._running is None else self._running.handler
        once = None if self._running is None else self._running.once
        if handler is None or once is None:
            raise UsageError(f"{handler or 'this handler'} has no once=, which names the key of its effects")
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
        earlier = self._recorded
        if earlier is not None and earlier.outcome is not recorded.outcome:
            raise OutcomeConflict(
                f"this message was already recorded as {earlier.outcome}, and cannot be {recorded.outcome} too"
            )
        self._recorded = recorded

    def conclude(self, outcome: Outcome | None, exception: BaseException | None) -> None:
        """Set what `outcome` and `exception` answer; the engine calls it before the `after_handling` hooks."""
        self._decided = outcome
        self._exception = exception

    @property
    def recorded(self) -> Recorded | None:
        """What the handler itself recorded so far."""
        return self._recorded

    @property
    def outcome(self) -> Outcome | None:
        """How the attempt ends: what was recorded so far, and in `after_handling` what was decided."""
        if self._decided is not None:
            return self._decided
        return self._recorded.outcome if self._recorded is not None else None

    @property
    def exception(self) -> BaseException | None:
        """What the handler raised, in `after_handling`."""
        return self._exception

    @property
    def message(self) -> M_co:
        """The message."""
        return self._message

    @property
    def processing_ctx(self) -> ProcessingContext[M_co]:
        """The context of the worker that runs this."""
        return self._worker

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1, as exactly as the transport can say."""
        return self._attempt

    @property
    def native(self) -> Any:
        """The transport's own object for this message, as the adapter documents it; None in a test client."""
        return self._native

    @property
    def adapter(self) -> Any:
        """The adapter the message came through: its `client`, and `call(fn)` to run on the thread that owns it."""
        return self._adapter

    @property
    def state(self) -> State:
        """A bag of attributes for this attempt, shared by its hooks and its handler."""
        if self._state is None:
            self._state = State()
        return self._state

    def __repr__(self) -> str:
        return f"<HandlingContext: attempt {self._attempt}, {self.outcome or 'undecided'}>"


HandlingHook = Callable[[ProcessingContext[Any], HandlingContext[Any]], object]
"""A `before_handling` or `after_handling` hook."""

ProcessingHook = Callable[[ProcessingContext[Any]], object]
"""A `before_processing` or `after_processing` hook."""
