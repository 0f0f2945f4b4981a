"""Virtual time: a loop that never waits, and says when it would for ever."""

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


def test_an_hour_is_over_at_once(loop):
    """Sleeping moves the clock by as much, and takes no time."""
    before = time.monotonic()
    loop.run_until_complete(asyncio.sleep(3600))
    assert loop.time() == pytest.approx(3600)
    assert time.monotonic() - before < 10


def test_what_is_due_runs_in_its_order(loop):
    """Calls run when they are due, whatever the order in which they were asked for."""
    ran = []
    for after in (3, 1, 2):
        loop.call_later(after, lambda after=after: ran.append((after, loop.time())))
    loop.run_until_complete(asyncio.sleep(5))
    assert [after for after, _ in ran] == [1, 2, 3]
    assert [at for _, at in ran] == pytest.approx([1, 2, 3])


def test_time_goes_on_over_loops():
    """A clock is shared by the loops of processes that follow each other."""
    clock = Clock()
    for expected in (1, 2):
        loop = VirtualLoop(clock)
        loop.run_until_complete(asyncio.sleep(1))
        loop.close()
        assert clock.now == pytest.approx(expected)


def test_a_deadlock_is_raised(loop):
    """Waiting for what will never be is an error, and no hang."""
    with pytest.raises(Deadlock):
        loop.run_until_complete(loop.create_future())


def test_a_circle_is_raised(loop):
    """Going on and on at one instant is an error too."""

    async def around():
        for _ in itertools.count():
            await asyncio.sleep(0)

    with pytest.raises(Livelock):
        loop.run_until_complete(around())


def test_there_are_no_threads(loop):
    """What would run on an executor runs inline, and its result or exception is given."""

    def fail():
        raise ValueError

    assert loop.run_until_complete(asyncio.to_thread(lambda: 3)) == 3
    with pytest.raises(ValueError):
        loop.run_until_complete(asyncio.to_thread(fail))


def test_unwinding_leaves_nothing(loop):
    """Everything is cancelled, what tries to go on too, and nothing new begins."""
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
