"""The batcher: jobs become batches of one handler and one source, by size and by time."""

from __future__ import annotations

import asyncio
import threading
import time

from missive.matchers import Everything, Field, by_field
from missive.transport import Capabilities
from tests.support.broker import Broker
from tests.support.engine import add_batch_handler, keyed_bodies, number, numbers, processor, run, sync_and_async, until

# Size and wait


@sync_and_async
def test_a_batch_is_limited_by_size_and_wait(is_async):
    """A full batch has `size` messages. A batch that is not full runs after its wait. All messages are acked."""
    proc, calls = processor(), []
    add_batch_handler(proc, is_async, lambda batch: calls.append(numbers(batch)), size=10)
    broker = Broker(proc, keyed_bodies(25))
    _, report = run(broker)
    assert sorted(calls) == [[*range(10)], [*range(10, 20)], [*range(20, 25)]]
    assert report.total_handled == 25
    assert sorted(broker.acked) == sorted(keyed_bodies(25))


def test_a_wait_begins_with_the_first_message():
    """The wait of a batch begins with its first message. A full batch does not wait."""
    proc, calls = processor(), []
    proc.add_batch_handler(Everything(), lambda batch: calls.append(len(batch)), size=3, wait=600)
    broker = Broker(proc, keyed_bodies(3), ends=False)

    async def meanwhile(engine):
        await until(lambda: len(broker.acked) == 3, "the full batch to be settled")
        broker.send(b'{"n":3}', b'{"n":4}')
        await until(lambda: len(broker.held) == 2, "two messages of the next batch")
        engine.stop()

    run(broker, meanwhile=meanwhile)
    assert calls == [3]
    assert broker.released == [b'{"n":3}', b'{"n":4}']


def test_a_steady_stream_does_not_delay_a_batch():
    """Batches run after their wait while single messages keep arriving."""
    proc, calls = processor(), []
    proc.add_batch_handler(Everything(), lambda batch: calls.append(len(batch)), size=1000, wait=0.1)
    broker = Broker(proc, keyed_bodies(1), ends=False)

    async def meanwhile(engine):
        for n in range(40):
            broker.send(b'{"n":%d}' % n)
            await asyncio.sleep(0.01)
            if calls:
                break
        engine.stop()

    run(broker, meanwhile=meanwhile)
    assert calls
    assert calls[0] < 40


def test_a_wait_of_zero_handles_fetched_messages_together():
    """With `wait=0`, the messages of one fetch are one batch, which waits for no others."""
    proc, calls = processor(), []
    proc.add_batch_handler(Everything(), lambda batch: calls.append(numbers(batch)), size=100, wait=0)
    run(Broker(proc, keyed_bodies(5)))
    assert calls == [[0, 1, 2, 3, 4]]


def test_a_batch_has_one_handler_and_one_source():
    """Messages of different handlers or sources are in different batches. Other handlers get single messages."""
    proc, calls = processor(), []
    for key in (0, 1):
        proc.add_batch_handler(
            Field("k", key),
            lambda batch, key=key: calls.append((key, batch[0].adapter, numbers(batch))),
            name=f"h{key}",
            wait=0.05,
        )
    single = []
    proc.add_handler(Field("k", 2), lambda message, context: single.append(number(message)))
    one, other = Broker(proc, keyed_bodies(6, keys=3)), Broker(proc, keyed_bodies(6, keys=3))
    run(one, other)
    assert sorted(calls, key=lambda call: (call[0], call[1] is other)) == [
        (0, one, [0, 3]),
        (0, other, [0, 3]),
        (1, one, [1, 4]),
        (1, other, [1, 4]),
    ]
    assert sorted(single) == [2, 2, 5, 5]


# Limits


