"""Compiled lane runs: a worker runs several jobs of one lane in order, without the engine between them."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Mapping
from typing import Any

from missive.app.context import ProcessingContext
from missive.app.terms import HandlerRoute
from missive.engine.job import Job, LaneRun
from missive.engine.workers.decision import ACKED, HELD
from missive.engine.workers.handlers import Clock, CompiledAsyncHandler, CompiledHandler

_SLICE = 0.002
"""Time after which a lane run ends, so that other work gets the worker, in seconds."""


def compile_lane_run(handlers: Mapping[HandlerRoute, CompiledHandler], clock: Clock) -> CompiledHandler:
    """Compile the function that runs jobs of a lane, each with the handler of its route and in its own context."""

    def run(work: LaneRun, worker: ProcessingContext[Any]) -> None:
        until = clock() + _SLICE
        left, done, copy_context = work.left, work.ran.append, contextvars.copy_context
        work.current = job = work.first
        while True:
            copy_context().run(handlers[job.route], job, worker)  # type: ignore[index]
            done(job)
            if (job.decision is not ACKED and ends_run(work, job)) or clock() > until:
                return
            try:
                work.current = job = left.popleft()
            except IndexError:
                return

    return run


def compile_async_lane_run(handlers: Mapping[HandlerRoute, CompiledAsyncHandler], clock: Clock) -> CompiledAsyncHandler:
    """Compile the function that runs jobs of a lane in one task.

    The run ends early after a job that set a context variable, because the next job must not see the value.
    """

    async def run(work: LaneRun, worker: ProcessingContext[Any]) -> None:
        until = clock() + _SLICE
        clean = contextvars.copy_context()
        task = asyncio.current_task()
        left, done, copy_context = work.left, work.ran.append, contextvars.copy_context
        work.current = job = work.first
        while True:
            await handlers[job.route](job, worker)  # type: ignore[index]
            done(job)
            if (job.decision is not ACKED and ends_run(work, job)) or clock() > until:
                return
            if task is not None and task.cancelling():
                return
            try:
                if copy_context() != clean:
                    return
            except Exception:  # noqa: BLE001 - the __eq__ of a value may raise, or return something other than a bool
                return
            try:
                work.current = job = left.popleft()
            except IndexError:
                return

    return run


def ends_run(work: LaneRun, job: Job) -> bool:
    """Return whether a lane run ends after a job, because the job is held and blocks its lane."""
    decision = job.decision
    if decision is None or decision.outcome not in HELD:
        return False
    work.blocked = job.route is not None and job.route.terms.on_lane_retry != "pass"
    return work.blocked
