"""Helpers for tests of the engine: processors, message bodies, dead letters, runs and waits."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import pytest

from missive import JSONMessage, Processor
from missive.adapters.base import Adapter
from missive.app.batch import Batch
from missive.dlq import open_dlq
from missive.dlq.contract import Sink
from missive.dlq.record import Record
from missive.engine.completion.idempotency import IdempotencyClaims
from missive.engine.completion.settlement import Settler
from missive.engine.engine import Engine
from missive.engine.intake.backpressure import Backpressure
from missive.engine.intake.leases import LeaseRenewer
from missive.engine.intake.source import Source
from missive.engine.limits import Limits
from missive.engine.report import Report
from missive.engine.runner import execute
from missive.engine.runtime import Runtime
from missive.engine.stages import Stage
from missive.errors import MissiveError, StoreError
from missive.matchers import Everything
from missive.messages import Message
from missive.testing import MemoryAdapter
from missive.transport import Delivery
from tests.support.broker import Broker

CANARY = "canary-4711"
"""A text that no log, error or repr may contain."""

SMALL_LIMITS = Limits(50, 100_000, 500)
"""A credit of 50 messages and 100 kB for each source, and of 500 messages in total."""

sync_and_async = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


class DeadLetterBox(dict[str, tuple[Message, str]]):
    """A dead letter queue in memory that lists its reasons."""

    def by_number(self) -> list[tuple[int, str]]:
        """Return pairs of a message's number and its reason, in the order of the numbers."""
        return sorted((number(message), str(reason)) for message, reason in self.values())

    def by_body(self) -> list[tuple[bytes, str]]:
        """Return pairs of body and reason, in the order in which the messages were filed."""
        return [(message.raw_data, str(reason)) for message, reason in self.values()]


class RecordingSink(Sink):
    """A sink that collects its records. The next `failures` calls of `put` fail; `tries` counts all calls."""

    def __init__(self, failures: float = 0) -> None:
        self.records: list[Record] = []
        self.failures = failures
        self.tries = 0

    def put(self, records: Sequence[Record]) -> None:
        """Add the records, or raise StoreError."""
        self.tries += 1
        if self.failures > 0:
            self.failures -= 1
            raise StoreError("the store is down")
        self.records.extend(records)


def processor(kind: Any = JSONMessage, **settings: Any) -> Processor[Any]:
    """Return a processor with four workers and a dead letter queue in memory, whose matchers may overlap."""
    defaults = {"name": "app", "dlq": DeadLetterBox(), "concurrency": 4, "on_overlap": "ignore"}
    return Processor(kind, **{**defaults, **settings})


def bodies(count: int, **fields: object) -> list[bytes]:
    """Return JSON objects with their number as `n`, and the given fields."""
    more = "".join(f',"{name}":{value}' for name, value in fields.items()).encode()
    return [b'{"n":%d%b}' % (n, more) for n in range(count)]


def keyed_bodies(count: int, keys: int = 1) -> list[bytes]:
    """Return JSON objects with their number as `n`, and as `k` one of several keys in turn."""
    return [b'{"n":%d,"k":%d}' % (n, n % keys) for n in range(count)]


def plain_bodies(count: int) -> list[bytes]:
    """Return the numbers from 0 as decimal text."""
    return [b"%d" % n for n in range(count)]


def number(message: Any) -> int:
    """Return the number of a message, its field `n`."""
    n: int = message.get_json()["n"]
    return n


def numbers(batch: Batch[Any]) -> list[int]:
    """Return the numbers of the messages of a batch."""
    return [number(message) for message in batch.messages]


def add_batch_handler(
    proc: Processor[Any], is_async: bool, handle: Callable[[Batch[Any]], object], **settings: Any
) -> None:
    """Register a function of a batch as a `def` or an `async def` handler of all messages, with a wait of 50 ms."""

    async def handle_async(batch: Batch[Any]) -> None:
        await asyncio.sleep(0)
        handle(batch)

    proc.add_batch_handler(Everything(), handle_async if is_async else handle, **{"wait": 0.05, **settings})


class FastRuntime(Runtime):
    """A runtime whose clock runs ten times as fast, so that delays are short."""

    monotonic = staticmethod(lambda: time.monotonic() * 10)

    async def sleep(self, seconds: float) -> None:
        """Wait for a tenth of the time."""
        await asyncio.sleep(seconds / 10)

    def call_later(self, seconds: float, fn: Callable[[], None]) -> Callable[[], None]:
        """Call the function after a tenth of the time."""
        return super().call_later(seconds / 10, fn)


class Ran(NamedTuple):
    """The engine of a run that has ended, and its report."""

    engine: Engine
    report: Report


