"""Jobs: one delivery on its way through the stations, and the batches and lane runs that workers take."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from missive.app.terms import HandlerRoute
from missive.dlq.contract import RecordLease
from missive.dlq.record import Attempt
from missive.engine.workers.decision import Decision
from missive.errors import ProcessingFailed, UsageError
from missive.messages import Message
from missive.once.declaration import Once
from missive.transport import Capabilities, Delivery, Disposition, Session

if TYPE_CHECKING:
    from missive.engine.intake.source import Source


_NOTHING = Capabilities(release="none")
"""The features of a session that no longer exists."""


class Claim(msgspec.Struct, eq=False):
    """A job's hold on the effect of its message, for a handler with `once=`."""

    handler: str
    digest: str
    """Digest of the key that identifies the effect."""
    until: float
    """When the claim ends unless it is renewed, on the engine's clock."""

    def __repr__(self) -> str:
        return f"<Claim: {self.handler}>"


class Parked(msgspec.Struct, frozen=True):
    """How a job waits in the store."""

    due: float | None
    """When the job is due, in seconds since 1970; None when it waits for earlier messages of its lane."""
    lane: str | None
    """The name of its lane in the store: a digest."""
    ran: bool = True
    """Whether an attempt was just made. Waiting for a lane, a limit or a dependency is no attempt."""
    adopted: RecordLease | None = None
    """The lease under which the message is stored, because its handler still runs."""
    at: float | None = None
    """The time from which `due` was computed; None without `due`."""


class Job(msgspec.Struct, eq=False):
    """One delivery and the current attempt at it.

    The station that has the job changes it, on the engine's loop. A worker changes only the fields of the running
    attempt.
    """

    source: Source
    session: Session | None
    """The session that can settle the job; None after its lease went to another consumer."""
    delivery: Delivery
    message: Message
    attempt: int = 1
    route: HandlerRoute | None = None
    decision: Decision | None = None
    disposition: Disposition = Disposition.ack
    """The instruction for the transport."""
    lane: Hashable = None
    """The lane in which the job runs in order; None without one."""
    due: float = 0.0
    """When the job may run at the earliest, on the engine's clock, while it waits in its lane; 0 for at once."""
    arrived: float = 0.0
    """When the delivery was fetched, on the engine's clock."""
    started: float | None = None
    """When the handler started, on the engine's clock."""
    extended: float = 0.0
    """How much the handler extended its timeout, in seconds."""
    overdue: bool = False
    """Whether the timeout passed while the handler ran. The attempt then ends as a timeout in any case."""
    waiting: bool = False
    """Whether the job waits for its lane, batch, limit or retry, and does not count against the credit of others."""
    completed: bool = False
    """Whether the job is done, and the watermark of its lane may pass it."""
    error: BaseException | None = None
    """The exception of the handler. Only the test client keeps it."""
    claim: Claim | None = None
    """The claim of the effect, where claims are in the store."""
    duplicate: bool = False
    """Whether the handler learned that the effect has already happened."""
    parked: Parked | None = None
    """Set when the job goes to the store to wait, and not as a dead letter."""
    failed_at: float | None = None
    """When the message first failed, on the engine's clock, if its retry policy needs that."""
    history: tuple[Attempt, ...] = ()
    """The failed attempts of the held delivery."""

    @property
    def owned(self) -> bool:
        """Whether the job can still end here: its session is alive and its lease is held, or nothing else has it."""
        session = self.session
        return session is not None and (session is self.source.session or session in self.source.vanished)

    @property
    def detached(self) -> bool:
        """Whether the transport no longer has the message, so that its outcome needs no settlement."""
        return self.session in self.source.vanished

    @property
    def capabilities(self) -> Capabilities:
        """The features of the job's session. Without a session, or when detached, nothing can be given back."""
        return _NOTHING if self.session is None or self.detached else self.session.capabilities

    @property
    def jobs(self) -> list[Job]:
        """The job itself, as the only one of this work."""
        return [self]

    @property
    def active(self) -> list[Job]:
        """The job itself until it is decided; then nothing."""
        return [self] if self.decision is None else []

    @property
    def began(self) -> float | None:
        """When the handler started, on the engine's clock."""
        return self.started

    @property
    def deadline(self) -> float:
        """When the timeout ends, on the engine's clock; infinite before the start."""
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
        capabilities = self.capabilities
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

    def reset_run(self) -> None:
        """Clear the result of the last run before another run."""
        self.decision = self.started = self.error = None
        self.extended, self.overdue, self.duplicate = 0.0, False, False

    def __repr__(self) -> str:
        return f"<Job: attempt {self.attempt}, {self.message!r}>"


