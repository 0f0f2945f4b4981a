"""Runner: runs the engines of adapters on their own threads, handles signals, and ends the process if necessary."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from missive import _signals, _stacks
from missive.adapters.base import Adapter
from missive.adapters.replay import ReplayAdapter
from missive.dlq import open_dlq
from missive.dlq.contract import Sink, Store
from missive.dlq.failure import describe_exception
from missive.engine import uncaught
from missive.engine.engine import Engine
from missive.engine.handlers_loop import loop_factory, run_on_handlers_loop
from missive.engine.ownership import register_application
from missive.engine.report import Report
from missive.engine.streams import flush_output
from missive.errors import MissiveError, ProcessingFailed, UsageError
from missive.privacy.printing import printable
from missive.telemetry import FailureLog, Observer, SourceLog

_DEFAULT_THRESHOLDS = {700, 2000}
"""Default thresholds of Python's garbage collector, in the supported versions."""
_THRESHOLD = 10_000
"""Number of new objects after which the garbage collector runs."""
_LEFTOVER_SECONDS = 10.0
"""Time for the work that handlers left on their loop to end, in seconds."""
_CHECK_SECONDS = 0.25
"""Interval of the check for changes that a handler made to the process, in seconds."""
_FORCED = "stopped by force; unsettled messages are redelivered if the transport can"
_HARD_EXIT_SECONDS = 1.0
"""Time after a forced stop until the process exits, even if a handler blocks the main thread, in seconds."""

logger = logging.getLogger("missive")


def _log_all() -> Sequence[Observer]:
    return FailureLog(), SourceLog()


def run(*adapters: Adapter) -> None:
    """Process the messages of one or several adapters until their input ends or a signal stops them.

    SIGINT and SIGTERM drain: intake stops, and running work finishes and is settled. A second signal forces the stop.
    Raises SystemExit(1) after one line on standard error when processing failed or was cut short, and SystemExit(2) for
    a usage error.
    """
    try:
        execute(adapters)
    except UsageError as error:
        raise SystemExit(_complain(error, 2)) from None
    except MissiveError as error:
        raise SystemExit(_complain(error, 1)) from None


async def serve(*adapters: Adapter) -> None:
    """Process messages inside a running loop, on which async handlers run. A cancellation drains first.

    Raises `MissiveError` when processing failed or was cut short.
    """
    await _serve(adapters, None, None, None, None, _log_all)


def execute(
    adapters: Sequence[Adapter],
    *,
    sink: Sink | None = None,
    concurrency: int | None = None,
    watch: Callable[[Sequence[Engine]], None] | None = None,
    observers: Callable[[], Sequence[Observer]] = _log_all,
) -> list[Report]:
    """Run adapters to their end, and handle signals. Return a report for each processor.

    `sink` and `concurrency` replace the settings of the processors. `watch` receives the engines before they start.
    `observers` makes the listeners of one engine.
    Raises `MissiveError` when processing failed or was cut short.
    """
    hard_exit = _HardExit()
    try:
        with uncaught.redacting(), _rare_collections():
            return run_on_handlers_loop(
                _serve(adapters, sink, concurrency, hard_exit, watch, observers),
                closing=lambda: hard_exit.start("work that a handler left does not end", _LEFTOVER_SECONDS),
            )
    finally:
        # After the end of the loop, which may hang, but before the caller handles a forced stop.
        hard_exit.cancel()


