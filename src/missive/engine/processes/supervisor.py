"""The supervisor of worker processes: it starts them, starts others for those that died, stops them, and sums up."""

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

from missive.adapters.base import Adapter
from missive.engine.processes.worker import VARIABLE
from missive.engine.report import Report
from missive.engine.runtime import Runtime
from missive.errors import ProcessingFailed, UsageError

FIRST_BACKOFF, LONGEST_BACKOFF = 0.2, 30.0
"""Seconds until a worker that died is followed by another: doubled each time."""
SETTLED_SECONDS = 60.0
"""A worker that has lived so long begins with the shortest again."""
HOPELESS = 3
"""When each has failed so often in a row and none was ever ready, there is no use in going on."""

_FORCED_SECONDS = 10.0
"""A worker that was forced to stop and is still there after so long is killed."""
_LAST_WORDS = 1.0
_LONGEST_LINE = 1 << 24

logger = logging.getLogger("missive")


def check_shareable(adapters: Sequence[Adapter], workers: int) -> None:
    """Raise `UsageError` where several processes would do something else than one does."""
    if os.name != "posix":
        raise UsageError(f"--workers {workers} needs a system with POSIX signals: start several processes yourself")
    for adapter in adapters:
        if not adapter.shareable:
            raise UsageError(
                f"--workers {workers}: {adapter.url} cannot be shared between processes; leave --workers out, and"
                " raise --concurrency in its place"
            )
        for route in adapter.processor.routes():
            if route.terms.ordered_by is not None and not adapter.exclusive_lanes:
                raise UsageError(
                    f"--workers {workers}: {route.name} has ordered_by, which holds within one process, and"
                    f" {adapter.url} gives messages of one key to several; leave --workers out and raise --concurrency,"
                    " or leave ordered_by out"
                )


