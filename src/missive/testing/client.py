"""The test client: one attempt at a message through the routing, execution and decision of production, no transport."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Generic, NoReturn, TypeVar, cast

from missive.adapters.base import Adapter
from missive.app.context import ProcessingContext, ProcessingHook
from missive.app.processor import Processor
from missive.app.terms import HandlerRoute
from missive.dlq.contract import DictSink
from missive.dlq.once import ClaimRequest, MemoryOnce
from missive.durations import seconds
from missive.engine.completion.dead_letters import make_record
from missive.engine.completion.idempotency import HAPPENED, decide_claimed, decide_keyless
from missive.engine.dispatch.circuit import Circuit, circuits_of
from missive.engine.job import BatchJob, Job, Work
from missive.engine.workers.batches import compile_async, compile_sync
from missive.engine.workers.decision import Decision, decide, decide_discarded, decide_misrouted
from missive.engine.workers.handlers import AsyncChain
from missive.engine.workers.hooks import end_async_worker, end_worker, run_async_hooks, run_hooks
from missive.errors import AmbiguousError, DecodingError, NotSettled, OnceConflict, UnmatchedError, UsageError
from missive.ids import new_id
from missive.messages import Message
from missive.outcome import Outcome, Reason
from missive.resources.key import NO_OVERRIDES, Overrides
from missive.routing.router import Misrouted
from missive.transport import Capabilities, Delivery, Host, Session

_LOOK = 0.02
"""Seconds between two looks at a handler that is past its timeout."""

M = TypeVar("M", bound=Message)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Result:
    """How one attempt ended."""

    outcome: Outcome
    handler: str | None
    """The handler's name; None where no one handler was found."""
    reason: str | None
    """For dead-lettered and discarded: the label the handler gave, else the reason; for acked: `duplicate`, or None."""
    attempt: int
    delay: float | None
    """For retried and nacked: after how many seconds it is due."""
    exception: BaseException | None
    """What the handler raised."""

    def __repr__(self) -> str:
        # Without the exception's text, which may quote the message.
        parts = [str(self.outcome), f"handler={self.handler}", f"attempt={self.attempt}"]
        if self.reason is not None:
            parts.append(f"reason={self.reason}")
        if self.delay is not None:
            parts.append(f"delay={self.delay:g}")
        if self.exception is not None:
            parts.append(f"exception={type(self.exception).__name__}")
        return f"<Result: {', '.join(parts)}>"


class TestAdapter(Adapter):
    """What `context.adapter` is in a test client: an adapter that is never connected."""

    __test__ = False
    transport = "test"

    @property
    def destination(self) -> str:
        """What it is called."""
        return "client"

    async def connect(self, host: Host) -> Session:
        """Refuse: nothing is consumed in a test client."""
        raise NotImplementedError


class _Session:
    capabilities = Capabilities()


class _Source:
    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.session = _Session()


