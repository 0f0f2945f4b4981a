"""Stages: the optional concerns of the engine, in one ordered list that is built at start-up.

A stage takes part in the stations that a message passes. It overrides the verbs that concern it; a verb that no stage
overrides costs nothing. All verbs run on the engine's loop and receive jobs in chunks. Only `prepare`, `refresh`,
`open` and `flush` may await. No verb raises for a job: a stage records the decision on the job instead.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from missive.verbs import overriding

if TYPE_CHECKING:
    from missive.app.terms import HandlerRoute
    from missive.engine.dispatch.circuit import CircuitLimiter
    from missive.engine.intake.source import Source
    from missive.engine.job import Job, JobsByLane
    from missive.transport import Delivery, Session


class Stage:
    """One optional concern, such as leases or parking. Every verb does nothing unless a stage overrides it."""

    intercepts: frozenset[HandlerRoute] = frozenset()
    """The routes whose jobs pass `start`."""

    # The life of the engine

    async def open(self) -> None:
        """Start the stage before the workers. Raises `MissiveError` when the engine cannot start without it."""

    def loops(self) -> Iterable[Coroutine[Any, Any, None]]:
        """Return loops that run beside the stations, until they are cancelled."""
        return ()

    @property
    def blocked(self) -> bool:
        """Whether intake must pause for this stage, because its store cannot be written."""
        return False

    def stopping(self) -> None:
        """Note that the drain begins."""

    async def flush(self) -> None:
        """Make everything durable that can be, after the drain."""

    def close(self) -> None:
        """Release what `open` acquired."""

    # The stations, in the order in which a message meets them

    async def refresh(self) -> None:
        """Read again what other processes left in the store."""

    async def prepare(self, source: Source, deliveries: Sequence[Delivery], redelivered: bool) -> None:
        """Look deliveries up in the store before admission. `redelivered` is true when any of them is a redelivery."""

    def taken(self, source: Source, session: Session, jobs: Sequence[Job], lanes: JobsByLane) -> None:
        """Note new jobs before they are routed. The stage may decide them.

        `lanes` has the same jobs by the lanes of their transport, where the session pauses or commits lanes; else it is
        empty.
        """

    @property
    def admitting(self) -> bool:
        """Whether `admit` might keep a job now."""
        return False

    def admit(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Return the routed jobs that may enter their lanes; the stage keeps the rest."""
        return jobs

    def start(self, job: Job) -> bool:  # noqa: ARG002 - for stages that override it
        """Return whether a job of an intercepted route may start, at the head of its lane; else the stage keeps it."""
        return True

    def overflow(self, job: Job, limiter: CircuitLimiter) -> bool:  # noqa: ARG002 - as above
        """Return whether the stage takes a job that would wait at an open circuit."""
        return False

    def conclude(self, jobs: list[Job]) -> list[Job]:
        """Return the acked and discarded jobs that can be settled now; the stage settles the rest later."""
        return jobs

    def held(self, job: Job) -> None:
        """Note that a job was retried or nacked and waits, unsettled."""

    def released(self, job: Job) -> None:
        """Note that a job waits for its dependency without having spent an attempt."""

    def filed(self, jobs: Sequence[Job]) -> None:
        """Note that the records of jobs are durable."""

    def settled(self, source: Source, jobs: Sequence[Job], lost: bool) -> None:
        """Note that jobs left the engine. `lost` is true when the transport did not confirm all of them."""

    def session_lost(self, source: Source) -> None:
        """Note that the session of a source is dead."""

    def withdraw(self, which: Callable[[Job], bool]) -> list[Job]:  # noqa: ARG002 - as above
        """Hand over those jobs for which `which` is true and that only this stage keeps."""
        return []


class Stages:
    """An ordered list of stages, compiled to one tuple of bound methods for each verb."""

    def __init__(self, stages: Sequence[Stage] = ()) -> None:
        self.all = tuple(stages)
        self.intercepts: frozenset[HandlerRoute] = frozenset().union(*(stage.intercepts for stage in stages))
        self.refresh = overriding(stages, Stage.refresh)
        self.prepare = overriding(stages, Stage.prepare)
        self.taken = overriding(stages, Stage.taken)
        self.admit = overriding(stages, Stage.admit)
        self.start = overriding(stages, Stage.start)
        self.overflow = overriding(stages, Stage.overflow)
        self.conclude = overriding(stages, Stage.conclude)[::-1]
        self.held = overriding(stages, Stage.held)
        self.released = overriding(stages, Stage.released)
        self.filed = overriding(stages, Stage.filed)
        self.settled = overriding(stages, Stage.settled)
        self.session_lost = overriding(stages, Stage.session_lost)
        self.withdraw = overriding(stages, Stage.withdraw)
        self.stopping = overriding(stages, Stage.stopping)
        self._blocking = [stage for stage in stages if type(stage).blocked is not Stage.blocked]
        self._admitting = [stage for stage in stages if type(stage).admitting is not Stage.admitting]

    @property
    def blocked(self) -> bool:
        """Whether intake must pause, because a store cannot be written."""
        return any(stage.blocked for stage in self._blocking)

    @property
    def admitting(self) -> bool:
        """Whether a stage might keep a routed job now."""
        return any(stage.admitting for stage in self._admitting)
