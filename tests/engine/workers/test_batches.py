"""Batches: the outcome of each message, the search for messages that fail, timeouts, hooks and contexts."""

from __future__ import annotations

import asyncio
import contextvars
import math
import time

import pytest

import missive
from missive import DeadLetter, Discard, JSONMessage, Processor, RetryLater
from missive.matchers import Everything
from tests.support.broker import Broker
from tests.support.engine import (
    CANARY,
    add_batch_handler,
    keyed_bodies,
    number,
    numbers,
    processor,
    run,
    sync_and_async,
)

# Outcomes


@sync_and_async
def test_each_message_of_a_batch_may_have_its_own_outcome(is_async):
    """Each message ends in the outcome that the handler recorded for it. The other messages are acked."""
    proc, attempts = processor(), {}

    def handle(batch):
        for item in batch:
            n = number(item.message)
            attempts.setdefault(n, []).append(item.attempt)
            if len(attempts[n]) == 1:
                [lambda _: None, ack, retry, nack, dead_letter, discard][n](item)

    ack = lambda item: item.ack()
    retry = lambda item: item.retry(0)
    nack = lambda item: item.nack()
    dead_letter = lambda item: item.dead_letter("bad", detail="x")
    discard = lambda item: item.discard("not ours")
    add_batch_handler(proc, is_async, handle, size=6, name="h")
    broker = Broker(proc, keyed_bodies(6))
    _, report = run(broker)
    assert attempts == {0: [1], 1: [1], 2: [1, 2], 3: [1, 1], 4: [1], 5: [1]}
    assert (dict(report.handled), dict(report.discarded)) == ({"h": 4}, {"h": 1})
    assert (report.retried, report.nacked, dict(report.dead)) == (1, 1, {"rejected": 1})
    assert [n for n, _ in proc.dlq.by_number()] == [4]
    outcomes = {one.delivery.body: one.outcome for call in broker.settlements for one in call}
    assert [str(outcomes[body]) for body in keyed_bodies(6)] == [
        *("acked", "acked", "acked", "acked", "dead_lettered", "discarded")
    ]


@sync_and_async
@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 33, 100])
def test_a_message_that_fails_is_found_by_halves(is_async, count):
    """A batch that raises runs again in halves until the culprit is alone. The others are acked, after few calls."""
    for culprit in {0, count // 2, count - 1}:
        proc, calls = processor(), []

        def handle(batch, calls=calls, culprit=culprit):
            calls.append(numbers(batch))
            assert all(item.attempt == 1 for item in batch)
            if culprit in calls[-1]:
                raise ValueError(CANARY)

        add_batch_handler(proc, is_async, handle, size=count)
        _, report = run(Broker(proc, keyed_bodies(count)))
        assert [n for n, _ in proc.dlq.by_number()] == [culprit]
        assert (report.total_handled, dict(report.dead), report.retried) == (count - 1, {"failed": 1}, 0)
        assert [culprit] in calls
        assert len(calls) <= 2 * math.ceil(math.log2(count)) + 1
        handled = [n for call in calls if culprit not in call for n in call]
        assert sorted(handled) == [n for n in range(count) if n != culprit]


@sync_and_async
def test_several_messages_that_fail_are_found(is_async):
    """All culprits are found. Each other message is handled once in a call that returned."""
    proc, handled, culprits = processor(), [], {3, 4, 11, 30}

    def handle(batch):
        if culprits & set(numbers(batch)):
            raise ValueError
        handled.extend(numbers(batch))

    add_batch_handler(proc, is_async, handle, size=32)
    _, report = run(Broker(proc, keyed_bodies(32)))
    assert {n for n, _ in proc.dlq.by_number()} == culprits
    assert sorted(handled) == sorted(set(range(32)) - culprits)
    assert report.total_handled == 28


@sync_and_async
def test_outcomes_recorded_before_the_exception_count(is_async):
    """Messages with a recorded outcome are not run again after their batch raised. The others run in halves."""
    proc, calls = processor(), []

    def handle(batch):
        calls.append(numbers(batch))
        for item in batch:
            n = number(item.message)
            if n == 0:
                item.ack()
            elif n == 1:
                item.discard("no")
            elif n == 2:
                item.dead_letter("bad")
            elif n == 5:
                raise ValueError

    add_batch_handler(proc, is_async, handle, size=8, name="h")
    _, report = run(Broker(proc, keyed_bodies(8)))
    assert calls[0] == [*range(8)]
    assert not {0, 1, 2} & {n for call in calls[1:] for n in call}
    assert [n for n, _ in proc.dlq.by_number()] == [2, 5]
    assert (dict(report.handled), dict(report.discarded)) == ({"h": 5}, {"h": 1})


@sync_and_async
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DeadLetter("bad", detail=CANARY), {"dead": {"rejected": 1}}),
        (Discard("no"), {"discarded": {"h": 1}}),
        (RetryLater(0), {"retried": 1}),
        (SystemExit(3), {"dead": {"failed": 1}}),
    ],
    ids=["dead letter", "discard", "retry", "exit"],
)
def test_a_raised_outcome_belongs_to_the_message_that_raises_alone(is_async, error, expected):
    """An outcome that is raised applies to the message that raises it alone. The other messages are acked."""
    proc, tries = processor(), []

    def handle(batch):
        tries.append(numbers(batch))
        if any(number(item.message) == 2 and item.attempt == 1 for item in batch):
            raise error

    add_batch_handler(proc, is_async, handle, size=4, name="h")
    _, report = run(Broker(proc, keyed_bodies(4)))
    assert report.total_handled == (4 if isinstance(error, RetryLater) else 3)
    found = {"dead": dict(report.dead), "discarded": dict(report.discarded), "retried": report.retried}
    assert {name: value for name, value in found.items() if value} == expected