class _Bench(Generic[M]):
    """What both clients share: all but the waiting."""

    def __init__(self, processor: Processor[M]) -> None:
        self._processor = processor
        self._routes = processor.freeze()
        self._find = processor.router().find
        self._source: Any = _Source(TestAdapter(processor))
        self._now = 0.0
        self._order = itertools.count()
        self._due: list[tuple[float, int, Job]] = []
        dlq = processor.dlq
        self._dlq = DictSink(dlq) if isinstance(dlq, MutableMapping) else None
        self._has_dlq = dlq is not None
        self._claims = MemoryOnce(lambda: self._now)
        self._claimed: dict[Job, ClaimRequest] = {}
        self._circuits = circuits_of(self._routes, lambda: self._now, 1)
        self.acked: list[M] = []
        """What a transport would have been told is done with: also what was dead-lettered or discarded."""
        self.nacked: list[M] = []
        """What a transport would have been told to bring again: also what is retried."""
        self.dead_lettered: list[M] = []
        self.retried: list[M] = []
        self.discarded: list[M] = []

    def _job(self, message: M) -> Job:
        if not isinstance(message, self._processor.message_cls):
            raise UsageError(
                f"{self._processor.name} takes {self._processor.message_cls.__name__}s, and this is a"
                f" {type(message).__name__}"
            )
        headers = message.headers.pairs
        delivery = Delivery(message.raw_data, headers=headers, producer_id=message.message_id, topic=message.topic)
        job = Job(self._source, self._source.session, delivery, message)
        self._route(job)
        return job

    def _route(self, job: Job) -> None:
        found = self._find(job.message)
        if isinstance(found, Misrouted):
            job.decision = decide_misrouted(found)
            job.error = found.exception
        else:
            job.route = found
            if found.discards is not None:
                job.decision = decide_discarded(found)
            else:
                # There is nothing to be in order with, but a key that cannot be had is a failure here too.
                try:
                    found.terms.key_of(job.message)
                except Exception as error:  # noqa: BLE001 - a callable of the user's may raise anything
                    job.decision, job.error = decide(None, error), error

    def _claim(self, work: Work) -> None:
        """Claim what a store would be asked for; only one message runs at a time, and so nobody else is at it."""
        once = None if work.route is None else work.route.terms.once
        if not isinstance(work, Job) or work.route is None or once is None or once.form != "lease":
            return
        try:
            digest = once.digest_of(work.message)
        except Exception as error:  # noqa: BLE001 - a callable of the user's may raise anything
            work.decision, work.error = decide(None, error), error
            return
        if digest is None:
            work.decision = decide_keyless()
            return
        asked = ClaimRequest(work.route.name, digest, hashlib.sha256(work.message.raw_data).hexdigest())
        service, owner = self._processor.name, str(id(work))
        (answer,) = self._claims.once_begin(service, [asked], owner, once.lease, once.ttl)
        work.decision = decide_claimed(answer, once)
        if work.decision is None:
            self._claimed[work] = asked

    def _unclaim(self, work: Work) -> None:
        """Remember that an effect has happened, or that it has not."""
        asked = None if not isinstance(work, Job) else self._claimed.pop(work, None)
        if asked is None or not isinstance(work, Job) or work.route is None or work.route.terms.once is None:
            return
        service, owner = self._processor.name, str(id(work))
        if work.decision is not None and work.decision.outcome in HAPPENED:
            self._claims.once_done(service, [asked.effect], owner, work.route.terms.once.ttl)
        else:
            self._claims.once_drop(service, [asked.effect], owner)

    def _keep_out(self, work: Work) -> bool:
        """Hold what an open breaker does not let through; tells whether it does not."""
        circuit = self._circuit_of(work)
        if circuit is None or circuit.admits(0):
            if circuit is not None and not circuit.up:
                circuit.entered()
            return False
        for job in work.jobs:
            job.decision = Decision(Outcome.nacked, delay=circuit.opens_in)
        return True

    def _learn(self, work: Work) -> None:
        """Tell breakers how it went; what failed for something that is down comes again when that is probed."""
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
        decision, message = job.decision, cast("M", job.message)
        if job.error is not None and not isinstance(job.error, (Exception, SystemExit, asyncio.CancelledError)):
            raise job.error  # Ctrl-C, or a test framework's own way to end a test inside a handler
        if decision is None:
            raise NotSettled("the message was not decided")
        result = Result(
            decision.outcome,
            None if job.route is None else job.route.name,
            decision.label or (str(decision.reason) if decision.outcome is Outcome.dead_lettered else None),
            job.attempt,
            decision.delay if decision.outcome in {Outcome.retried, Outcome.nacked} else None,
            job.error,
        )
        if decision.outcome is Outcome.dead_lettered:
            self._file(job, decision)
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

    def _file(self, job: Job, decision: Decision) -> None:
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
        if decision.reason is Reason.timeout and job.route is not None:
            raise NotSettled(
                f"{job.route.name} ran longer than its timeout of {job.route.terms.timeout:g} s, and there is no dead"
                " letter queue"
            ) from job.error
        if job.error is not None:
            raise job.error
        if decision.reason is Reason.unmatched:
            explanation = self._processor.explain(cast("M", job.message))
            raise UnmatchedError(f"no handler matches, and there is no dead letter queue\n{explanation}")
        if decision.reason is Reason.ambiguous:
            raise AmbiguousError(f"several handlers match: {', '.join(decision.candidates)}")
        if decision.reason is Reason.conflict:
            raise OnceConflict
        if decision.reason is Reason.unreadable:
            raise DecodingError("no handler can be chosen, because the body cannot be decoded")
        raise NotSettled(f"the handler dead-lettered the message ({decision.label}), and there is no dead letter queue")

    def _next_due(self, until: float) -> Job | None:
        """Take out the next job that is due, as its next attempt."""
        if not self._due or self._due[0][0] > until:
            return None
        self._now, _, job = heapq.heappop(self._due)
        again = Job(job.source, job.session, job.delivery, job.message, job.attempt, job.route)
        if job.decision is not None and job.decision.outcome is Outcome.retried:
            again.attempt += 1
        if job.failed_at is not None and job.decision is not None:
            again.failed_at = job.failed_at - job.decision.delay  # which passed on the virtual clock only
        return again


