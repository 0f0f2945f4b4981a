"""Every delivery ends in its declared outcome, and is settled only after that is durable."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

import missive
from missive.dlq.contract import Sink
from missive.dlq.record import Record
from missive.engine.runner import execute
from missive.errors import StoreError
from missive.matchers import Everything, Field, Present
from missive.testing import MemoryAdapter
from missive.transport import Capabilities, Delivery, Disposition, Settlement, SettlementResult


class Kept(Sink):
    """Keeps records, and the order in which filing and settling happened."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.broken = 0

    def put(self, records: Sequence[Record]) -> None:
        if self.broken:
            self.broken -= 1
            raise StoreError("the store is broken on purpose")
        self.records.extend(records)


def run(proc: missive.Processor[Any], bodies: Sequence[bytes | Delivery], **settings: Any) -> tuple[MemoryAdapter, Any]:
    adapter = MemoryAdapter(proc, bodies, **settings)
    (report,) = execute([adapter])
    return adapter, report


def json_processor(**settings: Any) -> tuple[missive.Processor[missive.JSONMessage], Kept]:
    sink = Kept()
    return missive.Processor(missive.JSONMessage, name="t", dlq=sink, **settings), sink


def test_returning_acks():
    """A handler that returns without settling has handled its message."""
    proc, sink = json_processor()
    seen = []
    proc.add_handler(Field("a", 1), lambda m, c: seen.append(m.raw_data))
    adapter, report = run(proc, [b'{"a":1}'] * 3)
    assert seen == [b'{"a":1}'] * 3
    assert [Disposition.ack] * 3 == [item.disposition for item in adapter.settled]
    assert (report.total_handled, report.total_dead, sink.records) == (3, 0, [])


