"""Batches: how they are gathered, how each item ends, and how the one that fails is found."""

from __future__ import annotations

import asyncio
import contextvars
import math
import threading
import time
from collections.abc import Sequence

import pytest

import missive
from missive import DeadLetter, Discard, JSONMessage, Processor, RegistrationError, RetryLater
from missive.app.batch import Batch
from missive.matchers import Everything, Field, by_field
from missive.transport import Capabilities, Delivery
from tests.support.broker import Broker
from tests.support.engine import run, until

CANARY = "canary-4711"


class Box(dict):
    """A dead letter queue that tells what is in it by number."""

    def told(self):
        """Return pairs of number and reason."""
        return sorted((message.get_json()["n"], str(reason)) for message, reason in self.values())


def processor(**settings):
    settings = {"name": "app", "dlq": Box(), "concurrency": 4, "on_overlap": "ignore", **settings}
    return Processor(JSONMessage, **settings)


def bodies(count, keys=1):
    return [b'{"n":%d,"k":%d}' % (n, n % keys) for n in range(count)]


def numbers(batch):
    """Return the numbers of a batch's messages."""
    return [message.get_json()["n"] for message in batch.messages]


def register(proc, is_async, handle, **settings):
    """Register a function of a batch, as `def` or as `async def`."""

    async def handle_async(batch):
        await asyncio.sleep(0)
        handle(batch)

    proc.add_batch_handler(Everything(), handle_async if is_async else handle, **{"wait": 0.05, **settings})


both = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


# Gathering


@both
def test_size_and_wait(is_async):
    """A batch has its size at the most, and one that is not full runs after its wait; what is left is acked."""
    proc, calls = processor(), []
    register(proc, is_async, lambda batch: calls.append(numbers(batch)), size=10)
    broker = Broker(proc, bodies(25))
    _, report = run(broker)
    assert sorted(calls) == [[*range(10)], [*range(10, 20)], [*range(20, 25)]]
    assert report.total_handled == 25
    assert sorted(broker.acked) == sorted(bodies(25))


def test_a_wait_begins_with_the_first():
    """A batch waits from its first message on, and no longer because more come; a full one does not wait at all."""
    proc, calls = processor(), []
    proc.add_batch_handler(Everything(), lambda batch: calls.append(len(batch)), size=3, wait=600)
    broker = Broker(proc, bodies(3), ends=False)

    async def meanwhile(engine):
        await until(lambda: len(broker.acked) == 3, "the full batch")
        broker.send(b'{"n":3}', b'{"n":4}')
        await until(lambda: len(broker.held) == 2, "two to be gathered")
        engine.stop()

    run(broker, meanwhile=meanwhile)
    assert calls == [3]
    assert broker.released == [b'{"n":3}', b'{"n":4}']


def test_a_steady_trickle_does_not_put_a_batch_off():
    """While messages keep coming, one after the other, batches still run after their wait."""
    proc, calls = processor(), []
    proc.add_batch_handler(Everything(), lambda batch: calls.append(len(batch)), size=1000, wait=0.1)
    broker = Broker(proc, bodies(1), ends=False)

    async def meanwhile(engine):
        for number in range(40):
            broker.send(b'{"n":%d}' % number)
            await asyncio.sleep(0.01)
            if calls:
                break
        engine.stop()

    run(broker, meanwhile=meanwhile)
    assert calls
    assert calls[0] < 40


def test_a_wait_of_zero():
    """With no wait, what came together is handled together, and nothing waits for more."""
    proc, calls = processor(), []
    proc.add_batch_handler(Everything(), lambda batch: calls.append(numbers(batch)), size=100, wait=0)
    run(Broker(proc, bodies(5)))
    assert calls == [[0, 1, 2, 3, 4]]


