"""The cost of one message through the engine, from an in-memory source, all in: JSON, a field, a handler."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import gc
import math
import queue
import statistics
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import orjson

import missive
from missive.app.context import ProcessingContext
from missive.engine.intake.admission import make_job
from missive.engine.intake.factory import message_factory
from missive.engine.job import Job
from missive.engine.runner import execute
from missive.engine.workers.compiler import compile_async_route, compile_route
from missive.matchers import Field
from missive.testing import MemoryAdapter
from missive.testing.memory import MemorySession
from missive.transport import Capabilities, Delivery, Host, Settlement, SettlementResult, Watermark

MESSAGES = 100_000
ROUNDS = 5
AT_ONCE = 1000

BODY = (
    b'{"type":"order.placed","id":"7f9c24e8-3b12-4fef-91d0-56a2d5a4f1c8","customer":"c-1029384756",'
    b'"total":129.95,"currency":"SEK","lines":[{"sku":"A-1000","qty":2},{"sku":"B-2000","qty":1}],"note":"at door"}'
)


def sync_handler(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
    pass


async def async_handler(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
    pass


class Counted(list[Settlement]):
    """A ledger that only counts: a hundred thousand kept items would be measured as garbage collection."""

    def __init__(self) -> None:
        self.count = 0

    def extend(self, items: Any) -> None:
        self.count += len(items)


class Partitions(MemoryAdapter):
    """A source in lanes, settled by watermarks, as Kafka is."""

    async def connect(self, host: Host) -> MemorySession:
        return PartitionsSession(self, host)


class PartitionsSession(MemorySession):
    async def commit(self, watermarks: Mapping[str | None, Watermark]) -> Mapping[str | None, SettlementResult]:
        return dict.fromkeys(watermarks, SettlementResult.confirmed)

    async def pause(self, lanes: Collection[str]) -> None:
        pass

    async def resume(self, lanes: Collection[str]) -> None:
        pass


def unordered(proc: missive.Processor[Any]) -> MemoryAdapter:
    adapter = MemoryAdapter(proc, [Delivery(BODY) for _ in range(MESSAGES)])
    adapter.settled = Counted()
    return adapter


def in_lanes(proc: missive.Processor[Any], lanes: int) -> MemoryAdapter:
    """Fifty of a lane come in a row, as from a broker."""
    able = Capabilities(commit="cumulative", max_watermark=3000, pauses=True, order="lane", fences=True)
    places = [divmod(n, 50) for n in range(MESSAGES)]
    names = [f"bench/{lane}" for lane in range(lanes)]
    given = [Delivery(BODY, lane=names[at % lanes], position=at * 50 + rest) for at, rest in places]
    return Partitions(proc, given, capabilities=able)


def per_message(
    handler: Callable[..., object], source: Callable[[missive.Processor[Any]], MemoryAdapter] = unordered
) -> tuple[float, float]:
    """Return the wall and the CPU seconds of a message."""
    proc = missive.Processor(missive.JSONMessage, name="bench", dlq={})
    proc.add_handler(Field("type", "order.placed"), handler)
    adapter = source(proc)
    gc.collect()
    gc.freeze()  # the messages that wait are the bench's, not the engine's
    started, cpu = time.perf_counter(), time.process_time()
    (report,) = execute([adapter])
    elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
    gc.unfreeze()
    ledger = adapter.settled
    if report.total_handled != MESSAGES or (isinstance(ledger, Counted) and ledger.count != MESSAGES):
        raise SystemExit("not every message was handled and settled")
    return elapsed / MESSAGES, cpu / MESSAGES


def decode_cost() -> float:
    """Return what `orjson.loads` of the body alone takes here: the yardstick between machines."""
    started = time.perf_counter()
    for _ in range(MESSAGES):
        orjson.loads(BODY)
    return (time.perf_counter() - started) / MESSAGES


class Steps:
    """The steps of one message, each alone, over as many messages as the engine has at once."""

    def __init__(self) -> None:
        proc = missive.Processor(missive.JSONMessage, name="bench", dlq={})
        proc.add_handler(Field("type", "order.placed"), sync_handler)
        proc.add_handler(Field("type", "order.paid"), async_handler)
        sync_route, async_route = proc.freeze()
        self.find, self.worker = proc.router().find, ProcessingContext(proc)
        self.adapter, self.session = MemoryAdapter(proc), None
        self.deliveries = [Delivery(BODY) for _ in range(AT_ONCE)]
        self.sync = compile_route(sync_route, lambda _: None, time.monotonic)
        self.asynchronous = compile_async_route(async_route, time.monotonic)
        self.jobs: list[Job] = []

    def nothing(self) -> None:
        pass

    def make(self) -> None:
        source: Any = self  # it has what jobs want of one
        make = message_factory(missive.JSONMessage)
        self.jobs = [make_job(source, None, delivery, make, 0.0) for delivery in self.deliveries]

    def route(self) -> None:
        find = self.find
        for job in self.jobs:
            job.route = find(job.message)

    def run_sync(self) -> None:
        clean, handler, worker = contextvars.copy_context(), self.sync, self.worker
        for job in self.jobs:
            clean.copy().run(handler, job, worker)

    def run_async(self) -> None:
        async def run() -> None:
            clean, handler, worker = contextvars.copy_context(), self.asynchronous, self.worker
            for job in self.jobs:
                await handler(job, worker)
                if contextvars.copy_context() != clean:
                    return

        with contextlib.suppress(StopIteration):
            run().send(None)

    def hand_over(self) -> None:
        inbox: queue.SimpleQueue[Job] = queue.SimpleQueue()
        outbox: deque[Job] = deque()
        for job in self.jobs:
            inbox.put(job)
        for _ in self.jobs:
            outbox.append(inbox.get_nowait())
        while outbox:
            outbox.popleft()

    def settle(self) -> None:
        [
            Settlement(job.delivery, job.disposition, job.decision.outcome, job.decision.label)
            for job in self.jobs
            if job.decision
        ]

    def costs(self) -> Iterator[tuple[str, float]]:
        """Yield what each costs, in seconds a message."""
        for name, prepare, step in (
            ("a message and its job are made", self.nothing, self.make),
            ("the body is decoded, and routed by one field", self.make, self.route),
            ("of that, routing", self.nothing, self.route),
            ("sync: context variables, context, handler, decision", self.make, self.run_sync),
            ("async: the same, and two coroutines", self.make, self.run_async),
            ("to a worker and back, through queues", self.nothing, self.hand_over),
            ("what is settled is written down", self.run_sync, self.settle),
        ):
            best = math.inf
            for _ in range(200):
                prepare()
                started = time.perf_counter()
                step()
                best = min(best, time.perf_counter() - started)
            yield name, best / AT_ONCE


def main() -> None:
    decode = statistics.median(decode_cost() for _ in range(ROUNDS))
    print(f"orjson.loads of the {len(BODY)}-byte body alone: {decode * 1e6:.2f} µs")
    one, several = functools.partial(in_lanes, lanes=1), functools.partial(in_lanes, lanes=8)
    for name, handler, source in (
        ("sync handler", sync_handler, unordered),
        ("async handler", async_handler, unordered),
        ("sync handler, one lane", sync_handler, one),
        ("async handler, one lane", async_handler, one),
        ("sync handler, eight lanes", sync_handler, several),
    ):
        runs = [per_message(handler, source) for _ in range(ROUNDS)]
        walls = [wall for wall, _ in runs]
        middle, cpu = statistics.median(walls), statistics.median(cpu for _, cpu in runs)
        print(
            f"engine, {name}: {middle * 1e6:.2f} µs a message (min {min(walls) * 1e6:.2f},"
            f" max {max(walls) * 1e6:.2f}), {cpu * 1e6:.2f} µs of CPU; {middle / decode:.1f}× its decoding"
        )
    on_the_reference = 0.7
    print(
        f"the limit is 6 µs where orjson.loads costs {on_the_reference} µs:"
        f" {6 * decode * 1e6 / on_the_reference:.1f} µs here"
    )
    print("where it goes, each step alone (the rest is the engine's books, and two threads at one interpreter):")
    for name, cost in Steps().costs():
        print(f"  {name}: {cost * 1e6:.2f} µs")


if __name__ == "__main__":
    main()
