"""Running adapters: threads and loops, signals, and how it ends for the caller."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from missive.adapters.base import Adapter
from missive.adapters.replay import ReplayAdapter
from missive.dlq import open_dlq
from missive.dlq.contract import Sink, Store
from missive.engine.engine import Engine
from missive.engine.report import Report
from missive.errors import MissiveError, UsageError

_DEFAULT_THRESHOLDS = {700, 2000}
"""What Python's garbage collector begins with, by its version."""
_RARELY = 10_000
_HARD_EXIT_SECONDS = 1.0
"""After a forced stop, a handler that blocks the main thread has so long before the process is ended around it."""


def run(*adapters: Adapter) -> None:
    """Process the messages of one or several adapters until their input ends or a signal says stop.

    SIGINT and SIGTERM drain: intake stops, running work finishes and is settled. A second one forces. Raises
    SystemExit(1) after one line on standard error when processing failed or was cut short, and SystemExit(2) for
    what cannot work as written.
    """
    try:
        execute(adapters)
    except UsageError as error:
        raise SystemExit(_complain(error, 2)) from None
    except MissiveError as error:
        raise SystemExit(_complain(error, 1)) from None


async def serve(*adapters: Adapter) -> None:
    """Process messages inside a running loop; async handlers run on it. Cancelled, it drains first.

    Raises `MissiveError` when processing failed or was cut short.
    """
    await _serve(adapters, None, None, None, None)


def execute(
    adapters: Sequence[Adapter],
    *,
    sink: Sink | None = None,
    concurrency: int | None = None,
    watch: Callable[[Sequence[Engine]], None] | None = None,
) -> list[Report]:
    """Run adapters to their end with signals handled; returns a report for each processor.

    `sink` and `concurrency` replace the processors' own. `watch` is given the engines before they start. Raises
    `MissiveError`.
    """
    hard_exit = _HardExit()
    try:
        with _rare_collections(), asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(_serve(adapters, sink, concurrency, hard_exit, watch))
    finally:
        # After the runner, whose own end may hang; but not into what the caller does about a forced stop.
        hard_exit.cancel()


class _HardExit:
    """Ends the process around what cannot be interrupted: a handler, a hook or a client that blocks its thread."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def start(self, why: str = "stopped by force; what was not settled comes again where it can") -> None:
        """Give it a last second, once."""
        if self._timer is None:
            self._timer = threading.Timer(_HARD_EXIT_SECONDS, self._exit, [f"missive: {why}\n".encode()])
            self._timer.daemon = True
            self._timer.start()

    def cancel(self) -> None:
        """Let the process live: it ended by itself."""
        if self._timer is not None:
            self._timer.cancel()

    @staticmethod
    def _exit(line: bytes) -> None:
        os.write(2, line)
        os._exit(1)


def _complain(error: MissiveError, code: int) -> int:
    if sys.stdout is not None:
        sys.stdout.flush()
    print(f"missive: {error}", file=sys.stderr)  # noqa: T201 - one line for the person who started it
    return code


async def _serve(
    adapters: Sequence[Adapter],
    sink: Sink | None,
    concurrency: int | None,
    hard_exit: _HardExit | None,
    watch: Callable[[Sequence[Engine]], None] | None,
) -> list[Report]:
    """Run engines to their end; with `hard_exit`, as the program's own main thing, which handles signals."""
    if not adapters:
        raise UsageError("there is no adapter to run")
    loop = asyncio.get_running_loop()
    engines = []
    # The adapters of one processor share its engine, and so its concurrency.
    for processor in dict.fromkeys(adapter.processor for adapter in adapters):
        own = [adapter for adapter in adapters if adapter.processor is processor]
        filed_in = open_dlq(processor.dlq) if sink is None else sink
        if isinstance(filed_in, Store) and not any(isinstance(adapter, ReplayAdapter) for adapter in own):
            # Taken up beside the sources: what an operator queues for replay.
            own.append(ReplayAdapter(processor, filed_in))
        engine = Engine(
            processor,
            own,
            sink=filed_in,
            concurrency=concurrency or processor.concurrency,
            drain=max((adapter.drain for adapter in own if not adapter.background), default=own[0].drain),
            handlers_loop=loop,
        )
        engines.append(engine)
    if watch is not None:
        watch(engines)
    with contextlib.nullcontext() if hard_exit is None else _signals(engines, hard_exit):
        running = [_start(engine, loop, hard_exit) for engine in engines]
        for one in running:
            # One that ends in failure stops the others: half an application is worse than none.
            one.add_done_callback(lambda done: _stop_others(done, engines))
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError:
            for engine in engines:
                engine.stop()
            await asyncio.wait(running)
            raise
    return [one.result() for one in running]


def _stop_others(done: asyncio.Future[Report], engines: Sequence[Engine]) -> None:
    if not done.cancelled() and done.exception() is not None:
        for engine in engines:
            engine.stop_once()


def _start(engine: Engine, loop: asyncio.AbstractEventLoop, hard_exit: _HardExit | None) -> asyncio.Future[Report]:
    """Run an engine on a thread and a loop of its own."""
    future: asyncio.Future[Report] = loop.create_future()

    def tell(report: Report | None, error: BaseException | None) -> None:
        if error is not None:
            future.set_exception(error)
        elif report is not None:
            future.set_result(report)

    def live() -> None:
        report, error = None, None
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                report = runner.run(engine.main())
        except BaseException as raised:  # noqa: BLE001 - it is raised in the caller's thread
            error = raised
            if engine.cut_short and hard_exit is not None:
                hard_exit.start(*([str(raised)] if isinstance(raised, MissiveError) else []))
        loop.call_soon_threadsafe(tell, report, error)

    threading.Thread(target=live, name="missive-engine", daemon=True).start()
    return future


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Let the garbage collector look every ten thousand new objects, where nobody has told it otherwise.

    A decoded message is a dozen, of which nearly all are gone by themselves: an eighth of the time would be looking.
    """
    first, *others = gc.get_threshold()
    if first in _DEFAULT_THRESHOLDS:
        gc.set_threshold(_RARELY, *others)
    try:
        yield
    finally:
        if gc.get_threshold()[0] == _RARELY:
            gc.set_threshold(first, *others)


@contextlib.contextmanager
def _signals(engines: Sequence[Engine], hard_exit: _HardExit) -> Iterator[None]:
    """Let SIGINT and SIGTERM drain, and force the second time; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    requests = 0

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal requests
        requests += 1
        for engine in engines:
            engine.stop()
        if requests > 1:
            hard_exit.start()

    # Handled between two bytecodes, and not by the loop: an async handler that blocks it must not block Ctrl-C.
    earlier = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the fastest loop there is: uvloop's where it is installed, else None for asyncio's."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return None
    return uvloop.new_event_loop