def test_an_exception_after_all_outcomes_is_only_logged(caplog):
    """An exception after the outcomes of all messages changes nothing. A log line reports it without its text."""
    proc, calls = processor(), []

    @proc.handle_batch_for(Everything(), size=3, wait=0.05)
    def handle(batch):
        calls.append(len(batch))
        for item in batch:
            item.ack()
        raise ValueError(CANARY)

    _, report = run(Broker(proc, keyed_bodies(3)))
    assert (calls, report.total_handled, report.total_dead) == ([3], 3, 0)
    assert "raised ValueError after it had recorded an outcome for every item of a batch" in caplog.text
    assert CANARY not in caplog.text


def test_two_outcomes_of_one_message_fail_only_this_message():
    """Two different outcomes for one message fail its batch, and then only this message."""
    proc = processor()

    @proc.handle_batch_for(Everything(), size=4, wait=0.05)
    def handle(batch):
        for item in batch:
            if number(item.message) == 1:
                item.discard("no")
                item.retry()

    _, report = run(Broker(proc, keyed_bodies(4)))
    assert sum(report.discarded.values()) == 1
    assert (report.total_handled, report.retried) == (3, 0)


@pytest.mark.parametrize("dlq", [{}, None], ids=["dlq", "no dlq"])
def test_a_batch_that_fails_after_its_session_died_files_nothing(dlq):
    """When the session of a batch that raises has died, no message is filed. The redelivered messages are handled."""
    proc, calls = processor(dlq=dlq), []

    @proc.handle_batch_for(Everything(), size=4, wait=0.05)
    def handle(batch):
        calls.append([number(message) for message in batch.messages])
        if len(calls) == 1:
            broker.sessions[0].die()
            while len(broker.sessions) < 2:
                time.sleep(0.01)
            raise ValueError

    broker = Broker(proc, keyed_bodies(4))
    _, report = run(broker)
    assert (report.total_dead, report.total_handled) == (0, 4)


