"""The monitor: it polls the workers for timeouts, stuck handlers, and results that no worker reported."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from missive.engine.completion.completion import Completion
from missive.engine.dispatch.dispatcher import Dispatcher
from missive.engine.job import Job, Work
from missive.engine.runtime import Runtime
from missive.engine.state import EngineState
from missive.engine.workers.outbox import Outbox
from missive.engine.workers.pool import Pool
from missive.errors import ProcessingFailed

_POLL = 0.02
"""Poll interval for unreported results while a handler runs, in seconds."""
_IDLE_POLL = 0.1
"""Poll interval while no handler runs, in seconds."""

logger = logging.getLogger("missive")


class WorkerMonitor:
    """Interrupts overdue handlers.

    It stops the engine when every worker is stuck or a handler blocks the handlers' loop.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        outbox: Outbox,
        dispatcher: Dispatcher,
        completion: Completion,
        concurrency: int,
        state: EngineState,
        runtime: Runtime,
    ) -> None:
        self._pools = pools
        self._outbox = outbox
        self._dispatcher = dispatcher
        self._completion = completion
        self._concurrency = concurrency
        self._state = state
        self._runtime = runtime
        self._over = False
        """Whether the results of the workers are ignored, because the process ends."""

    def poll(self) -> None:
        """Poll the workers now, and again after the poll interval."""
        if self._over:
            return
        self._outbox.deliver()
        if runs := [run for pool in self._pools for run in pool.runs()]:
            self._completion.collect_early(runs)
        running = self._dispatcher.running
        if running:
            self._check_timeouts(self._runtime.monotonic())
        self._dispatcher.poll()
        self._runtime.call_later(_POLL if running else _IDLE_POLL, self.poll)

    def give_up(self) -> list[list[Job]]:
        """Return the jobs of stuck workers, and ignore from now on whatever the workers return.

        Of several jobs together, one may hang.
        """
        self._outbox.deliver()
        self._outbox.collect = _ignore
        self._over = True
        now = self._runtime.monotonic()
        return [jobs for pool in self._pools for jobs in pool.hanging(now)]

    def _check_timeouts(self, now: float) -> None:
        for pool in self._pools:
            if expired := pool.expire(now):
                _report_overdue(expired)
        stuck = [job for pool in self._pools for job in pool.stuck(now)]
        hopeless = len(stuck) >= self._concurrency or any(pool.blocked(now) for pool in self._pools)
        if stuck and hopeless and not self._state.draining:
            self._state.stuck = True
            self._state.fail(_all_stuck(stuck))


def _ignore(_works: list[Work]) -> None:
    """Ignore the results of workers."""


def _report_overdue(jobs: Sequence[Job]) -> None:
    for name, count in Counter(job.route.name for job in jobs if job.route is not None).items():
        logger.warning("%s: %d messages ran past the timeout", name, count)
    threads = [job.route for job in jobs if job.route is not None and not job.route.terms.is_async]
    if threads:
        logger.warning(
            "%s: a thread cannot be interrupted; its worker stays busy and its message stays unsettled until the"
            " handler returns",
            threads[0].name,
        )


def _all_stuck(jobs: Sequence[Job]) -> ProcessingFailed:
    names = ", ".join(sorted({job.route.name for job in jobs if job.route is not None}))
    return ProcessingFailed(
        f"every worker is stuck in a handler past its timeout ({names}), and none can be interrupted; stopping, so that"
        " a supervisor can restart the process"
    )