@sync_and_async
def test_the_concurrency_of_a_batch_handler_counts_batches(is_async):
    """The concurrency of a batch handler is a number of batches."""
    proc, counts, running = processor(), [], []
    lock = threading.Lock()

    def begin():
        with lock:
            running.append(1)
            counts.append(len(running))

    def handle(batch):
        begin()
        time.sleep(0.02)
        running.pop()

    async def handle_async(batch):
        begin()
        await asyncio.sleep(0.02)
        running.pop()

    proc.add_batch_handler(Everything(), handle_async if is_async else handle, size=3, wait=0.02, concurrency=2)
    assert run(Broker(proc, keyed_bodies(30))).report.total_handled == 30
    assert max(counts) == 2


@sync_and_async
def test_the_rate_of_a_batch_handler_counts_messages(is_async):
    """The rate of a batch handler limits the messages of all batches that begin within its window."""
    proc, starts = processor(), []

    def handle(batch):
        starts.append((batch[0]._running.started, len(batch)))

    add_batch_handler(proc, is_async, handle, size=4, rate_limit="10/200ms")
    assert run(Broker(proc, keyed_bodies(40))).report.total_handled == 40
    for start, _ in starts:
        assert sum(size for at, size in starts if start <= at < start + 0.2 - 1e-6) <= 10
    assert max(at for at, _ in starts) - min(at for at, _ in starts) < 4


def test_a_size_above_the_rate_of_the_adapter_does_not_block():
    """When the size of a batch exceeds the rate of its adapter, all messages are handled."""
    proc = processor()
    proc.add_batch_handler(Everything(), lambda batch: None, size=10, wait=0.05)
    _, report = run(Broker(proc, keyed_bodies(20), rate_limit="5/100ms"), seconds=4)
    assert report.total_handled == 20


# Ends


def test_a_stop_releases_unfinished_batches():
    """At a stop, the messages of unfinished batches are released at once, in order and unhandled."""
    proc, calls = processor(), []
    proc.add_batch_handler(
        Everything(), lambda batch: calls.append(len(batch)), size=100, wait=600, ordered_by=by_field("k")
    )
    broker = Broker(proc, keyed_bodies(10, keys=3), ends=False)

    async def meanwhile(engine):
        await until(lambda: len(broker.held) == 10, "all messages to be in batches")
        engine.stop()

    began = time.monotonic()
    _, report = run(broker, meanwhile=meanwhile)
    assert time.monotonic() - began < 10
    assert (calls, report.released) == ([], 10)
    for key in range(3):
        assert [body for body in broker.released if body.endswith(b"%d}" % key)] == keyed_bodies(10, keys=3)[key::3]


def test_a_stop_files_unfinished_batches_that_cannot_be_released():
    """Messages of unfinished batches are filed as `shutdown` when their transport takes nothing back."""
    proc = processor()
    proc.add_batch_handler(Everything(), lambda batch: None, size=100, wait=600)
    broker = Broker(proc, keyed_bodies(3), ends=False, capabilities=Capabilities(release="none"))

    async def meanwhile(engine):
        await until(lambda: len(broker.held) == 3, "all messages to be in a batch")
        engine.stop()

    run(broker, meanwhile=meanwhile)
    assert proc.dlq.by_number() == [(0, "shutdown"), (1, "shutdown"), (2, "shutdown")]
    assert len(broker.acked) == 3


def test_messages_of_a_lost_session_leave_unfinished_batches():
    """The messages of a lost session leave their unfinished batches, and each is handled once after redelivery."""
    proc, calls = processor(), []
    proc.add_batch_handler(
        Everything(), lambda batch: calls.append(numbers(batch)), size=6, wait=600, ordered_by=by_field("k")
    )
    broker = Broker(proc, keyed_bodies(4, keys=2))

    async def meanwhile(engine):
        await until(lambda: len(broker.held) == 4, "all messages to be in a batch")
        broker.sessions[0].die()
        await until(lambda: len(broker.sessions) == 2 and len(broker.held) == 4, "the messages to be redelivered")
        broker.send(b'{"n":4,"k":0}', b'{"n":5,"k":1}')

    _, report = run(broker, meanwhile=meanwhile)
    assert calls == [[0, 1, 2, 3, 4, 5]]
    assert (report.total_handled, report.redelivered) == (6, 4)
