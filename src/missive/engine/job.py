"""A job: one delivery on its way through the rooms of the engine, at one attempt; and several run as one batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from missive.app.terms import HandlerRoute
from missive.dlq.record import Attempt
from missive.engine.workers.decision import Decision
from missive.errors import UsageError
from missive.messages import Message
from missive.once.declaration import Once
from missive.transport import Delivery, Disposition, Session

if TYPE_CHECKING:
    from missive.engine.intake.source import Source


class Claim(msgspec.Struct, eq=False):
    """The hold of one job on the effect of its message, for handlers whose effects happen once."""

    handler: str
    digest: str
    """Of the key by which effects are told apart."""
    until: float
    """Until when it surely holds, on the engine's clock."""

    def __repr__(self) -> str:
        return f"<Claim: {self.handler}>"


class Parked(msgspec.Struct, frozen=True):
    """How a job waits in the store."""

    due: float | None
    """When it is due, in seconds since 1970; None where only its lane says."""
    lane: str | None
    """What it is parked in order with: a digest."""


class Job(msgspec.Struct, eq=False):
    """One delivery being worked on. Only the room that has it changes it, but for the flags of a running one."""

    source: Source
    session: Session | None
    """Who can settle it; None once its lease went to somebody else, and nobody can."""
    delivery: Delivery
    message: Message
    attempt: int = 1
    route: HandlerRoute | None = None
    decision: Decision | None = None
    disposition: Disposition = Disposition.ack
    lane: Hashable = None
    """Which jobs it runs one after the other with; None for none."""
    due: float = 0.0
    """When it may run again at the earliest, on the engine's clock, where it waits in its lane for that; else 0."""
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
    completed: bool = False
    """It is done, and the mark of its lane may pass it, where its source is settled by marks."""
    error: BaseException | None = None
    """What the handler raised; kept by a test client only."""
    claim: Claim | None = None
    """Its hold on the effect, where that is kept in the store."""
    duplicate: bool = False
    """Its handler was told that the effect has happened before."""
    parked: Parked | None = None
    """It goes to the store to wait there, and not for good."""
    failed_at: float | None = None
    """When it first failed, on the engine's clock, where its handler has a policy that asks."""
    history: tuple[Attempt, ...] = ()
    """Earlier attempts that failed while the delivery was held."""

    @property
    def ours(self) -> bool:
        """Whether it can still be settled: its session lives, and its lease is held."""
        return self.session is not None and self.session is self.source.session

    @property
    def jobs(self) -> list[Job]:
        """Itself: what others have several of."""
        return [self]

    @property
    def active(self) -> list[Job]:
        """What its worker is at: itself, until it is decided."""
        return [self] if self.decision is None else []

    @property
    def began(self) -> float | None:
        """When its handler began, on the engine's clock."""
        return self.started

    @property
    def deadline(self) -> float:
        """When its handler must be done, on the engine's clock."""
        timeout = float("inf") if self.route is None else self.route.terms.timeout
        return float("inf") if self.started is None else self.started + timeout + self.extended

    @property
    def handler(self) -> str | None:
        """The name of the handler."""
        return None if self.route is None else self.route.name

    @property
    def once(self) -> Once[Any] | None:
        """The handler's `once=`, if it has one."""
        return None if self.route is None else self.route.terms.once

    def grant(self, seconds: float) -> None:
        """Extend the timeout. Raises `UsageError` where the lease would end first and cannot be renewed."""
        if self.session is None:
            return
        capabilities = self.session.capabilities
        lease = None if capabilities.renewable else capabilities.lease
        if lease is not None and self.deadline + seconds > self.arrived + lease:
            raise UsageError(
                f"{self.source.adapter.url}: the lease is {lease:g} s and cannot be renewed: the attempt cannot be"
                f" extended by {seconds:g} s"
            )
        self.extended += seconds

    def mark_duplicate(self, duplicate: bool) -> None:
        """Note whether the effect of the message has already happened."""
        self.duplicate = duplicate

    def anew(self) -> None:
        """Forget how the last run went: it runs again."""
        self.decision = self.started = self.error = None
        self.extended, self.overdue, self.duplicate = 0.0, False, False

    def __repr__(self) -> str:
        return f"<Job: attempt {self.attempt}, {self.message!r}>"


class BatchJob(msgspec.Struct, eq=False):
    """Jobs of one source that a batch handler gets together. They come back with it, each with its decision."""

    route: HandlerRoute
    source: Source
    jobs: list[Job]
    began: float | None = None
    """When its first run began, on the engine's clock."""
    active: list[Job] = []
    """Those of the run that is going on: all, or a half of which one is sought that fails."""

    def __repr__(self) -> str:
        return f"<BatchJob: {len(self.jobs)} jobs>"


class LaneRun(msgspec.Struct, eq=False):
    """Jobs of one lane that a worker runs one after the other, so that not each waits for the engine in between.

    What it `ran` the engine takes when the run comes back, or when it looks before that. What is `left` is taken by
    the worker one by one, from the front, and by the engine when it wants it back: it then waits again, or goes back
    to its transport.
    """

    route: HandlerRoute
    """The pool's own, for runs of lanes."""
    source: Source
    first: Job
    left: deque[Job]
    ran: deque[Job]
    """Those that are done, and that the engine did not take yet."""
    current: Job | None = None
    """The one that runs."""
    blocked: bool = False
    """Whether it ended because the last is held, and the rest of the lane with it."""

    @property
    def jobs(self) -> list[Job]:
        """All of it, as long as no worker has it."""
        return [self.first, *self.left]

    @property
    def active(self) -> list[Job]:
        """The one that runs."""
        return [] if self.current is None else self.current.active

    @property
    def began(self) -> float | None:
        """When its first handler began."""
        return self.first.started

    def take(self) -> list[Job]:
        """Take out what was run, from a run that came back."""
        ran, self.ran = self.ran, deque()
        return list(ran)

    def take_early(self) -> list[Job]:
        """Take out what was run, from a run that goes on: not the last, which may end it."""
        ran, current = self.ran, self.current
        jobs: list[Job] = []
        while ran and ran[0] is not current:
            jobs.append(ran.popleft())
        return jobs

    def withdraw(self) -> list[Job]:
        """Take out what is left."""
        jobs: list[Job] = []
        while self.left:
            try:
                jobs.append(self.left.pop())  # from the end, so that the worker never skips one
            except IndexError:  # the worker took the last one
                break
        return jobs[::-1]

    def __repr__(self) -> str:
        return f"<LaneRun: {len(self.left)} left>"


def by_lane(jobs: Sequence[Job]) -> Mapping[str | None, Sequence[Job]]:
    """Return jobs by the lanes of their transport, which they keep their order in."""
    names = [job.delivery.lane for job in jobs]
    if names and names.count(names[0]) == len(names):  # nearly all that come at once often are of one
        return {names[0]: jobs}
    lanes: dict[str | None, list[Job]] = {}
    of_lane: list[Job] = []
    last: object = lanes  # no lane is that
    for lane, job in zip(names, jobs, strict=True):
        if lane is not last:
            last = lane
            of_lane = lanes.setdefault(lane, [])
        of_lane.append(job)
    return lanes


Work: TypeAlias = Job | BatchJob | LaneRun
"""What a worker takes at a time."""