class TestClient(_Bench[M]):
    """Sends messages to a processor's handlers and says how each ended. Async handlers run on a loop of its own."""

    __test__ = False

    def __init__(self, processor: Processor[M], overrides: Overrides = NO_OVERRIDES) -> None:
        super().__init__(processor)
        self._runner = asyncio.Runner()
        hooks = processor.hooks
        self._after = hooks.after_processing
        self._sync = {
            r: compile_sync(r, self._wait, time.monotonic, keep_error=True)
            for r in self._routes
            if r.kind.startswith("sync")
        }
        self._async = {r: compile_async(r, time.monotonic, keep_error=True) for r in self._routes if r.terms.is_async}
        self._worker: ProcessingContext[M] = ProcessingContext(processor, overrides=overrides)
        self._loop_worker: ProcessingContext[M] = ProcessingContext(processor, overrides=overrides)
        try:
            self._run_hooks(hooks.before_processing)
        except BaseException:
            self.close()
            raise

    def send(self, message: M) -> Result:
        """Run one attempt and return how it ended. Without a dead letter queue, what would go there raises."""
        return self._run(self._job(message))

    def send_batch(self, messages: Sequence[M]) -> list[Result]:
        """Run one attempt at several messages; those for one batch handler as one batch. The results are in order."""
        jobs = [self._job(message) for message in messages]
        for work in _together(jobs):
            self._execute(work)
        return [self._finish(job) for job in jobs]

    def advance(self, after: float | timedelta) -> list[Result]:
        """Move the virtual clock, and run what becomes due, in its order."""
        until, results = self._now + (seconds(after) or 0), []
        while (job := self._next_due(until)) is not None:
            results.append(self._run(job))
        self._now = until
        return results

    def close(self) -> None:
        """Run `after_processing`, and close what the workers opened."""
        try:
            self._end()
        finally:
            self._runner.close()

    def _end(self) -> None:
        try:
            if self._sync or not self._async:
                _raise_failed(end_worker(self._after, self._worker, self._wait))
        finally:
            if self._async:
                self._wait(end_async_worker(self._after, self._loop_worker))

    def _run(self, job: Job) -> Result:
        for work in _together([job]):
            self._execute(work)
        return self._finish(job)

    def _execute(self, work: Work) -> None:
        route = work.route
        if self._keep_out(work):
            return
        self._claim(work)
        if isinstance(work, Job) and work.decision is not None:
            return
        if route in self._sync:
            contextvars.copy_context().run(self._sync[route], work, self._worker)
        elif route in self._async:
            self._wait(_timed(self._async[route], work, self._loop_worker))
        self._unclaim(work)
        self._learn(work)

    def _wait(self, awaitable: Awaitable[T]) -> T:
        async def wait() -> T:
            return await awaitable

        return self._runner.run(wait(), context=contextvars.copy_context())

    def _run_hooks(self, hooks: Sequence[ProcessingHook]) -> None:
        if self._sync or not self._async:
            _raise_failed(run_hooks(hooks, self._worker))
        if self._async:
            self._wait(run_async_hooks(hooks, self._loop_worker))