@sync_and_async
def test_a_failure_without_a_dead_letter_queue_stops_the_processor(is_async):
    """Without a dead letter queue, a failure stops the processor, and no message is lost. The test client raises it."""
    proc = Processor(JSONMessage, name="app")

    def handle(batch):
        if 1 in numbers(batch):
            raise ValueError(CANARY)

    add_batch_handler(proc, is_async, handle, size=4)
    with proc.test_client() as client, pytest.raises(ValueError, match=CANARY):
        client.send_batch([JSONMessage.of({"n": n}) for n in range(4)])
    broker = Broker(proc, keyed_bodies(4))
    with pytest.raises(missive.NotSettled) as error:
        run(broker, check_left=False)
    assert CANARY not in str(error.value)
    assert sorted(broker.acked) == [body for n, body in enumerate(keyed_bodies(4)) if n != 1]


# Timeouts


def test_an_async_batch_past_its_timeout_runs_in_halves():
    """An async batch past its timeout is cancelled and runs in halves, each with the whole timeout."""
    proc, calls, cancelling = processor(timeout=0.15), [], []

    @proc.handle_batch_for(Everything(), size=4, wait=0.05)
    async def handle(batch):
        calls.append(numbers(batch))
        cancelling.append(asyncio.current_task().cancelling())
        await asyncio.sleep(30 if 2 in numbers(batch) else 0.05)

    _, report = run(Broker(proc, keyed_bodies(4)))
    assert cancelling == [0] * 5
    assert calls == [[0, 1, 2, 3], [0, 1], [2, 3], [2], [3]]
    assert proc.dlq.by_number() == [(2, "timeout")]
    assert report.total_handled == 3


def test_a_sync_batch_past_its_timeout_runs_in_halves_when_it_ends():
    """A sync batch past its timeout runs in halves after its thread returned. Halves that return in time are acked."""
    proc, calls = processor(timeout=0.1), []

    @proc.handle_batch_for(Everything(), size=4, wait=0.05)
    def handle(batch):
        calls.append(numbers(batch))
        if 2 in calls[-1]:
            time.sleep(0.3)

    _, report = run(Broker(proc, keyed_bodies(4)))
    assert calls == [[0, 1, 2, 3], [0, 1], [2, 3], [2], [3]]
    assert proc.dlq.by_number() == [(2, "timeout")]
    assert report.total_handled == 3


@pytest.mark.parametrize("size", [1, 3])
def test_a_sync_batch_past_its_timeout_that_recorded_every_outcome(caplog, size):
    """A late sync batch of several items that recorded all outcomes keeps them; a batch of one ends as `timeout`."""
    proc, calls = processor(timeout=0.1), []

    @proc.handle_batch_for(Everything(), size=size, wait=0.05)
    def handle(batch):
        calls.append(numbers(batch))
        for item in batch:
            item.ack()
        time.sleep(0.3)

    _, report = run(Broker(proc, keyed_bodies(size)))
    assert calls == [list(range(size))]
    assert "NoneType" not in caplog.text
    if size == 1:
        assert (report.total_handled, proc.dlq.by_number()) == (0, [(0, "timeout")])
    else:
        assert (report.total_handled, proc.dlq.by_number()) == (size, [])
        assert "handle ran past the timeout after it had recorded an outcome for every item of a batch" in caplog.text


def test_an_item_extends_the_time_of_its_batch():
    """`extend` of one item grants more time to the whole batch."""
    proc, calls = processor(timeout=0.1), []

    @proc.handle_batch_for(Everything(), size=4, wait=0.05)
    async def handle(batch):
        calls.append(len(batch))
        batch[0].extend(10)
        await asyncio.sleep(0.3)

    assert run(Broker(proc, keyed_bodies(4))).report.total_handled == 4
    assert calls == [4]


# Hooks, contexts and resources


@sync_and_async
def test_hooks_run_for_each_message(is_async):
    """Handling hooks run for each message, around its batch. `after_handling` reads the outcome and the same state."""
    proc, before, after = processor(), [], []

    @proc.before_handling
    def begin(worker, context):
        before.append(number(context.message))
        context.state.n = before[-1]

    @proc.after_handling
    def end(worker, context):
        after.append((context.state.n, None if context.outcome is None else str(context.outcome)))

    def handle(batch):
        assert [item.state.n for item in batch] == numbers(batch)
        batch[1].discard("no")

    add_batch_handler(proc, is_async, handle, size=3)
    run(Broker(proc, keyed_bodies(3)))
    assert before == [0, 1, 2]
    assert after == [(0, "acked"), (1, "discarded"), (2, "acked")]