def test_handlers_and_sources_have_batches_of_their_own():
    """A batch is of one handler and one source; handlers of single messages run beside."""
    proc, calls = processor(), []
    for key in (0, 1):
        proc.add_batch_handler(
            Field("k", key),
            lambda batch, key=key: calls.append((key, batch[0].adapter, numbers(batch))),
            name=f"h{key}",
            wait=0.05,
        )
    single = []
    proc.add_handler(Field("k", 2), lambda message, context: single.append(message.get_json()["n"]))
    one, other = Broker(proc, bodies(6, keys=3)), Broker(proc, bodies(6, keys=3))
    run(one, other)
    assert sorted(calls, key=lambda call: (call[0], call[1] is other)) == [
        (0, one, [0, 3]),
        (0, other, [0, 3]),
        (1, one, [1, 4]),
        (1, other, [1, 4]),
    ]
    assert sorted(single) == [2, 2, 5, 5]


def test_a_batch_is_a_sequence():
    """A `Batch` is a sequence of contexts, in the order they came, with `.messages`; its repr shows no content."""
    proc, seen = processor(), []

    @proc.handle_batch_for(Everything(), size=4, wait=0.05)
    def handle(batch):
        assert isinstance(batch, Sequence)
        assert (len(batch), bool(batch)) == (4, True)
        assert [context.message for context in batch] == batch.messages == [item.message for item in batch[0:4]]
        assert batch[-1].message.get_json()["n"] == 3
        assert batch[1] in batch
        assert batch.index(batch[2]) == 2
        assert [context.processing_ctx for context in reversed(batch)] == [batch.processing_ctx] * 4
        assert all(context.attempt == 1 and context.adapter is broker for context in batch)
        seen.append(repr(batch))

    broker = Broker(proc, [b'{"n":%d,"text":"%s"}' % (n, CANARY.encode()) for n in range(4)])
    assert run(broker).report.total_handled == 4
    assert seen == ["<Batch: 4 messages>"]
    with pytest.raises(IndexError):
        Batch([], None)[0]


# Outcomes


@both
def test_each_item_may_be_settled_by_itself(is_async):
    """Items end as they were settled, each by itself, and the others are acked."""
    proc, attempts = processor(), {}

    def handle(batch):
        for item in batch:
            number = item.message.get_json()["n"]
            attempts.setdefault(number, []).append(item.attempt)
            if len(attempts[number]) == 1:
                [lambda _: None, ack, retry, nack, dead_letter, discard][number](item)

    ack = lambda item: item.ack()
    retry = lambda item: item.retry(0)
    nack = lambda item: item.nack()
    dead_letter = lambda item: item.dead_letter("bad", detail="x")
    discard = lambda item: item.discard("not ours")
    register(proc, is_async, handle, size=6, name="h")
    broker = Broker(proc, bodies(6))
    _, report = run(broker)
    assert attempts == {0: [1], 1: [1], 2: [1, 2], 3: [1, 1], 4: [1], 5: [1]}
    assert (dict(report.handled), dict(report.discarded)) == ({"h": 4}, {"h": 1})
    assert (report.retried, report.nacked, dict(report.dead)) == (1, 1, {"rejected": 1})
    assert [number for number, _ in proc.dlq.told()] == [4]
    outcomes = {item.delivery.body: item.outcome for items in broker.settlements for item in items}
    assert [str(outcomes[body]) for body in bodies(6)] == [
        *("acked", "acked", "acked", "acked", "dead_lettered", "discarded")
    ]