class _HardExit:
    """Ends the process when a handler, hook or client blocks its thread and cannot be interrupted."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def start(
        self,
        reason: str = _FORCED,
        seconds: float = _HARD_EXIT_SECONDS,
    ) -> None:
        """Schedule the end of the process. Further calls have no effect."""
        if self._timer is None:
            self._timer = threading.Timer(seconds, self._exit, [f"missive: {reason}\n".encode()])
            self._timer.daemon = True
            self._timer.start()

    def cancel(self) -> None:
        """Cancel the end of the process, because the run ended normally."""
        if self._timer is not None:
            self._timer.cancel()

    @staticmethod
    def _exit(line: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(2, line)
        os._exit(1)


def _complain(error: MissiveError, code: int) -> int:
    flush_output()
    print(f"missive: {printable(str(error))}", file=sys.stderr)  # noqa: T201 - one line for the user
    return code


async def _serve(
    adapters: Sequence[Adapter],
    sink: Sink | None,
    concurrency: int | None,
    hard_exit: _HardExit | None,
    watch: Callable[[Sequence[Engine]], None] | None,
    observers: Callable[[], Sequence[Observer]],
) -> list[Report]:
    """Run engines to their end. With `hard_exit`, handle signals: the engines are the main work of the program."""
    if not adapters:
        raise UsageError("no adapter to run: pass at least one adapter")
    loop = asyncio.get_running_loop()
    if hard_exit is not None:  # the engines are the main work of the program
        _stacks.print_on_request(loop)
    engines = []
    # The adapters of one processor share its engine, and therefore its concurrency.
    for processor in dict.fromkeys(adapter.processor for adapter in adapters):
        own = [adapter for adapter in adapters if adapter.processor is processor]
        store = open_dlq(processor.dlq) if sink is None else sink
        if isinstance(store, Store) and not any(isinstance(adapter, ReplayAdapter) for adapter in own):
            register_application(processor, store)
            # Replays that an operator queues run together with the sources.
            own.append(ReplayAdapter(processor, store))
        engine = Engine(
            processor,
            own,
            sink=store,
            concurrency=concurrency or processor.concurrency,
            drain=max((adapter.drain for adapter in own if not adapter.background), default=own[0].drain),
            handlers_loop=loop,
            observers=observers(),
        )
        engines.append(engine)
    if watch is not None:
        watch(engines)
    with contextlib.nullcontext() if hard_exit is None else _draining(engines, hard_exit) as receiver:
        running = [_start(engine, loop, hard_exit) for engine in engines]
        for one in running:
            # A failed engine stops the others: half an application is worse than none.
            one.add_done_callback(lambda done: _stop_others(done, engines))
        if hard_exit is None:
            await _wait_or_drain(running, engines)
        else:
            await _wait_unperturbed(running, receiver)
    return [one.result() for one in running]


async def _wait_or_drain(running: Sequence[asyncio.Future[Report]], engines: Sequence[Engine]) -> None:
    """Wait for the engines on a loop of the application, whose cancellation drains them."""
    try:
        await asyncio.wait(running)
    except asyncio.CancelledError:
        for engine in engines:
            engine.stop()
        await asyncio.wait(running)
        raise


async def _wait_unperturbed(running: Sequence[asyncio.Future[Report]], receiver: _signals.Receiver | None) -> None:
    """Wait for the engines on a loop of their own, and undo what handlers do to the process."""
    while pending := [one for one in running if not one.done()]:
        try:
            await asyncio.wait(pending, timeout=_CHECK_SECONDS)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            logger.warning("a handler cancelled the task that runs the engines, which continues")
        if receiver is not None and receiver.restore():
            logger.warning("a handler changed the handling of SIGINT or SIGTERM, which is restored")
        if descriptors := _reopen():
            logger.warning("a handler closed the file descriptors %s, which lead to %s now", descriptors, os.devnull)


def _reopen() -> list[int]:
    """Open the null device in place of closed standard streams, whose numbers a connection would get. Return them."""
    reopened = []
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            reopened.append(number)
    return reopened


def _stop_others(done: asyncio.Future[Report], engines: Sequence[Engine]) -> None:
    if not done.cancelled() and done.exception() is not None:
        for engine in engines:
            engine.stop_once()


def _start(engine: Engine, loop: asyncio.AbstractEventLoop, hard_exit: _HardExit | None) -> asyncio.Future[Report]:
    """Run an engine on a new thread and loop. Return a future of its report."""
    future: asyncio.Future[Report] = loop.create_future()

    def resolve(report: Report | None, error: BaseException | None) -> None:
        if error is not None:
            future.set_exception(error)
        elif report is not None:
            future.set_result(report)

    def live() -> None:
        report, error = None, None
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.get_loop().set_exception_handler(uncaught.on_engine_loop)
                report = runner.run(engine.main())
        except BaseException as raised:  # noqa: BLE001 - raised again in the caller's thread
            error = raised
            if not isinstance(raised, MissiveError):
                error = ProcessingFailed(f"the engine failed: {describe_exception(raised)}")
            if engine.cut_short and hard_exit is not None:
                hard_exit.start(str(raised) if isinstance(raised, MissiveError) else _FORCED)
        try:
            loop.call_soon_threadsafe(resolve, report, error)
        except RuntimeError:  # the application closed its loop, and waits no longer
            if error is not None:
                logger.error("%s (the loop that ran serve() is closed)", error)  # noqa: TRY400 - the text says all

    threading.Thread(target=live, name="missive-engine", daemon=True).start()
    return future


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Run the garbage collector after every 10,000 new objects, unless the application has set another threshold.

    A decoded message is about twelve objects, and reference counting frees nearly all of them. With the default
    threshold, an eighth of the processing time is garbage collection.
    """
    first, *others = gc.get_threshold()
    if first in _DEFAULT_THRESHOLDS:
        gc.set_threshold(_THRESHOLD, *others)
    try:
        yield
    finally:
        if gc.get_threshold()[0] == _THRESHOLD:
            gc.set_threshold(first, *others)


def _draining(
    engines: Sequence[Engine], hard_exit: _HardExit
) -> contextlib.AbstractContextManager[_signals.Receiver | None]:
    """Drain on the first SIGINT or SIGTERM, and force on the second."""
    requests = 0

    def stop() -> None:
        nonlocal requests
        requests += 1
        for engine in engines:
            engine.stop()
        if requests > 1:
            hard_exit.start()

    return _signals.receiving(stop)