@sync_and_async
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hook_that_raises_fails_its_message(is_async, when):
    """A hook that raises fails only its message. After a failed `before_handling`, the message is not in the batch."""
    proc, calls = processor(), []

    def hook(worker, context):
        if number(context.message) == 1:
            raise ValueError(CANARY)

    (proc.before_handling if when == "before" else proc.after_handling)(hook)
    add_batch_handler(proc, is_async, lambda batch: calls.append(numbers(batch)), size=3)
    _, report = run(Broker(proc, keyed_bodies(3)))
    assert calls == [[0, 2] if when == "before" else [0, 1, 2]]
    assert [n for n, _ in proc.dlq.by_number()] == [1]
    assert (report.total_handled, dict(report.dead)) == (2, {"failed": 1})


def test_after_handling_reads_the_exception_of_before_handling():
    """`after_handling` reads the exception of the `before_handling` hook that failed its message."""
    proc, seen = processor(), []

    @proc.before_handling
    def fail_1(worker, context):
        if number(context.message) == 1:
            raise KeyError

    @proc.after_handling
    def note(worker, context):
        seen.append((number(context.message), type(context.exception).__name__))

    @proc.handle_batch_for(Everything(), size=2, wait=0.05)
    def handle(batch): ...

    run(Broker(proc, keyed_bodies(2)))
    assert sorted(seen) == [(0, "NoneType"), (1, "KeyError")]


@sync_and_async
def test_an_after_hook_may_record_an_outcome(is_async):
    """An `after_handling` hook may record the outcome of a message that has none."""
    proc = processor()

    @proc.after_handling
    def end(worker, context):
        if number(context.message) == 1:
            context.dead_letter("odd")

    add_batch_handler(proc, is_async, lambda batch: None, size=3)
    _, report = run(Broker(proc, keyed_bodies(3)))
    assert (report.total_handled, dict(report.dead)) == (2, {"rejected": 1})


@sync_and_async
def test_a_batch_without_messages_is_not_run(is_async):
    """The handler is not called when all messages of a batch failed in a hook."""
    proc, calls = processor(), []

    @proc.before_handling
    def begin(worker, context):
        raise ValueError

    add_batch_handler(proc, is_async, lambda batch: calls.append(len(batch)), size=3)
    assert dict(run(Broker(proc, keyed_bodies(3))).report.dead) == {"failed": 3}
    assert calls == []


@sync_and_async
def test_each_batch_has_its_own_context_variables(is_async):
    """A context variable that one batch sets is not set for the next batch."""
    proc, seen = processor(concurrency=1), []
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    def handle(batch):
        seen.append(variable.get())
        variable.set(1)

    async def handle_async(batch):  # not through `add_batch_handler`, whose wrapper has its own context
        handle(batch)

    proc.add_batch_handler(Everything(), handle_async if is_async else handle, size=2, wait=0.05)
    run(Broker(proc, keyed_bodies(10)))
    assert seen == [0] * 5


def test_a_resource_may_translate_the_exception_of_a_batch():
    """A batch runs in halves when a resource replaces its exception. The culprit has the exception of the resource."""
    proc = processor()

    @proc.resource()
    def transaction(context):
        try:
            yield 1
        except ValueError:
            raise RuntimeError("rolled back") from None

    @proc.handle_batch_for(Everything(), size=8)
    def handle(batch):
        for context in batch:
            context.get(transaction)
        if any(number(message) == 5 for message in batch.messages):
            raise ValueError

    with proc.test_client() as client:
        results = client.send_batch([JSONMessage(body) for body in keyed_bodies(8)])
    assert [result.outcome for result in results].count("acked") == 7
    assert isinstance(results[5].exception, RuntimeError)