class BatchJob(msgspec.Struct, eq=False):
    """Jobs of one source that a batch handler takes together. They come back together, each with its decision."""

    route: HandlerRoute
    source: Source
    jobs: list[Job]
    began: float | None = None
    """When the first run started, on the engine's clock."""
    active: list[Job] = []
    """The jobs of the current run: all, or the half that is searched for a failing message."""
    mixed: bool = False
    """Whether the store adopted some of the jobs, which have another source now."""

    def __repr__(self) -> str:
        return f"<BatchJob: {len(self.jobs)} jobs>"


class LaneRun(msgspec.Struct, eq=False):
    """Jobs of one lane that a worker runs one after the other, without a round trip to the engine for each.

    The engine takes finished jobs from `ran`, when the run comes back or earlier. The worker takes the next job from
    the front of `left`. The engine may withdraw the rest of `left`; those jobs then wait again, or go back to their
    transport.
    """

    route: HandlerRoute
    """The pool's route for lane runs."""
    source: Source
    first: Job
    left: deque[Job]
    ran: deque[Job]
    """Finished jobs that the engine has not taken yet."""
    current: Job | None = None
    """The running job."""
    blocked: bool = False
    """Whether the run ended because its last job is held, and blocks the lane."""

    @property
    def jobs(self) -> list[Job]:
        """All jobs, before a worker has the run."""
        return [self.first, *self.left]

    @property
    def active(self) -> list[Job]:
        """The running job."""
        return [] if self.current is None else self.current.active

    @property
    def began(self) -> float | None:
        """When the first handler started."""
        return self.first.started

    def take(self) -> list[Job]:
        """Take out the finished jobs of a run that came back."""
        ran, self.ran = self.ran, deque()
        return list(ran)

    def take_early(self) -> list[Job]:
        """Take out the finished jobs of a run that continues, except the last one, which may end it."""
        ran, current = self.ran, self.current
        jobs: list[Job] = []
        while ran and ran[0] is not current:
            jobs.append(ran.popleft())
        return jobs

    def withdraw(self) -> list[Job]:
        """Take out the jobs that have not started."""
        jobs: list[Job] = []
        while self.left:
            try:
                jobs.append(self.left.pop())  # from the end, so that the worker never skips a job
            except IndexError:  # the worker took the last one
                break
        return jobs[::-1]

    def __repr__(self) -> str:
        return f"<LaneRun: {len(self.left)} left>"


JobsByLane: TypeAlias = Mapping[str | None, Sequence[Job]]
"""Jobs by the lanes of their transport."""


def by_lane(jobs: Sequence[Job]) -> JobsByLane:
    """Return jobs by the lanes of their transport, in their order."""
    names = [job.delivery.lane for job in jobs]
    if names and names.count(names[0]) == len(names):  # one chunk often has one lane
        return {names[0]: jobs}
    lanes: dict[str | None, list[Job]] = {}
    of_lane: list[Job] = []
    last: object = lanes  # a value that no lane has
    for lane, job in zip(names, jobs, strict=True):
        if lane is not last:
            last = lane
            of_lane = lanes.setdefault(lane, [])
        of_lane.append(job)
    return lanes


Work: TypeAlias = Job | BatchJob | LaneRun
"""The unit of work of a worker."""


def route_of(work: Work) -> HandlerRoute:
    """Return the route of work. Raises `ProcessingFailed` for a job that is not routed."""
    if work.route is None:
        raise ProcessingFailed("a job without a route cannot run")
    return work.route
