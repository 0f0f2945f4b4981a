"""The virtual loop: it never waits, and raises where it would wait for ever."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from missive.testing.simulation.loop import Clock, Deadlock, Livelock, VirtualLoop


@pytest.fixture
def loop():
    loop = VirtualLoop(Clock())
    yield loop
    loop.unwind()
    loop.close()


def test_sleeping_takes_no_time(loop):
    """Sleeping moves the virtual clock forward, and takes no real time."""
    before = time.monotonic()
    loop.run_until_complete(asyncio.sleep(3600))
    assert loop.time() == pytest.approx(3600)
    assert time.monotonic() - before < 10


def test_calls_run_in_the_order_of_their_time(loop):
    """Calls run at their time, whatever the order in which they were scheduled."""
    ran = []
    for after in (3, 1, 2):
        loop.call_later(after, lambda after=after: ran.append((after, loop.time())))
    loop.run_until_complete(asyncio.sleep(5))
    assert [after for after, _ in ran] == [1, 2, 3]
    assert [at for _, at in ran] == pytest.approx([1, 2, 3])


def test_successive_loops_share_a_clock():
    """The loops of successive processes share a clock."""
    clock = Clock()
    for expected in (1, 2):
        loop = VirtualLoop(clock)
        loop.run_until_complete(asyncio.sleep(1))
        loop.close()
        assert clock.now == pytest.approx(expected)


def test_a_deadlock_is_raised(loop):
    """Waiting for an event that cannot happen raises Deadlock and does not hang."""
    with pytest.raises(Deadlock):
        loop.run_until_complete(loop.create_future())


def test_a_livelock_is_raised(loop):
    """Running for ever at one instant raises Livelock."""

    async def around():
        for _ in itertools.count():
            await asyncio.sleep(0)

    with pytest.raises(Livelock):
        loop.run_until_complete(around())


def test_executor_calls_run_inline(loop):
    """Calls on an executor run inline and return their result or raise their exception."""

    def fail():
        raise ValueError

    assert loop.run_until_complete(asyncio.to_thread(lambda: 3)) == 3
    with pytest.raises(ValueError):
        loop.run_until_complete(asyncio.to_thread(fail))


def test_unwinding_leaves_no_task(loop):
    """Unwinding cancels every task, including tasks that try to continue, and refuses new ones."""
    ended = []

    async def stubborn():
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await asyncio.sleep(10)
        finally:
            ended.append(loop.time())

    loop.create_task(stubborn())
    loop.run_until_complete(asyncio.sleep(1))
    loop.unwind()
    assert loop.unfinished() == []
    assert ended == pytest.approx([1])
    with pytest.raises(RuntimeError):
        loop.create_task(stubborn())
