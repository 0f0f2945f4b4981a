"""Lanes: one job of a key runs, and the others wait in order."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive.engine.dispatch.lanes import Lanes
from tests.support import strategies


class Job:
    """A job. Lanes read none of its attributes."""


def test_the_first_job_of_a_lane_may_run():
    """`enter` returns True for an empty lane: the job may run."""
    lanes = Lanes()
    assert lanes.enter("a", Job()) is True
    assert len(lanes) == 1


def test_later_jobs_of_a_lane_wait():
    """While a job runs, later jobs of its lane wait. `leave` returns them one by one, in order."""
    lanes, first, second, third = Lanes(), Job(), Job(), Job()
    assert [lanes.enter("a", job) for job in (first, second, third)] == [True, False, False]
    assert [second, third, None] == [lanes.leave("a") for _ in range(3)]
    assert len(lanes) == 0


def test_jobs_of_different_keys_run_together():
    """A job does not wait for a running job of another key."""
    lanes, waiting = Lanes(), Job()
    assert [lanes.enter(key, Job()) for key in ("a", "b", None)] == [True, True, True]
    assert lanes.enter("a", waiting) is False
    assert lanes.leave("b") is None
    assert waiting is lanes.leave("a")


def test_a_lane_is_reused():
    """A lane is empty again after its last job has left."""
    lanes = Lanes()
    for _ in range(3):
        assert lanes.enter("a", Job()) is True
        assert lanes.leave("a") is None
        assert len(lanes) == 0


@pytest.mark.parametrize("key", [None, "", 0, b"k", ("a", 1), "号"])
def test_any_hashable_value_is_a_key(key):
    """Jobs with the same hashable value as key share a lane."""
    lanes, waiting = Lanes(), Job()
    assert lanes.enter(key, Job()) is True
    assert lanes.enter(key, waiting) is False
    assert waiting is lanes.leave(key)


def test_leaving_an_empty_lane_raises():
    """`leave` raises KeyError for a lane without jobs."""
    with pytest.raises(KeyError):
        Lanes().leave("a")


def test_withdraw_takes_out_the_waiting_jobs():
    """`withdraw` returns every waiting job, in order within its lane. Running jobs stay."""
    lanes = Lanes()
    a, b, c = Job(), Job(), Job()
    for key, job in [("x", Job()), ("x", a), ("y", Job()), ("x", b), ("y", c)]:
        lanes.enter(key, job)
    assert [a, b, c] == lanes.withdraw()
    assert len(lanes) == 2
    assert lanes.withdraw() == []
    assert (lanes.leave("x"), lanes.leave("y")) == (None, None)
    assert len(lanes) == 0


def test_a_lane_continues_after_a_withdrawal():
    """A job that enters after a withdrawal waits for the running job of its lane."""
    lanes, later = Lanes(), Job()
    lanes.enter("a", Job())
    lanes.enter("a", Job())
    lanes.withdraw()
    assert lanes.enter("a", later) is False
    assert later is lanes.leave("a")


operations = st.lists(
    st.tuples(st.sampled_from(["enter", "enter", "leave", "withdraw"]), st.sampled_from("abc")), max_size=60
)


@given(operations)
@strategies.examples(75)
def test_lanes_keep_order_and_run_one_at_a_time(sequence):
    """After any sequence of calls, at most one job of a key runs, and jobs run in the order in which they entered."""
    lanes, running, waiting = Lanes(), {}, {key: deque() for key in "abc"}
    for operation, key in sequence:
        if operation == "enter":
            job = Job()
            assert (key not in running) is lanes.enter(key, job)
            if key in running:
                waiting[key].append(job)
            else:
                running[key] = job
        elif operation == "leave" and key in running:
            expected = waiting[key].popleft() if waiting[key] else None
            assert expected is lanes.leave(key)
            if expected is None:
                del running[key]
            else:
                running[key] = expected
        elif operation == "withdraw":
            taken = lanes.withdraw()
            for queue in waiting.values():
                assert list(queue) == [job for job in taken if job in queue]
            assert len(taken) == sum(map(len, waiting.values()))
            waiting = {key: deque() for key in "abc"}
        assert len(running) == len(lanes)


def test_empty_lanes_are_forgotten():
    """A key without jobs leaves no entry behind."""
    lanes = Lanes()
    for n in range(10_000):
        lanes.enter(n, Job())
        lanes.leave(n)
    assert len(lanes) == 0
    assert lanes._waiting == {}
