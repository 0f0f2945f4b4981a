"""Lanes: one job of a key runs, the others wait behind it, in order."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive.engine.dispatch.lanes import Lanes
from tests.support import strategies


class Job:
    """Stands for a job; lanes never look into one."""


def test_the_first_of_a_lane_may_run():
    """Entering an empty lane says that the job may run."""
    lanes = Lanes()
    assert lanes.enter("a", Job()) is True
    assert len(lanes) == 1


def test_others_wait_behind_it():
    """While one runs, others of its lane may not, and are handed out one by one, in order."""
    lanes, first, second, third = Lanes(), Job(), Job(), Job()
    assert [lanes.enter("a", job) for job in (first, second, third)] == [True, False, False]
    assert [second, third, None] == [lanes.leave("a") for _ in range(3)]
    assert len(lanes) == 0


def test_lanes_do_not_wait_for_each_other():
    """Jobs of different keys run side by side."""
    lanes, waiting = Lanes(), Job()
    assert [lanes.enter(key, Job()) for key in ("a", "b", None)] == [True, True, True]
    assert lanes.enter("a", waiting) is False
    assert lanes.leave("b") is None
    assert waiting is lanes.leave("a")


def test_a_lane_is_reused():
    """After its last job a lane is as new."""
    lanes = Lanes()
    for _ in range(3):
        assert lanes.enter("a", Job()) is True
        assert lanes.leave("a") is None
        assert len(lanes) == 0


@pytest.mark.parametrize("key", [None, "", 0, b"k", ("a", 1), "号"])
def test_any_hashable_is_a_key(key):
    """A key is any hashable value."""
    lanes, waiting = Lanes(), Job()
    assert lanes.enter(key, Job()) is True
    assert lanes.enter(key, waiting) is False
    assert waiting is lanes.leave(key)


def test_leaving_a_lane_that_nobody_is_in_is_a_mistake():
    """A job that is not in a lane cannot leave it."""
    with pytest.raises(KeyError):
        Lanes().leave("a")


def test_withdraw_takes_out_what_waits():
    """`withdraw` returns every waiting job, in order within its lane, and leaves those that run."""
    lanes = Lanes()
    a, b, c = Job(), Job(), Job()
    for key, job in [("x", Job()), ("x", a), ("y", Job()), ("x", b), ("y", c)]:
        lanes.enter(key, job)
    assert [a, b, c] == lanes.withdraw()
    assert len(lanes) == 2
    assert lanes.withdraw() == []
    assert (lanes.leave("x"), lanes.leave("y")) == (None, None)
    assert len(lanes) == 0


def test_a_lane_goes_on_after_a_withdrawal():
    """What enters after a withdrawal waits for the one that still runs."""
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
    """Whatever happens, at most one job of a key runs, and jobs run in the order in which they entered."""
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


def test_many_keys_leave_nothing_behind():
    """Keys that come and go are not remembered."""
    lanes = Lanes()
    for n in range(10_000):
        lanes.enter(n, Job())
        lanes.leave(n)
    assert len(lanes) == 0
    assert lanes._waiting == {}