class AsyncTestClient(_Bench[M]):
    """The same inside a running loop, which async handlers share; sync ones run on a thread."""

    __test__ = False

    def __init__(self, processor: Processor[M], overrides: Overrides = NO_OVERRIDES) -> None:
        super().__init__(processor)
        self._hooks = processor.hooks
        loop = asyncio.get_running_loop()

        def resolve(awaitable: Awaitable[Any]) -> object:
            async def wait() -> object:
                return await awaitable

            return asyncio.run_coroutine_threadsafe(wait(), loop).result()

        self._resolve = resolve
        self._sync = {
            r: compile_sync(r, resolve, time.monotonic, keep_error=True)
            for r in self._routes
            if r.kind.startswith("sync")
        }
        self._async = {r: compile_async(r, time.monotonic, keep_error=True) for r in self._routes if r.terms.is_async}
        self._thread = ThreadPoolExecutor(1, "missive-test")
        self._worker: ProcessingContext[M] = ProcessingContext(processor, overrides=overrides)
        self._loop_worker: ProcessingContext[M] = ProcessingContext(processor, overrides=overrides)

    async def send(self, message: M) -> Result:
        """Run one attempt and return how it ended. Without a dead letter queue, what would go there raises."""
        return await self._run(self._job(message))

    async def send_batch(self, messages: Sequence[M]) -> list[Result]:
        """Run one attempt at several messages; those for one batch handler as one batch. The results are in order."""
        jobs = [self._job(message) for message in messages]
        for work in _together(jobs):
            await self._execute(work)
        return [self._finish(job) for job in jobs]

    async def advance(self, after: float | timedelta) -> list[Result]:
        """Move the virtual clock, and run what becomes due, in its order."""
        until, results = self._now + (seconds(after) or 0), []
        while (job := self._next_due(until)) is not None:
            results.append(await self._run(job))
        self._now = until
        return results

    async def open(self) -> None:
        """Run `before_processing`."""
        try:
            await self._run_hooks(self._hooks.before_processing)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Run `after_processing`, and close what the workers opened."""
        try:
            await self._end()
        finally:
            self._thread.shutdown()

    async def _end(self) -> None:
        hooks = self._hooks.after_processing
        try:
            if self._sync or not self._async:
                _raise_failed(await self._on_thread(end_worker, hooks, self._worker, self._resolve))
        finally:
            if self._async:
                await end_async_worker(hooks, self._loop_worker)

    async def _run(self, job: Job) -> Result:
        for work in _together([job]):
            await self._execute(work)
        return self._finish(job)

    async def _execute(self, work: Work) -> None:
        route = work.route
        if self._keep_out(work):
            return
        self._claim(work)
        if isinstance(work, Job) and work.decision is not None:
            return
        if route in self._sync:
            await self._on_thread(self._sync[route], work, self._worker)
        elif route in self._async:
            # A task of its own, so that its context variables are.
            await asyncio.create_task(_timed(self._async[route], work, self._loop_worker))
        self._unclaim(work)
        self._learn(work)

    async def _on_thread(self, fn: Callable[..., T], *arguments: object) -> T:
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: context.run(fn, *arguments))

    async def _run_hooks(self, hooks: Sequence[ProcessingHook]) -> None:
        if self._sync or not self._async:
            _raise_failed(await self._on_thread(run_hooks, hooks, self._worker))
        if self._async:
            await run_async_hooks(hooks, self._loop_worker)


class ClientSession(Generic[M]):
    """What `Processor.test_client()` returns: enter it with `with`, or with `async with`."""

    def __init__(self, processor: Processor[M], overrides: Overrides = NO_OVERRIDES) -> None:
        self._processor = processor
        self._overrides = overrides
        self._client: TestClient[M] | None = None
        self._async_client: AsyncTestClient[M] | None = None

    def __enter__(self) -> TestClient[M]:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._client = TestClient(self._processor, self._overrides)
            return self._client
        raise UsageError("there is a running loop here: use `async with proc.test_client() as client`")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close()

    async def __aenter__(self) -> AsyncTestClient[M]:
        self._async_client = AsyncTestClient(self._processor, self._overrides)
        await self._async_client.open()
        return self._async_client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._async_client is not None:
            await self._async_client.close()


def _together(jobs: Sequence[Job]) -> list[Work]:
    """Return what is to be run: jobs that nothing is decided about, those for one batch handler in batches."""
    works: list[Work] = []
    batches: dict[HandlerRoute, BatchJob] = {}
    for job in jobs:
        route = job.route
        if job.decision is not None or route is None:
            continue
        terms = route.terms.batch
        if terms is None:
            works.append(job)
        elif route in batches and len(batches[route].jobs) < terms.size:
            batches[route].jobs.append(job)
        else:
            batches[route] = BatchJob(route, job.source, [job])
            works.append(batches[route])
    return works


async def _timed(chain: AsyncChain, work: Work, worker: ProcessingContext[Any]) -> None:
    """Run a chain, and cancel it when its timeout has passed, as the engine does."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    if task is None:
        return

    alarm: asyncio.Handle

    def look() -> None:
        nonlocal alarm
        late = time.monotonic() - max((job.deadline for job in work.active), default=float("inf"))
        if late > 0 and not all(job.overdue for job in work.active):
            for job in work.active:
                job.overdue = True
            task.cancel()
        alarm = loop.call_later(_LOOK if late > 0 else min(-late, 1e6), look)

    alarm = loop.call_soon(look)
    try:
        await chain(work, worker)
    finally:
        alarm.cancel()
        while task.cancelling():
            task.uncancel()


def _raise_failed(failed: Exception | None) -> None:
    if failed is not None:
        raise failed


__all__ = ["AsyncTestClient", "ClientSession", "HandlerRoute", "Result", "TestClient"]
