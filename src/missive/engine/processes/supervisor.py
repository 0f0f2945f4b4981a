"""Supervisor: starts worker processes, restarts dead ones, stops them all, and adds their reports up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from missive import _signals, _stacks
from missive.adapters.base import Adapter
from missive.engine.intake.placements import Placement, Placements
from missive.engine.order import check_order
from missive.engine.processes.worker import KEY_VARIABLE, VARIABLE
from missive.engine.report import Report
from missive.engine.runtime import Runtime
from missive.errors import ProcessingFailed, UsageError

FIRST_BACKOFF, LONGEST_BACKOFF = 0.2, 30.0
"""The first and the longest delay before a dead worker is restarted, in seconds. The delay doubles each time."""
SETTLED_SECONDS = 60.0
"""Lifetime of a worker after which the next restart has the first delay again, in seconds."""
HOPELESS = 3
"""Number of failures of each worker in a row after which the supervisor gives up, if no worker was ever ready."""

_FORCED_SECONDS = 10.0
"""Time after a forced stop until living workers are killed, in seconds."""
_LAST_LINES_SECONDS = 1.0
"""Time to read the last lines of a dead worker, in seconds."""
_MAX_LINE = 1 << 24
"""Maximum length of a line from a worker, in bytes."""

_USAGE_ERROR = 2
"""The exit code of a worker that found a usage error."""

logger = logging.getLogger("missive")


def check_shareable(adapters: Sequence[Adapter], workers: int) -> None:
    """Raise `UsageError` when several processes cannot do the work of one, because of the system or of an adapter."""
    if os.name != "posix":
        raise UsageError(f"--workers {workers} needs a system with POSIX signals. Start several processes yourself.")
    for adapter in adapters:
        if not adapter.shareable:
            raise UsageError(
                f"--workers {workers}: {adapter.url} cannot be shared between processes. Omit --workers,"
                " and raise --concurrency instead."
            )
    check_order(adapters, workers)


class _ManagedWorker:
    """One worker: its current process, its failures and its restarts."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: asyncio.subprocess.Process | None = None
        self.state = "starting"
        self.ready = False
        """Whether the current process has ever been ready."""
        self.done = False
        """Whether the current process said that it is done. Without that, no exit code means so."""
        self.failures = 0
        """Number of processes in a row that ended before they were ready."""
        self.restarts = 0
        self.report = Report()
        """The last report of the current process."""

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def update(self, status: Mapping[str, Any]) -> None:
        self.done = self.done or "done" in status
        self.report = Report.from_dict(status["report"])
        self.state = status["state"]
        self.ready = self.ready or self.state == "running"


