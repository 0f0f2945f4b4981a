"""Batches and lanes: messages of one key run in order, in one batch at a time."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from missive import RetryLater
from missive.matchers import Everything, Field, by_field
from missive.transport import Delivery
from tests.support.broker import Broker
from tests.support.engine import add_batch_handler, keyed_bodies, number, numbers, processor, run, sync_and_async


def check_order(ran, count, keys):
    """Check that the messages of each key ran in order, each once."""
    for key in range(keys):
        assert [n for batch in ran for n in batch if n % keys == key] == list(range(key, count, keys))


@sync_and_async
@pytest.mark.parametrize("natural", [False, True], ids=["ordered_by", "natural lane"])
def test_a_key_is_in_one_running_batch(is_async, natural):
    """Batches with a common key never run at once. Several messages of one key are in one batch, in order."""
    proc, ran, running, overlaps = processor(), [], set(), []
    lock = threading.Lock()

    def begin(batch):
        own = {n % 5 for n in numbers(batch)}
        with lock:
            if running & own:
                overlaps.append(own)
            running.update(own)
            ran.append(numbers(batch))
        return own

    def end(own):
        with lock:
            running.difference_update(own)

    def handle(batch):
        own = begin(batch)
        time.sleep(0.01)
        end(own)

    async def handle_async(batch):
        own = begin(batch)
        await asyncio.sleep(0.01)
        end(own)

    settings = {} if natural else {"ordered_by": by_field("k")}
    proc.add_batch_handler(Everything(), handle_async if is_async else handle, size=8, wait=0.02, **settings)
    deliveries = keyed_bodies(100, keys=5)
    if natural:
        deliveries = [Delivery(body, lane=f"p{n % 5}", position=n) for n, body in enumerate(deliveries)]
    _, report = run(Broker(proc, deliveries))
    assert report.total_handled == 100
    assert overlaps == []
    check_order(ran, 100, 5)
    assert any(len({n % 5 for n in batch}) < len(batch) for batch in ran)


@sync_and_async
@pytest.mark.parametrize("natural", [False, True], ids=["ordered_by", "natural lane"])
def test_messages_of_one_key_fill_batches(is_async, natural):
    """Messages that wait behind a batch of their key fill the next batches."""
    proc, calls = processor(), []
    settings = {} if natural else {"ordered_by": by_field("k")}
    add_batch_handler(proc, is_async, lambda batch: calls.append(numbers(batch)), size=10, **settings)
    run(Broker(proc, [Delivery(body, lane="p0" if natural else None) for body in keyed_bodies(40)]))
    assert calls == [[*range(n, n + 10)] for n in (0, 10, 20, 30)]


def test_batches_of_different_keys_run_at_once():
    """A batch of one key runs while a batch of another key runs."""
    proc, together = processor(), threading.Barrier(2)
    proc.add_batch_handler(Everything(), lambda batch: together.wait(10), size=3, wait=0.05, ordered_by=by_field("k"))
    grouped = sorted(keyed_bodies(6, keys=2), key=lambda body: body[-2:])
    assert run(Broker(proc, grouped)).report.total_handled == 6
    assert not together.broken


@sync_and_async
@pytest.mark.parametrize("policy", ["block", "pass"])
def test_a_retried_message_and_its_lane(is_async, policy):
    """With "block", later messages of the key wait for a retried message, and with "pass" they run. Other keys run."""
    proc, ran = processor(), []

    def handle(batch):
        ran.append([(n, item.attempt) for n, item in zip(numbers(batch), batch, strict=True)])
        for item in batch:
            if number(item.message) == 0 and item.attempt == 1:
                item.retry(0.3)

    add_batch_handler(proc, is_async, handle, size=2, wait=0.02, ordered_by=by_field("k"), on_lane_retry=policy)
    # Messages 0 and 2 of key 0 are in the first batch, 4 and 6 in a later one.
    deliveries = [*keyed_bodies(8, keys=2)[::2], b'{"n":1,"k":1}', b'{"n":3,"k":1}']
    _, report = run(Broker(proc, deliveries))
    flat = [entry for batch in ran for entry in batch]
    assert sorted(flat) == sorted([(0, 1), (0, 2), (2, 1), (4, 1), (6, 1), (1, 1), (3, 1)])
    position = {entry: place for place, entry in enumerate(flat)}
    assert (position[0, 2] < position[4, 1]) is (policy == "block")
    assert position[4, 1] < position[6, 1]
    assert position[1, 1] < position[3, 1] < position[0, 2]
    assert report.retried == 1


@sync_and_async
def test_a_retry_found_by_halves_blocks_its_lane(is_async):
    """A message that raises RetryLater alone blocks the later messages of its key in the batch. Others are handled."""
    proc, handled = processor(), []

    def handle(batch):
        if any(number(item.message) == 1 and item.attempt == 1 for item in batch):
            raise RetryLater(0.2)
        handled.extend((n, item.attempt) for n, item in zip(numbers(batch), batch, strict=True))

    add_batch_handler(proc, is_async, handle, size=8, ordered_by=by_field("k"))
    _, report = run(Broker(proc, keyed_bodies(8, keys=2)))  # key 1: 1, 3, 5, 7
    assert (report.retried, report.total_handled) == (1, 8)
    assert [n for n, _ in handled if n % 2] == [1, 3, 5, 7]
    assert [n for n, _ in handled if not n % 2] == [0, 2, 4, 6]
    assert (1, 2) in handled
    assert all(attempt == 1 for n, attempt in handled if n != 1)


@sync_and_async
def test_earlier_messages_of_a_key_run_before_a_retried_one(is_async):
    """Earlier messages of a key in a failed batch run before a message that asked for a retry."""
    proc, handled = processor(), []

    def handle(batch):
        for n, item in zip(numbers(batch), batch, strict=True):
            if n == 2 and item.attempt == 1:
                item.retry(0)
            elif n == 3:
                raise ValueError
        handled.extend((n, item.attempt) for n, item in zip(numbers(batch), batch, strict=True))

    add_batch_handler(proc, is_async, handle, size=4, ordered_by=by_field("k"))
    _, report = run(Broker(proc, keyed_bodies(4)))
    assert (report.retried, report.total_handled) == (1, 3)
    assert handled == [(0, 1), (1, 1), (2, 2)]


def test_batches_and_single_messages_of_one_key_are_in_order():
    """A batch handler and a handler of single messages with the same key run in order."""
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
            ran.append(number(message))

    given = [b'{"n":%d,"k":%d,"b":%s}' % (n, n % 3, b"true" if n % 7 < 4 else b"false") for n in range(60)]
    _, report = run(Broker(proc, given))
    assert report.total_handled == 60
    check_order([ran], 60, 3)