class _Slot:
    """One worker and those that came after it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: asyncio.subprocess.Process | None = None
        self.state = "starting"
        self.ready = False
        """Whether the present process has ever run."""
        self.failures = 0
        """How many in a row died before they were ready."""
        self.restarts = 0
        self.report = Report()
        """What the present process counted, as far as it said so."""

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def heard(self, said: Mapping[str, Any]) -> None:
        self.report = Report.from_dict(said["report"])
        self.state = said["state"]
        self.ready = self.ready or self.state == "running"


class Supervisor:
    """Keeps `workers` processes of one command running until they are done, or a signal says stop.

    Each is started in a session of its own, so that a terminal's Ctrl-C reaches this process only, which passes it
    on. Each has a line to this process: what it says of itself comes through it, and when it ends, since this process
    was killed, the worker drains.
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
        self._slots = [_Slot(number + 1) for number in range(workers)]
        self._past = Report()
        self._signals = 0
        self._refusal: str | None = None
        self._hopeless = False
        self._ever_ready = False
        self._failed = False

    @property
    def report(self) -> Report:
        """What has become of the messages until now, in all processes; of one that died, a second may be missing."""
        report = Report()
        for one in (self._past, *(slot.report for slot in self._slots)):
            report.add(one)
        return report

    def view(self) -> dict[str, Any]:
        """Return how each worker is, and what all of them counted."""
        workers = [
            {
                "worker": slot.number,
                "pid": slot.process.pid if slot.process is not None and slot.alive else None,
                "state": slot.state,
                "restarts": slot.restarts,
            }
            for slot in self._slots
        ]
        return {"workers": workers, "report": self.report.to_dict()}

    def run(self) -> bool:
        """Run until every worker is done; tells whether all ended well. To be called in the main thread.

        Raises `UsageError` with what a worker refused to do, and `ProcessingFailed` when none can start.
        """
        asyncio.run(self._main())
        if self._refusal is not None:
            raise UsageError(self._refusal)
        if self._hopeless:
            raise ProcessingFailed(
                f"no worker was ever ready, and each failed {HOPELESS} times: giving up; what they said is above"
            )
        return not self._failed

    async def _main(self) -> None:
        self._stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled)
        await asyncio.gather(*(self._keep(slot) for slot in self._slots))

    # One worker after the other

    async def _keep(self, slot: _Slot) -> None:
        backoff = FIRST_BACKOFF
        while not self._stopping.is_set():
            began = self._runtime.monotonic()
            try:
                code = await self._live(slot)
            except OSError as trouble:  # no memory, or no descriptor, for another process
                logger.error("worker %d cannot be started: %s", slot.number, trouble.strerror)  # noqa: TRY400 - no text
                code = 1
            if self._stopping.is_set():
                self._ended(slot, code)
                return
            if code in (0, 2):
                slot.state = "done"
                if code:
                    self._refuse(f"worker {slot.number} says that it is used wrongly")
                return
            slot.failures = 0 if slot.ready else slot.failures + 1
            if not self._ever_ready and all(one.failures >= HOPELESS for one in self._slots):
                self._hopeless = True
                self._stop()
                return
            if self._runtime.monotonic() - began >= SETTLED_SECONDS:
                backoff = FIRST_BACKOFF
            logger.warning("worker %d died (%s), starting another in %g s", slot.number, _how(code), backoff)
            slot.state = "waiting"
            slot.restarts += 1
            await self._within(backoff, self._stopping.wait())
            backoff = min(backoff * 2, LONGEST_BACKOFF)
        slot.state = "done"

    def _ended(self, slot: _Slot, code: int) -> None:
        """Note how a worker that was told to stop ended."""
        slot.state = "done"
        # One that was still importing the application ends at once, with nothing fetched.
        if code and not (code == -signal.SIGTERM and not slot.ready):
            self._failed = True
            logger.warning("worker %d died (%s) while stopping", slot.number, _how(code))

    async def _live(self, slot: _Slot) -> int:
        """Run one process to its end; returns its exit code."""
        slot.state, slot.ready = "starting", False
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                slot.process = process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **self._environment, VARIABLE: f"{slot.number}:{theirs.fileno()}"},
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except OSError:
            ours.close()
            raise
        for _ in range(self._signals):  # that came while it was being started
            _send(process, signal.SIGTERM)
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_LONGEST_LINE)
        listening = asyncio.ensure_future(self._listen(slot, reader))
        code = await process.wait()
        # What it has said is there; but something that it has left behind may keep the line open.
        await self._within(_LAST_WORDS, listening)
        writer.close()
        self._past.add(slot.report)
        slot.report = Report()
        return code

    async def _listen(self, slot: _Slot, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            with contextlib.suppress(KeyError, TypeError, ValueError):  # cut off by its death
                said = json.loads(line)
                if "usage" in said:
                    self._refuse(str(said["usage"]))
                else:
                    slot.heard(said)
                    self._ever_ready = self._ever_ready or slot.ready

    async def _within(self, seconds: float, work: Any) -> None:
        """Wait for something, but not for ever."""
        working, late = asyncio.ensure_future(work), asyncio.ensure_future(self._runtime.sleep(seconds))
        await asyncio.wait([working, late], return_when=asyncio.FIRST_COMPLETED)
        for task in (working, late):
            task.cancel()
        await asyncio.gather(working, late, return_exceptions=True)

    # Stopping

    def _signalled(self) -> None:
        """Pass a signal on: the first drains, the second forces."""
        self._stop()
        if self._signals == 2:  # noqa: PLR2004 - as in a process by itself
            self._runtime.call_later(_FORCED_SECONDS, self._kill)

    def _stop(self) -> None:
        self._signals += 1
        self._stopping.set()
        for slot in self._slots:
            if slot.process is not None and slot.alive:
                # Whatever came: a worker that is still importing ends at SIGTERM without a traceback.
                _send(slot.process, signal.SIGTERM)

    def _kill(self) -> None:
        for slot in self._slots:
            if slot.process is not None and slot.alive:
                _send(slot.process, signal.SIGKILL)

    def _refuse(self, why: str) -> None:
        if self._refusal is None:
            self._refusal = why
        if not self._stopping.is_set():
            self._stop()


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        process.send_signal(number)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
