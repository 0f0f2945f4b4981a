"""The test client with batch handlers."""

from __future__ import annotations

import asyncio

from missive import JSONMessage
from missive.matchers import Field, by_field
from tests.support.engine import CANARY, add_batch_handler, number, numbers, processor, sync_and_async


@sync_and_async
def test_send_batch_runs_one_batch(is_async):
    """`send_batch` runs one batch, in halves when it raises. The results are in the order of the messages."""
    proc, calls = processor(), []

    def handle(batch):
        calls.append(numbers(batch))
        for item in batch:
            if number(item.message) == 0:
                item.discard("no")
        if 2 in calls[-1]:
            raise ValueError(CANARY)

    add_batch_handler(proc, is_async, handle, size=4)
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


@sync_and_async
def test_send_runs_a_batch_of_one(is_async):
    """`send` runs a batch of one message. A retried message runs when its delay has passed."""
    proc, calls = processor(), []

    def handle(batch):
        calls.append([item.attempt for item in batch])
        if batch[0].attempt == 1:
            batch[0].retry(10)

    add_batch_handler(proc, is_async, handle, size=4, ordered_by=by_field("k"))
    with proc.test_client() as client:
        assert client.send(JSONMessage(b'{"k":1}')).outcome == "retried"
        assert client.advance(9) == []
        assert [result.outcome for result in client.advance(1)] == ["acked"]
    assert calls == [[1], [2]]


def test_send_batch_of_the_async_client():
    """`send_batch` of the async client returns the results of other handlers too, in the order of the messages."""
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
