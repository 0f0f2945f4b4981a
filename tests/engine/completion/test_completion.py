"""Completion: each message ends with its outcome, and is settled after that outcome is durable."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

import missive
from missive.dlq.record import Record
from missive.engine.runner import execute
from missive.matchers import Everything, Field, Present
from missive.testing import MemoryAdapter
from missive.transport import Capabilities, Delivery, Disposition, Settlement, SettlementResult
from tests.support.engine import RecordingSink, run_in_memory


def json_processor(**settings: Any) -> tuple[missive.Processor[missive.JSONMessage], RecordingSink]:
    """Return a processor of JSON messages, and the sink of its dead letters."""
    sink = RecordingSink()
    return missive.Processor(missive.JSONMessage, name="t", dlq=sink, **settings), sink


def test_a_handler_that_returns_acks():
    """A message whose handler returns is acked."""
    proc, sink = json_processor()
    seen = []
    proc.add_handler(Field("a", 1), lambda m, c: seen.append(m.raw_data))
    adapter, report = run_in_memory(proc, [b'{"a":1}'] * 3)
    assert seen == [b'{"a":1}'] * 3
    assert [Disposition.ack] * 3 == [settlement.disposition for settlement in adapter.settled]
    assert (report.total_handled, report.total_dead, sink.records) == (3, 0, [])


def test_async_handlers_run_on_the_loop_of_the_caller():
    """Async handlers run in the main thread, on the loop of the caller."""
    proc, _ = json_processor()
    threads = []

    @proc.handle_for(Everything())
    async def handle(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        await asyncio.sleep(0)
        threads.append(threading.current_thread().name)

    _, report = run_in_memory(proc, [b"{}"] * 5)
    assert report.total_handled == 5
    assert {"MainThread"} == set(threads)


def test_each_worker_thread_has_its_processing_context():
    """Each of three worker threads runs its processing hook before its first message, with a separate context."""
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

    _, report = run_in_memory(proc, [b"{}"] * 3)
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
def test_a_message_that_cannot_be_handled_is_a_dead_letter(body: bytes, reason: str):
    """Unreadable, unmatched, ambiguous and failed messages are stored with their reason, and then acked."""
    proc, sink = json_processor(on_overlap="ignore")
    proc.add_handler(Field("a", 2), lambda m, c: None)
    proc.add_handler(Field("b", Present()), lambda m, c: None)

    @proc.handle_for(Field("a", 3))
    def fail(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        context.ack()
        raise ValueError("after ack()")

    adapter, report = run_in_memory(proc, [body])
    assert [reason] == [str(record.reason) for record in sink.records]
    assert {reason: 1} == dict(report.dead)
    assert [(Disposition.ack, "dead_lettered")] == [
        (settlement.disposition, str(settlement.outcome)) for settlement in adapter.settled
    ]


def test_a_matcher_that_raises_makes_a_dead_letter():
    """A message whose matcher raises is a dead letter with the reason `matcher_failed` and the name of the handler."""
    proc, sink = json_processor()

    @proc.handle_for(lambda m: m.nothing == 1)
    def never(message: missive.JSONMessage, context: missive.HandlingContext) -> None: ...

    run_in_memory(proc, [b"{}"])
    assert [str(record.reason) for record in sink.records] == ["matcher_failed"]
    assert "never" in (sink.records[0].error_text or "")


@pytest.mark.parametrize("is_async", [False, True])
def test_retried_and_nacked_messages_run_again(is_async: bool):
    """`retry` runs the next attempt, and `nack` repeats the attempt. The message stays unsettled until its last run."""
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
    adapter, report = run_in_memory(proc, [b"{}"])
    assert attempts == [1, 2, 3, 3]
    assert len(adapter.settled) == 1
    assert (report.retried, report.nacked, report.total_handled) == (2, 1, 1)


def test_the_history_of_a_dead_letter_contains_retried_errors():
    """The record of a dead letter contains the errors of its retried attempts."""
    proc, sink = json_processor()

    @proc.handle_for(Everything())
    def handle(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        if context.attempt == 1:
            context.retry(0)
            raise KeyError("first")
        raise ValueError("second")

    run_in_memory(proc, [b"{}"])
    assert [attempt.error for attempt in sink.records[0].history] == ["KeyError", "ValueError"]


def test_context_variables_do_not_leak():
    """A context variable that one handler sets is not set for the next message."""
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

    run_in_memory(proc, [b'{"a":1}', b'{"a":2}'] * 20)
    assert seen == [0] * 40


def test_concurrency_limits_sync_and_async_handlers_together():
    """Sync and async handlers together run no more messages at once than the concurrency of the processor."""
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

    _, report = run_in_memory(proc, [b'{"a":1}', b'{"a":2}', b'{"a":2}'] * 40)
    assert report.total_handled == 120
    assert 2 <= most <= 3


def test_a_dead_letter_is_settled_after_it_is_stored():
    """While the store is down, a dead letter stays unsettled and other messages are settled."""
    proc, sink = json_processor()
    sink.failures = 3
    proc.add_handler(Field("a", 1), lambda m, c: None)
    order: list[str] = []
    put = sink.put

    def put_and_record(records: Sequence[Record]) -> None:
        put(records)
        order.extend(["filed"] * len(records))

    sink.put = put_and_record  # type: ignore[method-assign]

    class RecordingList(list[Settlement]):
        def extend(self, settlements: Any) -> None:
            settlements = list(settlements)
            order.extend(str(settlement.outcome) for settlement in settlements)
            super().extend(settlements)

    adapter = MemoryAdapter(proc, [b'{"a":9}', b'{"a":1}', b'{"a":9}'])
    adapter.settled = RecordingList()
    (report,) = execute([adapter])
    assert order == ["acked", "filed", "filed", "dead_lettered", "dead_lettered"]
    assert (report.total_handled, report.total_dead) == (1, 2)


def test_without_a_dead_letter_queue_the_first_dead_letter_stops_processing():
    """Without a dead letter queue, the first dead letter stops processing unsettled. The error names the remedy."""
    proc = missive.Processor(missive.JSONMessage, name="t")
    proc.add_handler(Field("a", 1), lambda m, c: None)
    adapter = MemoryAdapter(proc, [b'{"a":1}', b'{"a":9}'], ends=False)
    with pytest.raises(missive.NotSettled, match="set one with"):
        execute([adapter])
    # The other message was handled, and the dead letter was not settled.
    assert [settlement.delivery.body for settlement in adapter.settled] == [b'{"a":1}']


@pytest.mark.parametrize("is_async", [False, True])
def test_hooks_run_around_handlers(is_async: bool):
    """Handling hooks run around each handler, also when the handler raises, and see its outcome and exception."""
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
    run_in_memory(proc, [b"0", b"1"])
    assert seen == ["open", ("noted", "acked", "NoneType"), ("noted", "dead_lettered", "ValueError"), "closed"]


@pytest.mark.parametrize("when", ["before_handling", "after_handling"])
def test_a_handling_hook_that_raises_fails_its_message(when: str):
    """A handling hook that raises makes its message a dead letter, and other messages are handled."""
    proc, sink = json_processor()

    def hook(processing: missive.ProcessingContext, handling: missive.HandlingContext) -> None:
        if handling.message.raw_data == b"1":
            raise OSError

    getattr(proc, when)(hook)
    proc.add_handler(Everything(), lambda m, c: None)
    _, report = run_in_memory(proc, [b"0", b"1", b"2"])
    assert (report.total_handled, dict(report.dead)) == (2, {"failed": 1})
    assert sink.records[0].error_type == "OSError"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_processing_hook_that_raises_stops_processing(is_async: bool):
    """A processing hook that raises stops processing, with an error that names the hook."""
    proc, _ = json_processor()

    @proc.before_processing
    def connect(context: missive.ProcessingContext) -> None:
        raise ConnectionError

    async def handle_async(message: missive.JSONMessage, context: missive.HandlingContext) -> None: ...

    proc.add_handler(Everything(), handle_async if is_async else (lambda m, c: None))
    with pytest.raises(missive.ProcessingFailed, match=r"connect raised ConnectionError"):
        run_in_memory(proc, [b"0"])


def test_sys_exit_in_a_handler_fails_its_message():
    """`sys.exit()` in a handler fails its message only."""
    proc, sink = json_processor()

    @proc.handle_for(Everything())
    def handle(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        if message.raw_data == b"0":
            raise SystemExit(3)

    _, report = run_in_memory(proc, [b"0", b"1"])
    assert (report.total_handled, sink.records[0].error_type) == (1, "SystemExit")


def test_a_lane_of_the_transport_runs_in_order():
    """Messages of one lane of the transport run one at a time in order, at the same time as other lanes."""
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
    _, report = run_in_memory(proc, deliveries)
    assert report.total_handled == 60
    assert {lane: list(range(20)) for lane in "abc"} == seen
    assert set("abc") == overlap


def test_a_cancelled_serve_drains():
    """`serve()` handles messages on the loop of the caller. When it is cancelled, it finishes running messages."""
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
    dispositions = {settlement.delivery.body: settlement.disposition for settlement in adapter.settled}
    assert Disposition.ack is dispositions[b"1"]


def test_a_cumulative_source_is_settled_by_watermarks():
    """A source with cumulative commits receives watermarks and no settlements of single messages."""
    proc, _ = json_processor()
    proc.add_handler(Everything(), lambda m, c: None)
    deliveries = [Delivery(b"1", position=n) for n in range(10)]
    positions: list[int] = []

    class Cumulative(MemoryAdapter):
        async def connect(self, host: Any) -> Any:
            session = await super().connect(host)

            async def commit(watermarks: Any) -> Any:
                positions.append(watermarks[None].position)
                return {None: SettlementResult.confirmed}

            session.commit = commit  # type: ignore[method-assign]
            return session

    adapter = Cumulative(proc, deliveries, capabilities=Capabilities(commit="cumulative"))
    (report,) = execute([adapter])
    assert (report.total_handled, adapter.settled) == (10, [])
    assert positions[-1] == 9
