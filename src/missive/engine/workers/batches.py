"""Batches: chains of handlers that take several messages, and the search by halves for the one that fails."""

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
    AsyncChain,
    Clock,
    Resolve,
    SyncChain,
    async_chain,
    resolved,
    run_after,
    run_async_after,
    sync_chain,
)
from missive.engine.workers.once import async_once, sync_once
from missive.engine.workers.retrying import decide_attempt

BatchItem: TypeAlias = tuple[Job, HandlingContext[Any]]

logger = logging.getLogger("missive")


def sync_batch_chain(route: HandlerRoute, resolve: Resolve, clock: Clock, *, keep_error: bool = False) -> SyncChain:
    """Compile a sync route of batches; for `keep_error` see `sync_chain`."""
    handler, before, after = route.handler, route.terms.before, route.terms.after

    def prepared(item: BatchItem, search: _Search) -> bool:
        try:
            for hook in before:
                hook(search.worker, item[1])
        except BaseException as raised:  # noqa: BLE001 - also sys.exit() in a hook is that message failing
            search.failed(item, raised)
            closed(item, raised, search)
            return False
        return True

    def closed(item: BatchItem, error: BaseException | None, search: _Search) -> bool:
        opened = item[1].opened
        return opened is None or search.closed(item, error, opened.close(error, resolve))

    def run(work: BatchJob, worker: ProcessingContext[Any]) -> None:
        search = _Search(work, worker, clock, keep_error=keep_error)
        while items := search.next():
            ready = [item for item in items if prepared(item, search)] if before else items
            error: BaseException | None = None
            try:
                returned = handler(Batch([context for _, context in ready], worker)) if ready else None
                if returned is not None and inspect.isawaitable(returned):
                    resolve(returned)
            except BaseException as raised:  # noqa: BLE001 - as above
                error = raised
            search.ran([item for item in ready if item[1].opened is None or closed(item, error, search)], error)
            for item in items if after else ():
                search.conclude(item, error)
                search.hooked(item, run_after(after, worker, item[1], resolve))
            del error  # its traceback has this frame

    return run


def async_batch_chain(  # noqa: C901 - three small functions
    route: HandlerRoute, clock: Clock, *, keep_error: bool = False
) -> AsyncChain:
    """Compile an async route of batches."""
    handler, before, after = route.handler, route.terms.before, route.terms.after

    async def prepared(item: BatchItem, search: _Search) -> bool:
        try:
            for hook in before:
                await resolved(hook(search.worker, item[1]))
        except BaseException as raised:  # noqa: BLE001 - also a cancelled hook is that message failing
            search.failed(item, raised)
            await closed(item, raised, search)
            return False
        return True

    async def closed(item: BatchItem, error: BaseException | None, search: _Search) -> bool:
        opened = item[1].opened
        return opened is None or search.closed(item, error, await opened.aclose(error))

    async def run(work: BatchJob, worker: ProcessingContext[Any]) -> None:
        search = _Search(work, worker, clock, keep_error=keep_error)
        while items := search.next():
            ready = [item for item in items if await prepared(item, search)] if before else items
            error: BaseException | None = None
            try:
                await resolved(handler(Batch([context for _, context in ready], worker)) if ready else None)
            except BaseException as raised:  # noqa: BLE001 - as above
                error = raised
            undecided = [item for item in ready if item[1].opened is None or await closed(item, error, search)]
            search.ran(undecided, error)
            for item in items if after else ():
                search.conclude(item, error)
                search.hooked(item, await run_async_after(after, worker, item[1]))
            if any(job.overdue for job, _ in items) or all(job.session is None for job, _ in items):
                await _uncancelled()
            elif (task := asyncio.current_task()) is not None and task.cancelling():
                search.abandon()
            del error  # its traceback has this frame

    return run


def compile_sync(route: HandlerRoute, resolve: Resolve, clock: Clock, *, keep_error: bool = False) -> SyncChain:
    """Compile a sync route, of single messages or of batches."""
    compiler = sync_batch_chain if route.terms.batch is not None else sync_chain
    return sync_once(route, compiler(route, resolve, clock, keep_error=keep_error), clock)


