"""Timeouts in test clients: late handlers, errors and extensions."""

from __future__ import annotations

import asyncio
import time

import pytest

from missive import JSONMessage, NotSettled, Processor
from missive.matchers import Everything
from tests.support.engine import processor

SLOW, FAST = b'{"slow":true}', b'{"slow":false}'


def slow(message):
    """Return whether a message asks for a slow handler."""
    return message.get_json()["slow"]


@pytest.mark.parametrize("is_async", [True, False])
def test_the_test_client_applies_timeouts(is_async):
    """A test client decides a late handler as `timeout`, and cancels an async handler."""
    proc, ended = processor(timeout=0.1), []

    async def handle(message, context):
        try:
            await asyncio.sleep(0.3)
        except asyncio.CancelledError:
            ended.append("cancelled")
        if slow(message):
            context.retry()

    def handle_sync(message, context):
        time.sleep(0.3 if slow(message) else 0)
        ended.append("returned")

    proc.add_handler(Everything(), handle if is_async else handle_sync)
    with proc.test_client() as client:
        result = client.send(JSONMessage(SLOW))
        assert (result.outcome, result.reason, result.delay) == ("dead_lettered", "timeout", None)
        assert ended == ["cancelled" if is_async else "returned"]
        assert client.dead_lettered == client.acked
    assert proc.dlq.by_body() == [(SLOW, "timeout")]


def test_the_async_test_client_applies_timeouts():
    """The async test client cancels a late handler, and not the task that sends."""
    proc = processor(timeout=0.1)

    @proc.handle_for(Everything())
    async def handle(message, context):
        await asyncio.sleep(30 if slow(message) else 0)

    async def main():
        async with proc.test_client() as client:
            results = [await client.send(JSONMessage(body)) for body in (SLOW, FAST)]
            assert asyncio.current_task().cancelling() == 0
            return [(result.outcome, result.reason) for result in results]

    assert asyncio.run(main()) == [("dead_lettered", "timeout"), ("acked", None)]


@pytest.mark.parametrize("is_async", [True, False])
def test_a_timeout_in_a_test_client_without_a_dead_letter_queue_raises(is_async):
    """Without a dead letter queue, a timeout in a test client raises `NotSettled`, which names the handler."""
    proc = Processor(name="app", timeout=0.1)

    async def handle(message, context):
        await asyncio.sleep(30)

    def handle_sync(message, context):
        time.sleep(0.2)

    proc.add_handler(Everything(), handle if is_async else handle_sync, name="late-one")
    with (
        proc.test_client() as client,
        pytest.raises(NotSettled, match="late-one ran longer than its timeout"),
    ):
        client.send(proc.message_cls(b""))


@pytest.mark.parametrize("is_async", [True, False])
def test_the_test_client_grants_extensions(is_async):
    """A test client grants extensions, and `remaining` includes them."""
    proc, left = processor(timeout=0.1), []

    async def handle(message, context):
        context.extend(5)
        await asyncio.sleep(0.2)
        left.append(context.remaining)

    def handle_sync(message, context):
        context.extend(5)
        time.sleep(0.2)
        left.append(context.remaining)

    proc.add_handler(Everything(), handle if is_async else handle_sync)
    with proc.test_client() as client:
        assert client.send(JSONMessage(SLOW)).outcome == "acked"
    assert 1 < left[0] < 5