@both
@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 33, 100])
def test_the_one_that_fails_is_found_by_halves(is_async, count):
    """A batch that raises is run again in halves until the culprit is alone; the others are acked, in few calls."""
    for culprit in {0, count // 2, count - 1}:
        proc, calls = processor(), []

        def handle(batch, calls=calls, culprit=culprit):
            calls.append(numbers(batch))
            assert all(item.attempt == 1 for item in batch)
            if culprit in calls[-1]:
                raise ValueError(CANARY)

        register(proc, is_async, handle, size=count)
        _, report = run(Broker(proc, bodies(count)))
        assert [number for number, _ in proc.dlq.told()] == [culprit]
        assert (report.total_handled, dict(report.dead), report.retried) == (count - 1, {"failed": 1}, 0)
        assert [culprit] in calls
        assert len(calls) <= 2 * math.ceil(math.log2(count)) + 1
        well = [number for call in calls if culprit not in call for number in call]
        assert sorted(well) == [number for number in range(count) if number != culprit]


@both
def test_several_that_fail(is_async):
    """All culprits are found; what succeeded with none of them is handled once in a call that returned."""
    proc, well, culprits = processor(), [], {3, 4, 11, 30}

    def handle(batch):
        if culprits & set(numbers(batch)):
            raise ValueError
        well.extend(numbers(batch))

    register(proc, is_async, handle, size=32)
    _, report = run(Broker(proc, bodies(32)))
    assert {number for number, _ in proc.dlq.told()} == culprits
    assert sorted(well) == sorted(set(range(32)) - culprits)
    assert report.total_handled == 28


@both
def test_what_was_settled_before_it_raised_stands(is_async):
    """Items that were settled before a batch raised are not run again; the others are, in halves."""
    proc, calls = processor(), []

    def handle(batch):
        calls.append(numbers(batch))
        for item in batch:
            number = item.message.get_json()["n"]
            if number == 0:
                item.ack()
            elif number == 1:
                item.discard("no")
            elif number == 2:
                item.dead_letter("bad")
            elif number == 5:
                raise ValueError

    register(proc, is_async, handle, size=8, name="h")
    _, report = run(Broker(proc, bodies(8)))
    assert calls[0] == [*range(8)]
    assert not {0, 1, 2} & {number for call in calls[1:] for number in call}
    assert [number for number, _ in proc.dlq.told()] == [2, 5]
    assert (dict(report.handled), dict(report.discarded)) == ({"h": 5}, {"h": 1})


@both
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
def test_an_outcome_that_is_raised(is_async, error, expected):
    """What is raised is the outcome of the one that raises it when it is alone; the others are acked."""
    proc, tries = processor(), []

    def handle(batch):
        tries.append(numbers(batch))
        if any(item.message.get_json()["n"] == 2 and item.attempt == 1 for item in batch):
            raise error

    register(proc, is_async, handle, size=4, name="h")
    _, report = run(Broker(proc, bodies(4)))
    assert report.total_handled == (4 if isinstance(error, RetryLater) else 3)
    found = {"dead": dict(report.dead), "discarded": dict(report.discarded), "retried": report.retried}
    assert {name: value for name, value in found.items() if value} == expected


def test_all_settled_and_then_raised(caplog):
    """A handler that raises after it had settled everything changes nothing; that is said, without the text."""
    proc, calls = processor(), []

    @proc.handle_batch_for(Everything(), size=3, wait=0.05)
    def handle(batch):
        calls.append(len(batch))
        for item in batch:
            item.ack()
        raise ValueError(CANARY)

    _, report = run(Broker(proc, bodies(3)))
    assert (calls, report.total_handled, report.total_dead) == ([3], 3, 0)
    assert "raised ValueError after it had settled all of a batch" in caplog.text
    assert CANARY not in caplog.text


def test_two_outcomes_of_one_item():
    """Recording two different outcomes of one item is that batch failing, and then that item."""
    proc = processor()

    @proc.handle_batch_for(Everything(), size=4, wait=0.05)
    def handle(batch):
        for item in batch:
            if item.message.get_json()["n"] == 1:
                item.discard("no")
                item.retry()

    _, report = run(Broker(proc, bodies(4)))
    assert sum(report.discarded.values()) == 1
    assert (report.total_handled, report.retried) == (3, 0)


# Timeouts


def test_a_batch_that_takes_too_long_is_halved():
    """A batch past its timeout is cancelled and run in halves, each with a time of its own."""
    proc, calls, cancelling = processor(timeout=0.15), [], []

    @proc.handle_batch_for(Everything(), size=4, wait=0.05)
    async def handle(batch):
        calls.append(numbers(batch))
        cancelling.append(asyncio.current_task().cancelling())
        await asyncio.sleep(30 if 2 in numbers(batch) else 0.05)

    _, report = run(Broker(proc, bodies(4)))
    assert cancelling == [0] * 5
    assert calls == [[0, 1, 2, 3], [0, 1], [2, 3], [2], [3]]
    assert proc.dlq.told() == [(2, "timeout")]
    assert report.total_handled == 3


def test_a_late_thread_is_halved_when_it_ends():
    """A sync batch past its timeout is run in halves once its thread returns; what returned in time is acked."""
    proc, calls = processor(timeout=0.1), []

    @proc.handle_batch_for(Everything(), size=4, wait=0.05)
    def handle(batch):
        calls.append(numbers(batch))
        if 2 in calls[-1]:
            time.sleep(0.3)

    _, report = run(Broker(proc, bodies(4)))
    assert calls == [[0, 1, 2, 3], [0, 1], [2, 3], [2], [3]]
    assert proc.dlq.told() == [(2, "timeout")]
    assert report.total_handled == 3


def test_a_batch_may_extend():
    """An item's `extend` gives its batch more time."""
    proc, calls = processor(timeout=0.1), []

    @proc.handle_batch_for(Everything(), size=4, wait=0.05)
    async def handle(batch):
        calls.append(len(batch))
        batch[0].extend(10)
        await asyncio.sleep(0.3)

    assert run(Broker(proc, bodies(4))).report.total_handled == 4
    assert calls == [4]


# Hooks and contexts


@both
def test_hooks_run_for_each_item(is_async):
    """Handling hooks run for each item, around its batch; `after_handling` sees how each ended, and one state."""
    proc, before, after = processor(), [], []

    @proc.before_handling
    def begin(worker, context):
        before.append(context.message.get_json()["n"])
        context.state.mark = before[-1]

    @proc.after_handling
    def end(worker, context):
        after.append((context.state.mark, None if context.outcome is None else str(context.outcome)))

    def handle(batch):
        assert [item.state.mark for item in batch] == numbers(batch)
        batch[1].discard("no")

    register(proc, is_async, handle, size=3)
    run(Broker(proc, bodies(3)))
    assert before == [0, 1, 2]
    assert after == [(0, "acked"), (1, "discarded"), (2, "acked")]


@both
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hook_that_raises_is_its_item_failing(is_async, when):
    """A hook that raises fails the item it was for, and no other; a `before` hook's item is not in the batch."""
    proc, calls = processor(), []

    def hook(worker, context):
        if context.message.get_json()["n"] == 1:
            raise ValueError(CANARY)

    (proc.before_handling if when == "before" else proc.after_handling)(hook)
    register(proc, is_async, lambda batch: calls.append(numbers(batch)), size=3)
    _, report = run(Broker(proc, bodies(3)))
    assert calls == [[0, 2] if when == "before" else [0, 1, 2]]
    assert [number for number, _ in proc.dlq.told()] == [1]
    assert (report.total_handled, dict(report.dead)) == (2, {"failed": 1})


@both
def test_an_outcome_that_a_hook_records(is_async):
    """An `after_handling` hook may record the outcome of an item that has none of its own."""
    proc = processor()

    @proc.after_handling
    def end(worker, context):
        if context.message.get_json()["n"] == 1:
            context.dead_letter("said so")

    register(proc, is_async, lambda batch: None, size=3)
    _, report = run(Broker(proc, bodies(3)))
    assert (report.total_handled, dict(report.dead)) == (2, {"rejected": 1})


@both
def test_when_no_item_is_ready_the_handler_is_not_called(is_async):
    """A batch of which every item failed in a hook is not run."""
    proc, calls = processor(), []

    @proc.before_handling
    def begin(worker, context):
        raise ValueError

    register(proc, is_async, lambda batch: calls.append(len(batch)), size=3)
    assert dict(run(Broker(proc, bodies(3))).report.dead) == {"failed": 3}
    assert calls == []


@both
def test_context_variables_of_batches(is_async):
    """What one batch sets in a context variable is not there for the next."""
    proc, seen = processor(concurrency=1), []
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    def handle(batch):
        seen.append(variable.get())
        variable.set(1)

    async def handle_async(batch):  # not through `register`, whose function would have a context between
        handle(batch)

    proc.add_batch_handler(Everything(), handle_async if is_async else handle, size=2, wait=0.05)
    run(Broker(proc, bodies(10)))
    assert seen == [0] * 5


# Order


def check_order(ran, count, keys):
    """Check that each key's messages ran in the order they came, the last run of each counting."""
    for key in range(keys):
        assert [n for batch in ran for n in batch if n % keys == key] == list(range(key, count, keys))


@both
@pytest.mark.parametrize("natural", [False, True], ids=["ordered_by", "natural lane"])
def test_a_key_is_in_one_batch_at_a_time(is_async, natural):
    """Batches with a key in common never run at once; several of one key are in one batch, in order."""
    proc, ran, running, overlaps = processor(), [], set(), []
    lock = threading.Lock()

    def begin(batch):
        mine = {n % 5 for n in numbers(batch)}
        with lock:
            if running & mine:
                overlaps.append(mine)
            running.update(mine)
            ran.append(numbers(batch))
        return mine

    def end(mine):
        with lock:
            running.difference_update(mine)

    def handle(batch):
        mine = begin(batch)
        time.sleep(0.01)
        end(mine)

    async def handle_async(batch):
        mine = begin(batch)
        await asyncio.sleep(0.01)
        end(mine)

    settings = {} if natural else {"ordered_by": by_field("k")}
    proc.add_batch_handler(Everything(), handle_async if is_async else handle, size=8, wait=0.02, **settings)
    deliveries = bodies(100, keys=5)
    if natural:
        deliveries = [Delivery(body, lane=f"p{n % 5}", position=n) for n, body in enumerate(deliveries)]
    _, report = run(Broker(proc, deliveries))
    assert report.total_handled == 100
    assert overlaps == []
    check_order(ran, 100, 5)
    assert any(len({n % 5 for n in batch}) < len(batch) for batch in ran)


@both
@pytest.mark.parametrize("natural", [False, True], ids=["ordered_by", "natural lane"])
def test_one_key_fills_its_batches(is_async, natural):
    """What waits behind a batch of its key comes along with the first of the next, as far as there is room."""
    proc, calls = processor(), []
    settings = {} if natural else {"ordered_by": by_field("k")}
    register(proc, is_async, lambda batch: calls.append(numbers(batch)), size=10, **settings)
    run(Broker(proc, [Delivery(body, lane="p0" if natural else None) for body in bodies(40)]))
    assert calls == [[*range(n, n + 10)] for n in (0, 10, 20, 30)]


def test_batches_of_different_keys_run_at_once():
    """A full batch of one key does not keep another's from running."""
    proc, together = processor(), threading.Barrier(2)
    proc.add_batch_handler(Everything(), lambda batch: together.wait(10), size=3, wait=0.05, ordered_by=by_field("k"))
    grouped = sorted(bodies(6, keys=2), key=lambda body: body[-2:])
    assert run(Broker(proc, grouped)).report.total_handled == 6
    assert not together.broken


@both
@pytest.mark.parametrize("policy", ["block", "pass"])
def test_a_retried_item_and_its_lane(is_async, policy):
    """With "block" what comes later of a retried item's key waits for it, and with "pass" goes on; other keys go on."""
    proc, ran = processor(), []

    def handle(batch):
        ran.append([(n, item.attempt) for n, item in zip(numbers(batch), batch, strict=True)])
        for item in batch:
            if item.message.get_json()["n"] == 0 and item.attempt == 1:
                item.retry(0.3)

    register(proc, is_async, handle, size=2, wait=0.02, ordered_by=by_field("k"), on_lane_retry=policy)
    # Key 0: 0 and 2 are in the first batch, 4 and 6 come later.
    deliveries = [body for body in bodies(8, keys=2) if body.endswith(b"0}")] + [b'{"n":1,"k":1}', b'{"n":3,"k":1}']
    _, report = run(Broker(proc, deliveries))
    flat = [number for batch in ran for number in batch]
    assert sorted(flat) == sorted([(0, 1), (0, 2), (2, 1), (4, 1), (6, 1), (1, 1), (3, 1)])
    position = {number: place for place, number in enumerate(flat)}
    assert (position[0, 2] < position[4, 1]) is (policy == "block")
    assert position[4, 1] < position[6, 1]
    assert position[1, 1] < position[3, 1] < position[0, 2]
    assert report.retried == 1


@both
def test_a_retry_while_a_culprit_is_sought(is_async):
    """What raised RetryLater alone holds those of its key that came after it in the same batch; others are handled."""
    proc, well = processor(), []

    def handle(batch):
        if any(item.message.get_json()["n"] == 1 and item.attempt == 1 for item in batch):
            raise RetryLater(0.2)
        well.extend((n, item.attempt) for n, item in zip(numbers(batch), batch, strict=True))

    register(proc, is_async, handle, size=8, ordered_by=by_field("k"))
    _, report = run(Broker(proc, bodies(8, keys=2)))  # key 1: 1, 3, 5, 7
    assert (report.retried, report.total_handled) == (1, 8)
    assert [n for n, _ in well if n % 2] == [1, 3, 5, 7]
    assert [n for n, _ in well if not n % 2] == [0, 2, 4, 6]
    assert (1, 2) in well
    assert all(attempt == 1 for n, attempt in well if n != 1)


@both
def test_what_comes_before_a_retried_item_is_run_before_it(is_async):
    """One that asked for a retry before the batch failed does not hold up those of its key that came earlier."""
    proc, well = processor(), []

    def handle(batch):
        for n, item in zip(numbers(batch), batch, strict=True):
            if n == 2 and item.attempt == 1:
                item.retry(0)
            elif n == 3:
                raise ValueError
        well.extend((n, item.attempt) for n, item in zip(numbers(batch), batch, strict=True))

    register(proc, is_async, handle, size=4, ordered_by=by_field("k"))
    _, report = run(Broker(proc, bodies(4)))
    assert (report.retried, report.total_handled) == (1, 3)
    assert well == [(0, 1), (1, 1), (2, 2)]


def test_handlers_of_one_key_in_batches_and_alone():
    """A batch handler and a single one that share a key are in order with each other."""
    proc, ran = processor(), []
    lock = threading.Lock()
    key = by_field("k")

    @proc.handle_batch_for(Field("b", True), size=4, wait=0.01, ordered_by=key)
    def batched(batch):
        assert all(message.get_json()["b"] for message in batch.messages)
        time.sleep(0.002)
        with lock:
            ran.extend(numbers(batch))

    @proc.handle_for(Field("b", False), ordered_by=key)
    def single(message, context):
        with lock:
            ran.append(message.get_json()["n"])

    given = [b'{"n":%d,"k":%d,"b":%s}' % (n, n % 3, b"true" if n % 7 < 4 else b"false") for n in range(60)]
    _, report = run(Broker(proc, given))
    assert report.total_handled == 60
    check_order([ran], 60, 3)


# Limits


@both
def test_the_concurrency_of_a_batch_handler(is_async):
    """A batch handler's concurrency is in batches."""
    proc, most, running = processor(), [], []
    lock = threading.Lock()

    def begin():
        with lock:
            running.append(1)
            most.append(len(running))

    def handle(batch):
        begin()
        time.sleep(0.02)
        running.pop()

    async def handle_async(batch):
        begin()
        await asyncio.sleep(0.02)
        running.pop()

    proc.add_batch_handler(Everything(), handle_async if is_async else handle, size=3, wait=0.02, concurrency=2)
    assert run(Broker(proc, bodies(30))).report.total_handled == 30
    assert max(most) == 2


@both
def test_the_rate_of_a_batch_handler(is_async):
    """A batch handler's rate is in messages: in no window do batches of more begin."""
    proc, starts = processor(), []

    def handle(batch):
        starts.append((batch[0]._running.started, len(batch)))

    register(proc, is_async, handle, size=4, rate_limit="10/200ms")
    assert run(Broker(proc, bodies(40))).report.total_handled == 40
    for start, _ in starts:
        assert sum(size for at, size in starts if start <= at < start + 0.2 - 1e-6) <= 10
    assert max(at for at, _ in starts) - min(at for at, _ in starts) < 4


# Ends


def test_a_stop_while_gathering():
    """What is being gathered when processing stops is given back at once, unhandled and in order."""
    proc, calls = processor(), []
    proc.add_batch_handler(
        Everything(), lambda batch: calls.append(len(batch)), size=100, wait=600, ordered_by=by_field("k")
    )
    broker = Broker(proc, bodies(10, keys=3), ends=False)

    async def meanwhile(engine):
        await until(lambda: len(broker.held) == 10, "all to be gathered")
        engine.stop()

    began = time.monotonic()
    _, report = run(broker, meanwhile=meanwhile)
    assert time.monotonic() - began < 10
    assert (calls, report.released) == ([], 10)
    for key in range(3):
        assert [body for body in broker.released if body.endswith(b"%d}" % key)] == bodies(10, keys=3)[key::3]


def test_a_stop_without_a_place_for_what_is_gathered():
    """Where the transport takes nothing back, what is being gathered is filed as `shutdown`."""
    proc = processor()
    proc.add_batch_handler(Everything(), lambda batch: None, size=100, wait=600)
    broker = Broker(proc, bodies(3), ends=False, capabilities=Capabilities(release="none"))

    async def meanwhile(engine):
        await until(lambda: len(broker.held) == 3, "all to be gathered")
        engine.stop()

    run(broker, meanwhile=meanwhile)
    assert proc.dlq.told() == [(0, "shutdown"), (1, "shutdown"), (2, "shutdown")]
    assert len(broker.acked) == 3


def test_a_lost_session_while_gathering():
    """What is being gathered when its session dies is let go of, and is handled once, when it comes again."""
    proc, calls = processor(), []
    proc.add_batch_handler(
        Everything(), lambda batch: calls.append(numbers(batch)), size=6, wait=600, ordered_by=by_field("k")
    )
    broker = Broker(proc, bodies(4, keys=2))

    async def meanwhile(engine):
        await until(lambda: len(broker.held) == 4, "all to be gathered")
        broker.sessions[0].die()
        await until(lambda: len(broker.sessions) == 2 and len(broker.held) == 4, "them to come again")
        broker.send(b'{"n":4,"k":0}', b'{"n":5,"k":1}')

    _, report = run(broker, meanwhile=meanwhile)
    assert calls == [[0, 1, 2, 3, 4, 5]]
    assert (report.total_handled, report.redelivered) == (6, 4)


# Declaring


def test_it_is_listed():
    """Lists say that a handler takes batches."""
    proc = processor()

    @proc.handle_batch_for(Field("a", 1), name="sync")
    def handle(batch): ...

    @proc.handle_batch_for(Field("a", 2), name="async")
    async def handle_async(batch): ...

    proc.add_handler(Field("a", 3), lambda message, context: None, name="single")
    assert [(route.name, route.to_dict()["kind"], route.terms.batch is not None) for route in proc.routes()] == [
        ("sync", "sync batch", True),
        ("async", "async batch", True),
        ("single", "sync", False),
    ]
    assert handle.__name__ == "handle"


def generator(batch):
    yield


@pytest.mark.parametrize(
    ("handler", "settings", "complaint"),
    [
        (print, {"size": 0}, "size= must be a whole number of messages from 1"),
        (print, {"size": True}, "size= must be a whole number of messages from 1"),
        (print, {"size": 2.0}, "size= must be a whole number of messages from 1"),
        (print, {"wait": -1}, "wait= must be a number of seconds, zero or more"),
        (print, {"wait": float("nan")}, "wait= must be a number of seconds, zero or more"),
        (print, {"wait": None}, "wait= must be a number of seconds, zero or more"),
        (print, {"wait": "soon"}, "wait= must be a number of seconds, zero or more"),
        (lambda message, context: None, {}, r"the batch handler .* must take a batch; it takes \(message, context\)"),
        (lambda: None, {}, "must take a batch"),
        (generator, {}, "must take a batch; it contains a `yield`"),
        (3, {}, "must take a batch; it is a int"),
        (print, {"size": 11, "rate_limit": "10/s"}, "size=11 is more messages than rate_limit='10/1s' allows at once"),
        (print, {"concurrency": 0}, "concurrency= must be a whole number from 1"),
        (print, {"ordered_by": "k"}, "ordered_by= .* must take a message"),
    ],
)
def test_what_cannot_be_declared(handler, settings, complaint):
    """Sizes, waits and handlers that could never work are refused at once, and nothing is registered."""
    proc = processor()
    with pytest.raises(RegistrationError, match=complaint):
        proc.add_batch_handler(Everything(), handler, **{"name": "h", **settings})
    assert proc.routes() == ()


# The test client


@both
def test_the_test_client_sends_a_batch(is_async):
    """`send_batch` runs a batch as one, in halves where it raises; results are in the order of the messages."""
    proc, calls = processor(), []

    def handle(batch):
        calls.append(numbers(batch))
        for item in batch:
            if item.message.get_json()["n"] == 0:
                item.discard("no")
        if 2 in calls[-1]:
            raise ValueError(CANARY)

    register(proc, is_async, handle, size=4)
    messages = [JSONMessage.of({"n": n}) for n in range(6)]
    with proc.test_client() as client:
        results = client.send_batch(messages)
        assert [str(result.outcome) for result in results] == [
            *("discarded", "acked", "dead_lettered", "acked", "acked", "acked")
        ]
        assert results[2].exception.args == (CANARY,)
        assert all(result.attempt == 1 for result in results)
        assert client.dead_lettered == [messages[2]]
        assert client.discarded == [messages[0]]
    assert calls[0] == [0, 1, 2, 3]
    assert [4, 5] in calls
    assert [2] in calls


@both
def test_the_test_client_sends_one(is_async):
    """`send` gives a batch handler a batch of one; what is retried comes when it is due."""
    proc, calls = processor(), []

    def handle(batch):
        calls.append([item.attempt for item in batch])
        if batch[0].attempt == 1:
            batch[0].retry(10)

    register(proc, is_async, handle, size=4, ordered_by=by_field("k"))
    with proc.test_client() as client:
        assert client.send(JSONMessage(b'{"k":1}')).outcome == "retried"
        assert client.advance(9) == []
        assert [result.outcome for result in client.advance(1)] == ["acked"]
    assert calls == [[1], [2]]


def test_the_async_test_client_sends_a_batch():
    """The async client does the same; messages for other handlers are among the results, in order."""
    proc, calls = processor(timeout=0.15), []

    @proc.handle_batch_for(Field("b", True), size=10)
    async def handle(batch):
        calls.append(numbers(batch))
        await asyncio.sleep(30 if 4 in calls[-1] else 0)

    proc.add_handler(Field("b", False), lambda message, context: context.discard("single"))

    async def main():
        async with proc.test_client() as client:
            messages = [JSONMessage.of({"n": n, "b": n % 2 == 0}) for n in range(6)]
            return await client.send_batch([*messages, JSONMessage.of({"n": 6})])

    results = asyncio.run(main())
    assert [(str(result.outcome), result.reason) for result in results] == [
        ("acked", None),
        ("discarded", "single"),
        ("acked", None),
        ("discarded", "single"),
        ("dead_lettered", "timeout"),
        ("discarded", "single"),
        ("dead_lettered", "unmatched"),
    ]
    assert calls[0] == [0, 2, 4]


@both
def test_without_a_dead_letter_queue(is_async):
    """Without a dead letter queue the client raises what the culprit raised; production stops with nothing lost."""
    proc = Processor(JSONMessage, name="app")

    def handle(batch):
        if 1 in numbers(batch):
            raise ValueError(CANARY)

    register(proc, is_async, handle, size=4)
    with proc.test_client() as client, pytest.raises(ValueError, match=CANARY):
        client.send_batch([JSONMessage.of({"n": n}) for n in range(4)])
    broker = Broker(proc, bodies(4))
    with pytest.raises(missive.NotSettled) as error:
        run(broker, check_left=False)
    assert CANARY not in str(error.value)
    assert sorted(broker.acked) == [body for n, body in enumerate(bodies(4)) if n != 1]