def compile_async(route: HandlerRoute, clock: Clock, *, keep_error: bool = False) -> AsyncChain:
    """Compile an async route, of single messages or of batches."""
    compiler = async_batch_chain if route.terms.batch is not None else async_chain
    return async_once(route, compiler(route, clock, keep_error=keep_error), clock)


class _Search:
    """Which of a batch to run next: all of it, then halves of what failed together, until the culprit is alone."""

    def __init__(self, work: BatchJob, worker: ProcessingContext[Any], clock: Clock, *, keep_error: bool) -> None:
        self.worker = worker
        self._work = work
        self._clock = clock
        self._keep_error = keep_error
        self._left = [work.jobs]
        self._errors: dict[Job, BaseException | None] = {}
        """What failed single items of the call that is going on."""
        self._places: dict[Job, int] = {}
        """Where in the batch each is, once one is held."""
        self._blocked: dict[object, int] = {}
        """By lane, the place of the first that is held: those behind it wait, and those before it do not."""

    def next(self) -> list[BatchItem]:
        """Return the jobs of the next run with their contexts; none when all are decided, or may not run now."""
        self._work.active = []
        self._errors.clear()
        while self._left:
            jobs = self._left.pop()
            if self._blocked:
                # What comes after one that is held, in its lane, waits behind it: it stays undecided.
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
        """Decide what a run told: each item that was settled, all when it was well, or the one that failed alone."""
        overdue = any([job.overdue for job, _ in items]) or (  # noqa: C419 - twice as quick
            self._keep_error and bool(items) and self._clock() > max(job.deadline for job, _ in items)
        )
        failed = error is not None or overdue
        if failed and len(items) == 1:
            (job, context) = items[0]
            error = self._errors.get(job, error)
            self._decide(job, decide_attempt(job, context.recorded, error, self._clock, overdue=overdue))
            job.error = error if self._keep_error else None
            return
        for job, context in items:
            if context.recorded is not None:
                self._decide(job, decide_attempt(job, context.recorded, None, self._clock, overdue=False))
            elif not failed:
                job.decision = ACKED
        if failed:
            self._halve([job for job, context in items if context.recorded is None], error, overdue=overdue)

    def _halve(self, unsettled: list[Job], error: BaseException | None, *, overdue: bool) -> None:
        """Run what failed together again in halves; not when nobody waits for it any more."""
        if not unsettled:
            logger.warning(
                "%s raised %s after it had settled all of a batch", self._work.route.name, type(error).__name__
            )
        elif not any(job.owned for job in unsettled):
            return  # undecided: they come again, to whoever gets them
        elif isinstance(error, asyncio.CancelledError) and not overdue:
            for job in unsettled:
                self._decide(job, decide_attempt(job, None, error, self._clock, overdue=overdue))
        else:
            half = (len(unsettled) + 1) // 2
            self._left += [part for part in (unsettled[half:], unsettled[:half]) if part]

    def abandon(self) -> None:
        """Run nothing more: the worker is stopped."""
        left, self._left = self._left, []
        for job in (job for jobs in left for job in jobs):
            self._decide(job, decide(None, asyncio.CancelledError()))

    def closed(self, item: BatchItem, error: BaseException | None, late: BaseException | None) -> bool:
        """Note what the resources of an item made of how the call ended; tells whether it is still undecided."""
        if late is error:
            return True
        if error is None:
            self.failed(item, late)
            return False
        self._errors[item[0]] = late  # which counts once it is known whose failure this is
        return True

    def failed(self, item: BatchItem, error: BaseException | None) -> None:
        """Decide about an item of which a hook or a resource raised."""
        job, context = item
        self._errors[job] = error
        self._decide(job, decide_attempt(job, context.recorded, error, self._clock))
        job.error = error if self._keep_error else None

    def conclude(self, item: BatchItem, error: BaseException | None) -> None:
        """Tell the context how the run ended; no outcome where its item is run again."""
        job, context = item
        context.conclude(None if job.decision is None else job.decision.outcome, self._errors.get(job, error))

    def hooked(self, item: BatchItem, error: BaseException | None) -> None:
        """Decide again after the hooks, of which one may have raised, or recorded an outcome."""
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
    """Take back the cancellation of a run that was overdue, or no longer ours: the rest has a time of its own."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0)  # one that came as the handler ended is raised here, and not in the next
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
