"""Compiled batch handlers: a handler takes several messages, and bisection finds the message that fails."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from typing import Any, TypeAlias

from missive.app.batch import Batch
from missive.app.context import HandlingContext, ProcessingContext
from missive.app.terms import HandlerRoute
from missive.engine.job import BatchJob, Job
from missive.engine.workers.decision import ACKED, HELD, Decision, decide
from missive.engine.workers.handlers import (
    Clock,
    CompiledAsyncHandler,
    CompiledHandler,
    Resolve,
    resolved,
    run_after,
    run_async_after,
)
from missive.engine.workers.policies import decide_attempt

BatchItem: TypeAlias = tuple[Job, HandlingContext[Any]]
"""One message of a batch, with its context."""

logger = logging.getLogger("missive")


def compile_batch_handler(
    route: HandlerRoute, resolve: Resolve, clock: Clock, *, standalone: bool = False
) -> CompiledHandler:
    """Compile a sync route of batches. For `standalone`, see `compile_handler`."""
    handler, before, after = route.handler, route.terms.before, route.terms.after

    def prepared(item: BatchItem, bisection: _Bisection) -> bool:
        try:
            for hook in before:
                hook(bisection.worker, item[1])
        except BaseException as raised:  # noqa: BLE001 - even sys.exit() in a hook only fails its message
            bisection.failed(item, raised)
            closed(item, raised, bisection)
            return False
        return True

    def closed(item: BatchItem, error: BaseException | None, bisection: _Bisection) -> bool:
        opened = item[1].opened
        return opened is None or bisection.closed(item, error, opened.close(error, resolve))

    def run(work: BatchJob, worker: ProcessingContext[Any]) -> None:
        bisection = _Bisection(work, worker, clock, standalone=standalone)
        while items := bisection.next_run():
            ready = [item for item in items if prepared(item, bisection)] if before else items
            error: BaseException | None = None
            try:
                returned = handler(Batch([context for _, context in ready], worker)) if ready else None
                if returned is not None and inspect.isawaitable(returned):
                    resolve(returned)
            except BaseException as raised:  # noqa: BLE001 - as above
                error = raised
            bisection.ran([item for item in ready if item[1].opened is None or closed(item, error, bisection)], error)
            for item in items if after else ():
                bisection.conclude(item, error)
                bisection.after_hooks(item, run_after(after, worker, item[1], resolve))
            del error  # its traceback refers to this frame

    return run


def compile_async_batch_handler(  # noqa: C901 - three small functions
    route: HandlerRoute, clock: Clock, *, standalone: bool = False
) -> CompiledAsyncHandler:
    """Compile an async route of batches. For `standalone`, see `compile_handler`."""
    handler, before, after = route.handler, route.terms.before, route.terms.after

    async def prepared(item: BatchItem, bisection: _Bisection) -> bool:
        try:
            for hook in before:
                await resolved(hook(bisection.worker, item[1]))
        except BaseException as raised:  # noqa: BLE001 - even a cancelled hook only fails its message
            bisection.failed(item, raised)
            await closed(item, raised, bisection)
            return False
        return True

    async def closed(item: BatchItem, error: BaseException | None, bisection: _Bisection) -> bool:
        opened = item[1].opened
        return opened is None or bisection.closed(item, error, await opened.aclose(error))

    async def run(work: BatchJob, worker: ProcessingContext[Any]) -> None:
        bisection = _Bisection(work, worker, clock, standalone=standalone)
        while items := bisection.next_run():
            ready = [item for item in items if await prepared(item, bisection)] if before else items
            error: BaseException | None = None
            try:
                await resolved(handler(Batch([context for _, context in ready], worker)) if ready else None)
            except BaseException as raised:  # noqa: BLE001 - as above
                error = raised
            undecided = [item for item in ready if item[1].opened is None or await closed(item, error, bisection)]
            bisection.ran(undecided, error)
            for item in items if after else ():
                bisection.conclude(item, error)
                bisection.after_hooks(item, await run_async_after(after, worker, item[1]))
            if any(job.overdue for job, _ in items) or all(job.session is None for job, _ in items):
                await _uncancelled()
            elif (task := asyncio.current_task()) is not None and task.cancelling():
                bisection.abandon()
            del error  # its traceback refers to this frame

    return run


class _Bisection:
    """The runs of one batch: the whole batch, then halves of the messages that failed together.

    The bisection ends when each failing message has failed alone.
    """

    def __init__(self, work: BatchJob, worker: ProcessingContext[Any], clock: Clock, *, standalone: bool) -> None:
        self.worker = worker
        self._work = work
        self._clock = clock
        self._standalone = standalone
        self._left = [work.jobs]
        """The groups of jobs that still have to run; the last one is next."""
        self._errors: dict[Job, BaseException | None] = {}
        """The exceptions of single messages in the current run."""
        self._places: dict[Job, int] = {}
        """The place of each job in the batch; empty until a job is held."""
        self._blocked: dict[object, int] = {}
        """The place of the first held job of each lane. Later jobs of the lane wait behind it."""

    def next_run(self) -> list[BatchItem]:
        """Return the jobs of the next run with their contexts; an empty list when no job can run any more."""
        self._work.active = []
        self._errors.clear()
        while self._left:
            jobs = self._left.pop()
            if self._blocked:
                # Jobs behind a held job of their lane stay undecided.
                jobs = [job for job in jobs if self._places[job] < self._blocked.get(job.lane, len(self._places))]
            if jobs:
                break
        else:
            return []
        now = self._clock()
        for job in jobs:
            job.started, job.overdue = now, False
        if self._work.began is None:
            self._work.began = now
        self._work.active = jobs
        worker = self.worker
        return [
            (job, HandlingContext(job.message, worker, job.attempt, job.delivery.native, job.source.adapter, job))
            for job in jobs
        ]

    def ran(self, items: list[BatchItem], error: BaseException | None) -> None:
        """Decide jobs with a recorded outcome, all jobs of a successful run, and a job that failed alone.

        Halve the rest.
        """
        overdue = any([job.overdue for job, _ in items]) or (  # noqa: C419 - takes half the time of a generator
            self._standalone and bool(items) and self._clock() > max(job.deadline for job, _ in items)
        )
        failed = error is not None or overdue
        if failed and len(items) == 1:
            (job, context) = items[0]
            error = self._errors.get(job, error)
            self._decide(job, decide_attempt(job, context.recorded, error, self._clock, overdue=overdue))
            job.error = error if self._standalone else None
            return
        for job, context in items:
            if context.recorded is not None:
                self._decide(job, decide_attempt(job, context.recorded, None, self._clock, overdue=False))
            elif not failed:
                job.decision = ACKED
        if failed:
            self._halve([job for job, context in items if context.recorded is None], error, overdue=overdue)

    def _halve(self, undecided: list[Job], error: BaseException | None, *, overdue: bool) -> None:
        """Queue the two halves of the jobs that failed together, unless this engine owns none of them any more."""
        name = self._work.route.name
        if not undecided and error is None:
            logger.warning("%s ran past the timeout after it had recorded an outcome for every item of a batch", name)
        elif not undecided:
            logger.warning(
                "%s raised %s after it had recorded an outcome for every item of a batch", name, type(error).__name__
            )
        elif not any(job.owned for job in undecided):
            return  # the jobs stay undecided: the transport redelivers them to their new owner
        elif isinstance(error, asyncio.CancelledError) and not overdue:
            for job in undecided:
                self._decide(job, decide_attempt(job, None, error, self._clock, overdue=overdue))
        else:
            half = (len(undecided) + 1) // 2
            self._left += [part for part in (undecided[half:], undecided[:half]) if part]

    def abandon(self) -> None:
        """Decide the remaining jobs as cancelled, because the worker is stopped."""
        left, self._left = self._left, []
        for job in (job for jobs in left for job in jobs):
            self._decide(job, decide(None, asyncio.CancelledError()))

    def closed(self, item: BatchItem, error: BaseException | None, late: BaseException | None) -> bool:
        """Note the exception of a message after its resources were closed. Return whether its job is undecided.

        `error` is the exception of the run, and `late` the exception that the resources raised or let pass.
        """
        if late is error:
            return True
        if error is None:
            self.failed(item, late)
            return False
        self._errors[item[0]] = late  # replaces the exception of the run if this message turns out to be the culprit
        return True

    def failed(self, item: BatchItem, error: BaseException | None) -> None:
        """Decide a job whose hook or resource raised."""
        job, context = item
        self._errors[job] = error
        self._decide(job, decide_attempt(job, context.recorded, error, self._clock))
        job.error = error if self._standalone else None

    def conclude(self, item: BatchItem, error: BaseException | None) -> None:
        """Set the outcome and the exception in a context, before the `after_handling` hooks read them.

        The outcome is None for a message that runs again in a half.
        """
        job, context = item
        context.conclude(None if job.decision is None else job.decision.outcome, self._errors.get(job, error))

    def after_hooks(self, item: BatchItem, error: BaseException | None) -> None:
        """Decide again after the hooks, which may have raised or recorded an outcome."""
        job, context = item
        if error is not None:
            self.failed(item, error)
        elif job.decision is ACKED and context.recorded is not None:
            self._decide(job, decide_attempt(job, context.recorded, None, self._clock, overdue=False))

    def _decide(self, job: Job, decision: Decision) -> None:
        job.decision = decision
        held = decision.outcome in HELD
        if held and job.lane is not None and self._work.route.terms.on_lane_retry != "pass":
            self._places = self._places or {one: place for place, one in enumerate(self._work.jobs)}
            place = self._places[job]
            self._blocked[job.lane] = min(place, self._blocked.get(job.lane, place))


async def _uncancelled() -> None:
    """Undo the cancellation of an overdue or lost run, because the next run of the batch has its own timeout."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0)  # raise a late cancellation here, not in the next run
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
