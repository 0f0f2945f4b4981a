"""The attempts of a test client: everything but the execution of handlers."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import MutableMapping
from types import SimpleNamespace
from typing import Any, Generic, NoReturn, TypeVar, cast

from missive.adapters.base import Adapter
from missive.app.processor import Processor
from missive.dlq.contract import DictSink
from missive.engine.completion.records import make_record
from missive.engine.dispatch.circuit import Circuit, circuits_of
from missive.engine.job import Job, Work
from missive.engine.workers.decision import Decision, decide, decide_discarded, decide_misrouted
from missive.errors import AmbiguousError, DecodingError, NotSettled, OnceConflict, UnmatchedError, UsageError
from missive.ids import new_id
from missive.messages import Message, RawMessage
from missive.outcome import Outcome, Reason
from missive.routing.router import Misrouted
from missive.testing.claims import MemoryClaims
from missive.testing.result import Result
from missive.transport import Capabilities, Delivery, Host, Session

M = TypeVar("M", bound=Message)


class TestAdapter(Adapter):
    """The `context.adapter` of a test client. It never connects."""

    __test__ = False
    transport = "test"

    @property
    def destination(self) -> str:
        """The name of the source."""
        return "client"

    async def connect(self, host: Host) -> Session:
        """Raise `NotImplementedError`: a test client consumes nothing."""
        raise NotImplementedError


class Attempts(Generic[M]):
    """The base of both test clients: routes messages, takes claims, asks breakers, and turns decisions into results."""

    def __init__(self, processor: Processor[M]) -> None:
        self._processor = processor
        self._routes = processor.freeze()
        self._find = processor.router().find
        session = SimpleNamespace(capabilities=Capabilities())
        self._source: Any = SimpleNamespace(adapter=TestAdapter(processor), session=session, vanished=())
        self._now = 0.0
        self._order = itertools.count()
        self._due: list[tuple[float, int, Job]] = []
        dlq = processor.dlq
        self._dlq = DictSink(dlq) if isinstance(dlq, MutableMapping) else None
        self._has_dlq = dlq is not None
        self._claims = MemoryClaims(processor.name, lambda: self._now)
        self._circuits = circuits_of(self._routes, lambda: self._now, 1)
        self.acked: list[M] = []
        """Messages that a transport would ack: acked, dead-lettered or discarded."""
        self.nacked: list[M] = []
        """Messages that a transport would redeliver: nacked or retried."""
        self.dead_lettered: list[M] = []
        self.retried: list[M] = []
        self.discarded: list[M] = []

    def _make_job(self, message: M) -> Job:
        """Return a job for a first attempt, routed. A job without a handler to run is decided already."""
        expected = self._processor.message_cls
        # A processor without a message class has RawMessage, and reads nothing that the other classes lack.
        if not isinstance(message, Message if expected is RawMessage else expected):
            raise UsageError(
                f"{self._processor.name} takes messages of class {expected.__name__}, not {type(message).__name__}."
                f" Send a {expected.__name__}."
            )
        headers = message.headers.pairs
        delivery = Delivery(message.raw_data, headers=headers, producer_id=message.message_id, topic=message.topic)
        job = Job(self._source, self._source.session, delivery, message)
        found = self._find(message)
        if isinstance(found, Misrouted):
            job.decision, job.error = decide_misrouted(found), found.exception
            return job
        job.route = found
        if found.discards is not None:
            job.decision = decide_discarded(found)
            return job
        # A test client has no lanes, but an `ordered_by` that raises fails the message here as in the engine.
        try:
            found.terms.key_of(message)
        except Exception as error:  # noqa: BLE001 - a user's callable may raise anything
            job.decision, job.error = decide(None, error), error
        return job

    def _admit(self, work: Work) -> bool:
        """Return whether a handler may run. Otherwise decide the jobs: an open breaker or `once=` rules them out."""
        circuit = self._circuit_of(work)
        if circuit is not None:
            if not circuit.admits(0):
                for job in work.jobs:
                    job.decision = Decision(Outcome.nacked, delay=circuit.opens_in)
                return False
            if not circuit.up:
                circuit.entered()
        self._claims.begin(work)
        return not isinstance(work, Job) or work.decision is None

    def _conclude(self, work: Work) -> None:
        """End the claim and inform the breakers. Nack jobs that failed because of a dependency that is down."""
        self._claims.end(work)
        own = self._circuit_of(work)
        for job in work.jobs:
            decision = job.decision
            if decision is None:
                continue
            blamed = self._circuits.get(decision.blames or "")
            if own is not None:
                own.learn(decision)
            if blamed is not None and decision.trips:
                blamed.failed(trips=True)
            if blamed is not None and not blamed.up:
                job.decision = Decision(Outcome.nacked, delay=blamed.opens_in, failure=decision.failure)

    def _circuit_of(self, work: Work) -> Circuit | None:
        breaker = None if work.route is None else work.route.terms.breaker
        return None if breaker is None else self._circuits[breaker.name]

    def _finish(self, job: Job) -> Result:
        """Return the result of a decided job, enter its message in the lists, and store its dead letter."""
        decision, message = job.decision, cast("M", job.message)
        if job.error is not None and not isinstance(job.error, (Exception, SystemExit, asyncio.CancelledError)):
            raise job.error  # KeyboardInterrupt, or the exception with which a test framework ends a test
        if decision is None:
            raise NotSettled("the handler ended without a decision about its message")
        result = Result(
            decision.outcome,
            None if job.route is None else job.route.name,
            decision.label or (str(decision.reason) if decision.outcome is Outcome.dead_lettered else None),
            job.attempt,
            decision.delay if decision.outcome in {Outcome.retried, Outcome.nacked} else None,
            job.error,
        )
        if decision.outcome is Outcome.dead_lettered:
            self._store(job, decision)
            self.dead_lettered.append(message)
        if decision.outcome in {Outcome.retried, Outcome.nacked}:
            self.nacked.append(message)
            heapq.heappush(self._due, (self._now + decision.delay, next(self._order), job))
            if decision.outcome is Outcome.retried:
                self.retried.append(message)
        else:
            self.acked.append(message)
            if decision.outcome is Outcome.discarded:
                self.discarded.append(message)
        return result

    def _store(self, job: Job, decision: Decision) -> None:
        """Put a dead letter into a dict. Raise without any dead letter queue; leave a configured store closed."""
        if self._dlq is not None:
            record = make_record(
                job,
                service=self._processor.name,
                routes=self._routes,
                public=self._processor.public,
                now=self._now,
                new_id=new_id,
            )
            self._dlq.put([record])
        elif not self._has_dlq:
            self._raise(job, decision)

    def _raise(self, job: Job, decision: Decision) -> NoReturn:
        remedy = "and the processor has no dead letter queue. Set one with dlq={}"
        if decision.reason is Reason.timeout and job.route is not None:
            timeout = job.route.terms.timeout
            raise NotSettled(f"{job.route.name} ran longer than its timeout of {timeout:g} s, {remedy}") from job.error
        if job.error is not None:
            raise job.error
        if decision.reason is Reason.unmatched:
            explanation = self._processor.explain(cast("M", job.message))
            raise UnmatchedError(f"no handler matches, {remedy}\n{explanation}")
        if decision.reason is Reason.ambiguous:
            raise AmbiguousError(f"several handlers match: {', '.join(decision.candidates)}")
        if decision.reason is Reason.conflict:
            raise OnceConflict
        if decision.reason is Reason.unreadable:
            raise DecodingError(f"the body cannot be decoded to choose a handler, {remedy}")
        raise NotSettled(f"the handler dead-lettered the message ({decision.label}), {remedy}")

    def _next_due(self, until: float) -> Job | None:
        """Move the clock to the next due job and return its next attempt; None when no job is due until then."""
        if not self._due or self._due[0][0] > until:
            return None
        self._now, _, job = heapq.heappop(self._due)
        again = Job(job.source, job.session, job.delivery, job.message, job.attempt, job.route)
        if job.decision is not None and job.decision.outcome is Outcome.retried:
            again.attempt += 1
        if job.failed_at is not None and job.decision is not None:
            # The delay passed on the virtual clock only, so that `within` of a retry policy needs it added here.
            again.failed_at = job.failed_at - job.decision.delay
        return again