def run(
    *adapters: Adapter,
    drain: float = 25,
    runtime: Runtime | None = None,
    meanwhile: Callable[[Engine], Awaitable[None]] | None = None,
    check_left: bool = True,
    seconds: float = 20,
) -> Ran:
    """Run the adapters of one processor as production does, with the engine on a separate thread and loop.

    `meanwhile` runs on the loop of the handlers at the same time, and may stop the engine. An error in `meanwhile`
    stops the engine and fails the test. With `check_left`, the test fails if the engine ends with work in a station.

    Raise the engine's exception. Fail when the run takes longer than `seconds`.
    """
    engines: list[Engine] = []

    async def main() -> Report:
        processor = adapters[0].processor
        engine = Engine(
            processor,
            adapters,
            sink=open_dlq(processor.dlq),
            concurrency=processor.concurrency,
            drain=drain,
            handlers_loop=asyncio.get_running_loop(),
            runtime=runtime,
        )
        engines.append(engine)
        helping = asyncio.ensure_future(_meanwhile(engine, meanwhile))
        try:
            return await _run(engine, seconds)
        finally:
            if helping.done():
                helping.result()
            helping.cancel()

    try:
        report = asyncio.run(main())
    finally:
        # Check after an error of the engine too, but do not hide the failure of a test.
        if check_left and engines and isinstance(sys.exception(), MissiveError | None):
            assert left_in(engines[0]) == {}
        assert [adapter.foreign for adapter in adapters if isinstance(adapter, Broker) and adapter.foreign] == []
    return Ran(engines[0], report)


async def _run(engine: Engine, seconds: float) -> Report:
    running = asyncio.ensure_future(asyncio.to_thread(asyncio.run, engine.main()))
    _, late = await asyncio.wait([running], timeout=seconds)
    if not late:
        return running.result()
    left = left_in(engine)
    engine.stop()
    engine.stop()
    await asyncio.wait([running])
    running.exception()
    pytest.fail(f"the engine still runs after {seconds:g} s, with {left}")


async def _meanwhile(engine: Engine, meanwhile: Callable[[Engine], Awaitable[None]] | None) -> None:
    await until(
        lambda: engine.state != "connecting" or any(s.ended for s in engine._state.sources), "the engine to start"
    )
    if meanwhile is not None:
        try:
            await meanwhile(engine)
        except BaseException:
            engine.stop_once()
            raise


def run_in_memory(proc: Processor[Any], deliveries: Sequence[bytes | Delivery], **settings: Any) -> tuple[Any, Report]:
    """Run a processor on a `MemoryAdapter` with these settings. Return the adapter and the report."""
    adapter = MemoryAdapter(proc, deliveries, **settings)
    (report,) = execute([adapter])
    return adapter, report


def left_in(engine: Engine) -> dict[str, object]:
    """Return the work that an engine left in its stations when it ended. It is empty when the accounting is right."""
    stations = engine.stations
    dispatcher = stations.dispatcher
    left: dict[str, object] = {
        "lanes": len(dispatcher.lanes),
        "together": dispatcher.lanes._together,
        "ready": len(dispatcher._ready),
        "running": dispatcher.running,
        "held": len(stations.held_jobs),
        "unfiled": stations.dead_letters.pending,
    }
    for number, source in enumerate(stations.intakes):
        left |= {f"{what} of source {number}": getattr(source, what) for what in ("items", "bytes", "waiting")}
    limiters = dispatcher.limiters
    for name, limiter in [*limiters.of_routes.items(), *limiters.of_sources.items()]:
        left[f"in the limiter of {name}"] = limiter._running or len(limiter._inside) or len(limiter.waiting)
    for limiter in limiters.of_circuits.values():
        left["in a breaker"] = len(limiter._inside) or len(limiter.waiting)
    for batcher in dispatcher._batchers._batchers.values():
        left["batched"] = batcher._jobs
    for stage in stations.stages.all:
        if isinstance(stage, LeaseRenewer):
            left["leases"] = len(stage._until)
        elif isinstance(stage, Settler):
            left["unsettled"] = len(stage._tries) + len(stage._pending)
        elif isinstance(stage, IdempotencyClaims):
            left["claims"] = len(stage._mine) + sum(handler.out for handler in stage._handlers.values())
        elif isinstance(stage, Backpressure):
            left["in lanes"] = sum(stage._items.values()) + sum(stage._bytes.values())
    return {what: count for what, count in left.items() if count}


T = TypeVar("T", bound=Stage)


def stage_of(engine: Engine, kind: type[T]) -> T:
    """Return the only stage of a kind. Fail when there is another number of them."""
    (stage,) = (stage for stage in engine.stations.stages.all if isinstance(stage, kind))
    return stage


def source_of(engine: Engine) -> Source:
    """Return the first source of an engine."""
    return next(iter(engine.stations.intakes))


async def until(condition: Callable[[], object], what: str, seconds: float = 10) -> None:
    """Wait on the loop of the handlers until a condition is true. Fail with `what` when the time is up."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s for {what}")
        await asyncio.sleep(0.005)