class Supervisor:
    """Runs `workers` processes of one command until they are done, or until a signal stops them.

    Each process starts in its own session, so that Ctrl-C in a terminal reaches the supervisor only, which passes the
    signal on. A socket connects each process with the supervisor. The process sends its status through the socket. When
    the socket closes, because the supervisor was killed, the process drains.
    """

    def __init__(
        self,
        command: Sequence[str],
        workers: int,
        *,
        environment: Mapping[str, str] | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self._command = command
        self._environment = environment or {}
        self._runtime = runtime or Runtime()
        self._workers = [_ManagedWorker(number + 1) for number in range(workers)]
        self._past = Report()
        self._placements = Placements()
        self._signals = 0
        self._refusal: str | None = None
        self._hopeless = False
        self._ever_ready = False
        self._failed = False

    @property
    def report(self) -> Report:
        """The sum of all reports until now. The last second of a process that died may be missing."""
        report = Report()
        for one in (self._past, *(worker.report for worker in self._workers)):
            report.add(one)
        return report

    def view(self) -> dict[str, Any]:
        """Return the state of each worker, and the sum of all reports."""
        workers = [
            {
                "worker": worker.number,
                "pid": worker.process.pid if worker.process is not None and worker.alive else None,
                "state": worker.state,
                "restarts": worker.restarts,
            }
            for worker in self._workers
        ]
        return {"workers": workers, "report": self.report.to_dict()}

    def run(self) -> bool:
        """Run until every worker is done. Return whether all of them ended without failure.

        Call this method in the main thread. Raises `UsageError` with the text of a worker's usage error, and
        `ProcessingFailed` when no worker can start.
        """
        asyncio.run(self._main())
        if self._refusal is not None:
            raise UsageError(self._refusal)
        if self._hopeless:
            raise ProcessingFailed(
                f"no worker was ever ready, and each failed {HOPELESS} times: giving up. Their own errors are above."
            )
        return not self._failed

    async def _main(self) -> None:
        self._stopping = asyncio.Event()
        self._starting = asyncio.Lock()
        loop = asyncio.get_running_loop()

        def on_signal() -> None:
            loop.call_soon_threadsafe(self._on_signal)

        with _signals.receiving(on_signal), _stacks.forwarding(self._request_stacks):
            await asyncio.gather(*(self._supervise(worker) for worker in self._workers))

    # The processes of one worker

    async def _supervise(self, worker: _ManagedWorker) -> None:
        backoff = FIRST_BACKOFF
        while not self._stopping.is_set():
            began = self._runtime.monotonic()
            try:
                code = await self._run_process(worker)
            except OSError as error:  # no memory or no descriptor for another process
                logger.error("worker %d cannot be started: %s", worker.number, error.strerror)  # noqa: TRY400 - no traceback
                code = 1
            if self._stopping.is_set():
                self._ended(worker, code)
                return
            if code == 0 and worker.done:
                worker.state = "done"
                return
            if code == _USAGE_ERROR and not worker.ready:
                worker.state = "done"
                self._refuse(f"worker {worker.number} ended with a usage error. Its own error is above.")
                return
            worker.failures = 0 if worker.ready else worker.failures + 1
            if not self._ever_ready and all(one.failures >= HOPELESS for one in self._workers):
                self._hopeless = True
                self._stop()
                return
            if self._runtime.monotonic() - began >= SETTLED_SECONDS:
                backoff = FIRST_BACKOFF
            logger.warning(
                "worker %d died (%s), starting another in %g s", worker.number, _describe_exit(code), backoff
            )
            worker.state = "waiting"
            worker.restarts += 1
            await self._runtime.within(backoff, self._stopping.wait())
            backoff = min(backoff * 2, LONGEST_BACKOFF)
        worker.state = "done"

    def _ended(self, worker: _ManagedWorker, code: int) -> None:
        """Note how a worker ended during the stop."""
        worker.state = "done"
        # SIGTERM kills a process whose application restored its default action, and several workers may find one usage
        # error. Such processes have fetched nothing.
        refused = code == _USAGE_ERROR and self._refusal is not None
        done = code == 0 and worker.done
        if not done and (worker.ready or not (refused or code == -signal.SIGTERM)):
            self._failed = True
            logger.warning("worker %d died (%s) while stopping", worker.number, _describe_exit(code))

    async def _run_process(self, worker: _ManagedWorker) -> int:
        """Run one process to its end. Return its exit code, or the negative number of its signal."""
        worker.state, worker.ready, worker.done = "starting", False, False
        ours, theirs = socket.socketpair()
        try:
            async with self._starting:
                with theirs, _signals.blocked():
                    worker.process = process = await asyncio.create_subprocess_exec(
                        *self._command,
                        stdin=subprocess.DEVNULL,
                        env=self._environment_of(worker, theirs),
                        pass_fds=[theirs.fileno()],
                        start_new_session=True,
                    )
        except OSError:
            ours.close()
            raise
        for _ in range(self._signals):  # signals that arrived during the start
            _send(process, signal.SIGTERM)
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_MAX_LINE)
        listening = asyncio.ensure_future(self._listen(worker, reader))
        code = await process.wait()
        # The last lines have arrived, but a child of the process may still hold the socket open.
        if await self._runtime.within(_LAST_LINES_SECONDS, listening):
            listening.exception()  # retrieved, so that asyncio does not report it: a line may exceed the maximum length
        writer.close()
        self._past.add(worker.report)
        worker.report = Report()
        return code

    def _environment_of(self, worker: _ManagedWorker, line: socket.socket) -> dict[str, str]:
        own = {VARIABLE: f"{worker.number}:{line.fileno()}", KEY_VARIABLE: self._placements.digest_key.hex()}
        return {**os.environ, **self._environment, **own}

    async def _listen(self, worker: _ManagedWorker, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            with contextlib.suppress(KeyError, TypeError, ValueError):  # the process died in the middle of the line
                status = json.loads(line)
                if "usage" in status:
                    self._refuse(str(status["usage"]))
                else:
                    worker.update(status)
                    for placement in status.get("placements", ()):
                        self._placements.note(Placement(*placement))
                    self._ever_ready = self._ever_ready or worker.ready

    # Stopping

    def _on_signal(self) -> None:
        """Pass a signal on. The first signal drains the workers; the second one forces them to stop."""
        self._stop()
        if self._signals == 2:  # noqa: PLR2004 - as in a single process
            self._runtime.call_later(_FORCED_SECONDS, self._kill)

    def _stop(self) -> None:
        self._signals += 1
        self._stopping.set()
        for worker in self._workers:
            if worker.process is not None and worker.alive:
                # SIGTERM in each case: it ends a worker that still imports the application, without a traceback.
                _send(worker.process, signal.SIGTERM)

    def _request_stacks(self) -> None:
        """Pass SIGUSR1 on to the workers that handle it."""
        for worker in self._workers:
            if worker.process is not None and worker.alive and worker.ready:
                _send(worker.process, signal.SIGUSR1)

    def _kill(self) -> None:
        for worker in self._workers:
            if worker.process is not None and worker.alive:
                _send(worker.process, signal.SIGKILL)

    def _refuse(self, reason: str) -> None:
        if self._refusal is None:
            self._refusal = reason
        if not self._stopping.is_set():
            self._stop()


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # the process has just ended
        process.send_signal(number)


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
