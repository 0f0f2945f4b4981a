"""A job: one delivery on its way through the rooms of the engine, at one attempt; and several run as one batch."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from missive.adapters.contract import Delivery, Session, Verb
from missive.dlq.record import Attempt
from missive.engine.decision import Decision
from missive.messages import Message
from missive.routing.route import Route

if TYPE_CHECKING:
    from missive.engine.intake import Source


class Job(msgspec.Struct, eq=False):
    """One delivery being worked on. Only the room that has it changes it, but for the flags of a running one."""

    source: Source
    session: Session | None
    """Who can settle it; None once its lease went to somebody else, and nobody can."""
    delivery: Delivery
    message: Message
    attempt: int = 1
    route: Route | None = None
    decision: Decision | None = None
    verb: Verb = Verb.ack
    lane: Hashable = None
    """Which jobs it runs one after the other with; None for none."""
    arrived: float = 0.0
    """When it was fetched, on the engine's clock."""
    started: float | None = None
    """When its handler began, on the engine's clock."""
    extended: float = 0.0
    """Seconds that the handler was granted beyond its timeout."""
    overdue: bool = False
    """Its timeout has passed while it ran: whatever its handler says now, that is how it ends."""
    behind: bool = False
    """It waits for something of its own, such as its lane, and so does not count against the credit of others."""
    error: BaseException | None = None
    """What the handler raised; kept by a test client only."""
    history: tuple[Attempt, ...] = ()
    """Earlier attempts that failed while the delivery was held."""

    @property
    def ours(self) -> bool:
        """Whether it can still be settled: its session lives, and its lease is held."""
        return self.session is not None and self.session is self.source.session

    @property
    def began(self) -> float | None:
        """When its handler began, on the engine's clock."""
        return self.started

    @property
    def jobs(self) -> list[Job]:
        """Itself: what a batch has several of."""
        return [self]

    @property
    def deadline(self) -> float:
        """When its handler must be done, on the engine's clock."""
        timeout = float("inf") if self.route is None else self.route.timeout
        return float("inf") if self.started is None else self.started + timeout + self.extended

    def anew(self) -> None:
        """Forget how the last run went: it runs again."""
        self.decision = self.started = self.error = None
        self.extended, self.overdue = 0.0, False

    def __repr__(self) -> str:
        return f"<Job: attempt {self.attempt}, {self.message!r}>"


class BatchJob(msgspec.Struct, eq=False):
    """Jobs of one source that a batch handler gets together. They come back one by one, each with its decision."""

    route: Route
    source: Source
    jobs: list[Job]
    began: float | None = None
    """When its first run began, on the engine's clock."""
    running: list[Job] = []
    """Those of the run that is going on: all, or a half of which one is sought that fails."""
    decision: Decision | None = None
    """Always None, which tells it from a job that came back."""

    @property
    def started(self) -> float | None:
        """When the run that is going on began."""
        return self.running[0].started if self.running else None

    @property
    def deadline(self) -> float:
        """When it must be done: the latest of what its jobs were granted."""
        return max((job.deadline for job in self.running), default=float("inf"))

    @property
    def overdue(self) -> bool:
        """Whether the timeout of the run has passed."""
        return any(job.overdue for job in self.running)

    @overdue.setter
    def overdue(self, overdue: bool) -> None:
        for job in self.running:
            job.overdue = overdue

    @property
    def ours(self) -> bool:
        """Whether any of it can still be settled."""
        return any(job.ours for job in self.jobs)

    def __repr__(self) -> str:
        return f"<BatchJob: {len(self.jobs)} jobs>"


Work: TypeAlias = Job | BatchJob
"""What a worker takes at a time."""