def test_async_handlers_run_on_another_loop_than_the_engine():
    """An async handler awaits on the caller's loop, and the engine is elsewhere."""
    proc, _ = json_processor()
    threads = []

    @proc.handle_for(Everything())
    async def handle(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        await asyncio.sleep(0)
        threads.append(threading.current_thread().name)

    _, report = run(proc, [b"{}"] * 5)
    assert report.total_handled == 5
    assert {"MainThread"} == set(threads)


def test_sync_handlers_run_on_worker_threads_with_a_context_each():
    """With concurrency 3 there are three workers; each ran its hook in its own thread, before its first message."""
    proc, _ = json_processor(concurrency=3)
    opened: dict[int, int] = {}
    used = set()
    together = threading.Barrier(3)

    @proc.before_processing
    def hook(context: missive.ProcessingContext) -> None:
        context.state.thread = threading.get_ident()
        opened[id(context)] = threading.get_ident()

    @proc.handle_for(Everything())
    def handle(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        together.wait(10)
        used.add((context.processing_ctx.state.thread, threading.get_ident()))

    _, report = run(proc, [b"{}"] * 3)
    assert report.total_handled == 3
    assert len(opened) == 3
    assert used == {(thread, thread) for thread in opened.values()}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"not json", "unreadable"),
        (b'"\xff"', "unreadable"),
        (b'{"a":9}', "unmatched"),
        (b'{"a":2,"b":null}', "ambiguous"),
        (b'{"a":3}', "failed"),
    ],
)
def test_what_cannot_be_handled_is_a_dead_letter(body: bytes, reason: str):
    """Unreadable, unmatched, ambiguous and raised each end in the store with their reason, and are acked after it."""
    proc, sink = json_processor(on_overlap="ignore")
    proc.add_handler(Field("a", 2), lambda m, c: None)
    proc.add_handler(Field("b", Present()), lambda m, c: None)

    @proc.handle_for(Field("a", 3))
    def fail(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        context.ack()
        raise ValueError("after an ack, too")

    adapter, report = run(proc, [body])
    assert [reason] == [str(record.reason) for record in sink.records]
    assert {reason: 1} == dict(report.dead)
    assert [(Disposition.ack, "dead_lettered")] == [(item.disposition, str(item.outcome)) for item in adapter.settled]


def test_a_matcher_that_raises_is_named():
    """`matcher_failed` names handler and matcher, and the hint for the usual cause."""
    proc, sink = json_processor()

    @proc.handle_for(lambda m: m.nothing == 1)
    def never(message: missive.JSONMessage, context: missive.HandlingContext) -> None: ...

    run(proc, [b"{}"])
    assert [str(record.reason) for record in sink.records] == ["matcher_failed"]
    assert "never" in (sink.records[0].error_text or "")


@pytest.mark.parametrize("is_async", [False, True])
def test_held_messages_come_back(is_async: bool):
    """`retry` comes back as the next attempt, `nack` without spending one; both stay unsettled until they are done."""
    proc, _ = json_processor()
    attempts: list[int] = []

    def handle(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        attempts.append(context.attempt)
        if len(attempts) == 1:
            context.retry(0.01)
        elif len(attempts) == 2:
            raise missive.RetryLater(0)
        elif len(attempts) == 3:
            context.nack()

    async def handle_async(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        handle(message, context)

    proc.add_handler(Everything(), handle_async if is_async else handle)
    adapter, report = run(proc, [b"{}"])
    assert attempts == [1, 2, 3, 3]
    assert len(adapter.settled) == 1
    assert (report.retried, report.nacked, report.total_handled) == (2, 1, 1)


def test_retried_failures_are_in_the_history():
    """What failed before it was retried is told by the record of the dead letter that it became."""
    proc, sink = json_processor()

    @proc.handle_for(Everything())
    def handle(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        if context.attempt == 1:
            context.retry(0)
            raise KeyError("first")
        raise ValueError("second")

    run(proc, [b"{}"])
    assert [attempt.error for attempt in sink.records[0].history] == ["KeyError", "ValueError"]


def test_context_variables_do_not_leak():
    """What one handler sets in a context variable is not there for the next message, sync or async."""
    proc, _ = json_processor()
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    seen = []

    @proc.handle_for(Field("a", 1))
    def sync(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        seen.append(variable.get())
        variable.set(1)

    @proc.handle_for(Field("a", 2))
    async def asynchronous(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        seen.append(variable.get())
        variable.set(2)

    run(proc, [b'{"a":1}', b'{"a":2}'] * 20)
    assert seen == [0] * 40


def test_concurrency_is_the_total_of_both_kinds():
    """Sync and async handlers together never run more at once than the processor's concurrency."""
    proc, _ = json_processor(concurrency=3)
    running, most, lock = 0, 0, threading.Lock()

    def enter(step: int) -> None:
        nonlocal running, most
        with lock:
            running += step
            most = max(most, running)

    @proc.handle_for(Field("a", 1))
    def sync(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        enter(1)
        time.sleep(0.002)
        enter(-1)

    @proc.handle_for(Field("a", 2))
    async def asynchronous(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        enter(1)
        await asyncio.sleep(0.002)
        enter(-1)

    _, report = run(proc, [b'{"a":1}', b'{"a":2}', b'{"a":2}'] * 40)
    assert report.total_handled == 120
    assert 2 <= most <= 3


def test_nothing_is_settled_before_it_is_filed():
    """While the store is down a would-be dead letter stays unsettled, successes are settled, and then all goes on."""
    proc, sink = json_processor()
    sink.broken = 3
    proc.add_handler(Field("a", 1), lambda m, c: None)
    order: list[str] = []
    put = sink.put

    def noted(records: Sequence[Record]) -> None:
        put(records)
        order.extend(["filed"] * len(records))

    sink.put = noted  # type: ignore[method-assign]

    class Ledger(list[Settlement]):
        def extend(self, items: Any) -> None:
            items = list(items)
            order.extend(str(item.outcome) for item in items)
            super().extend(items)

    adapter = MemoryAdapter(proc, [b'{"a":9}', b'{"a":1}', b'{"a":9}'])
    adapter.settled = Ledger()
    (report,) = execute([adapter])
    assert order == ["acked", "filed", "filed", "dead_lettered", "dead_lettered"]
    assert (report.total_handled, report.total_dead) == (1, 2)


def test_without_a_dead_letter_queue_the_first_dead_letter_stops():
    """It is left unsettled, what runs is finished, and the error says what to do."""
    proc = missive.Processor(missive.JSONMessage, name="t")
    proc.add_handler(Field("a", 1), lambda m, c: None)
    adapter = MemoryAdapter(proc, [b'{"a":1}', b'{"a":9}'], ends=False)
    with pytest.raises(missive.NotSettled, match="set one with"):
        execute([adapter])
    # What came with it was handled, or given back; it itself was neither.
    assert [item.delivery.body for item in adapter.settled] == [b'{"a":1}']


@pytest.mark.parametrize("is_async", [False, True])
def test_hooks_run_around(is_async: bool):
    """Hooks run in their order, also when the handler raised, and see the outcome and the exception."""
    proc, _ = json_processor()
    seen: list[object] = []

    @proc.before_processing
    def opened(context: missive.ProcessingContext) -> None:
        seen.append("open")

    @proc.after_processing
    def closed(context: missive.ProcessingContext) -> None:
        seen.append("closed")

    @proc.before_handling
    def before(processing: missive.ProcessingContext, handling: missive.HandlingContext) -> None:
        handling.state.note = "noted"

    @proc.after_handling
    def after(processing: missive.ProcessingContext, handling: missive.HandlingContext) -> None:
        seen.append((handling.state.note, str(handling.outcome), type(handling.exception).__name__))

    def handle(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        if message.get_json():
            raise ValueError

    async def handle_async(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        handle(message, context)

    proc.add_handler(Everything(), handle_async if is_async else handle)
    run(proc, [b"0", b"1"])
    assert seen == ["open", ("noted", "acked", "NoneType"), ("noted", "dead_lettered", "ValueError"), "closed"]


@pytest.mark.parametrize("when", ["before_handling", "after_handling"])
def test_a_raising_handling_hook_is_that_message_failing(when: str):
    """A handling hook that raises makes its message a dead letter, and the others go on."""
    proc, sink = json_processor()

    def hook(processing: missive.ProcessingContext, handling: missive.HandlingContext) -> None:
        if handling.message.raw_data == b"1":
            raise OSError

    getattr(proc, when)(hook)
    proc.add_handler(Everything(), lambda m, c: None)
    _, report = run(proc, [b"0", b"1", b"2"])
    assert (report.total_handled, dict(report.dead)) == (2, {"failed": 1})
    assert sink.records[0].error_type == "OSError"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_raising_processing_hook_stops_the_processor(is_async: bool):
    """Nothing is fetched, and the error names the hook."""
    proc, _ = json_processor()

    @proc.before_processing
    def connect(context: missive.ProcessingContext) -> None:
        raise ConnectionError

    async def handle_async(message: missive.JSONMessage, context: missive.HandlingContext) -> None: ...

    proc.add_handler(Everything(), handle_async if is_async else (lambda m, c: None))
    with pytest.raises(missive.ProcessingFailed, match=r"connect raised ConnectionError"):
        run(proc, [b"0"])


def test_leaving_the_interpreter_is_a_failure_of_the_message():
    """`sys.exit()` in a handler fails that message and no other."""
    proc, sink = json_processor()

    @proc.handle_for(Everything())
    def handle(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        if message.raw_data == b"0":
            raise SystemExit(3)

    _, report = run(proc, [b"0", b"1"])
    assert (report.total_handled, sink.records[0].error_type) == (1, "SystemExit")


def test_a_lane_is_in_order_one_at_a_time():
    """Deliveries of one natural lane run one after the other, those of others beside them, at any concurrency."""
    proc, _ = json_processor(concurrency=8)
    running: dict[str, int] = {}
    seen: dict[str, list[int]] = {}
    overlap: set[str] = set()

    @proc.handle_for(Everything())
    async def handle(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        lane, number = message.get_json()
        running[lane] = running.get(lane, 0) + 1
        assert running[lane] == 1
        overlap.update(running)
        await asyncio.sleep(0.001)
        seen.setdefault(lane, []).append(number)
        running.pop(lane)

    deliveries = [Delivery(b'["%s",%d]' % (lane.encode(), n), lane=lane) for n in range(20) for lane in "abc"]
    _, report = run(proc, deliveries)
    assert report.total_handled == 60
    assert {lane: list(range(20)) for lane in "abc"} == seen
    assert set("abc") == overlap


def test_serve_runs_inside_a_loop_and_drains_when_cancelled():
    """`serve()` handles on the caller loop; cancelled, it finishes what runs and gives back the rest."""
    proc, _ = json_processor()
    started = asyncio.Event()
    release = asyncio.Event()

    @proc.handle_for(Everything())
    async def handle(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        started.set()
        await release.wait()

    adapter = MemoryAdapter(proc, [b"1", b"2"], ends=False)

    async def main() -> None:
        serving = asyncio.create_task(adapter.serve())
        await started.wait()
        serving.cancel()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await serving

    asyncio.run(main())
    verbs = {item.delivery.body: item.disposition for item in adapter.settled}
    assert Disposition.ack is verbs[b"1"]


def test_cumulative_sources_are_settled_by_marks():
    """A source that commits marks is never told of single deliveries."""
    proc, _ = json_processor()
    proc.add_handler(Everything(), lambda m, c: None)
    deliveries = [Delivery(b"1", position=n) for n in range(10)]
    marks: list[int] = []

    class Marked(MemoryAdapter):
        async def connect(self, host: Any) -> Any:
            session = await super().connect(host)

            async def commit(given: Any) -> Any:
                marks.append(given[None].position)
                return {None: SettlementResult.confirmed}

            session.commit = commit  # type: ignore[method-assign]
            return session

    adapter = Marked(proc, deliveries, capabilities=Capabilities(commit="cumulative"))
    (report,) = execute([adapter])
    assert (report.total_handled, adapter.settled) == (10, [])
    assert marks[-1] == 9
