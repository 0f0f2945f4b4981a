"""The pace of replays in running workers: canaries, rates and limits of failures."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive.dlq import Replay, Status
from missive.dlq.pacing import pace
from missive.dlq.sql import SQLStore
from missive.errors import UsageError
from missive.operations.replay import cancel_replay, hand_over_replay, resume_replay
from tests.operations.test_replay import letters, started
from tests.support.stores import Clock, on_each, record

counts = st.integers(0, 20)


def test_a_clock_that_is_set_back_does_not_stop_a_replay():
    """A used-up rate far in the future is ignored. A few seconds may be the clock of another machine."""
    ahead = Replay("r", "me", "q", rate="5/s", paced_until=1000.0, left=9)
    assert pace(ahead, 970.0) == ("running", 0, 1000.0)
    assert pace(ahead, 500.0) == ("running", 0, 500.0)
    assert pace(replace(ahead, paced_until=500.0), 501.0).queue == 5


@given(
    counts,
    counts,
    counts,
    counts,
    st.none() | st.integers(1, 5),
    st.none() | st.integers(1, 5),
    st.sampled_from([None, "5/s", "1/10s", "600/min"]),
    st.floats(0, 30),
)
def test_a_step_respects_every_limit(left, under_way, resolved, failed, canary, until, rate, since):
    """A step never queues more than the limits allow. Without a rate, an idle replay queues a record."""
    now = 1000.0
    replay = Replay(
        "r", "me", "q", False, canary, rate, until, paced_until=now - since,
        left=left, queued=under_way, resolved=resolved, failed=failed,
    )  # fmt: skip
    step = pace(replay, now)
    if step.status == "stopped":
        assert failed >= 1
        assert (until is not None and failed >= until) or (canary is not None and resolved < canary)
        return
    if step.status == "done":
        assert left == under_way == 0
        return
    begun = left if step.queue is None else min(step.queue, left)
    if until is not None:
        assert failed < until
        assert begun == 0 or failed + under_way + begun <= until
    if canary is not None and resolved < canary:
        assert begun == 0 or resolved + under_way + begun <= canary
    if rate is not None:
        assert step.paced_until <= now + 1e-6
    elif left and not under_way:
        assert begun > 0, "the replay would never end"


@pytest.mark.parametrize(("rate", "least", "most"), [("5/s", 48, 56), ("100/s", 980, 1110), ("1/10s", 1, 2)])
def test_a_rate_holds_over_ten_seconds(rate: str, least: int, most: int):
    """With a step once a second for ten seconds, the rate decides how many records start."""
    now, until, begun = 1000.0, 0.0, 0
    for _ in range(10):
        step = pace(Replay("r", "me", "q", rate=rate, paced_until=until, left=10_000 - begun, resolved=begun), now)
        begun, until, now = begun + (step.queue or 0), step.paced_until, now + 1.0
    assert least <= begun <= most


def handle(store: SQLStore, *, bad: int = 0) -> list[str]:
    leases = store.lease_records("shop", "t", 100, 60)
    for n, (one, _) in enumerate(leases):
        if n < bad:
            store.put([record(id=one.id, lease_token="t")])
        else:
            store.resolve([one.id], "t", Status.resolved, "t")
    return [lease.record.id for lease in leases]


@on_each
def test_canaries_run_first(store: SQLStore):
    """The other records wait until the canaries are resolved, and then all of them are queued."""
    store.put(letters(5))
    replay = started(store, canary=2)
    hand_over_replay(store, replay)
    store.advance()
    assert handle(store) == ["000", "001"]
    store.advance()
    assert handle(store) == ["002", "003", "004"]
    store.advance()
    assert store.replays(replay.id)[0].status == "done"


@on_each
def test_a_canary_that_fails_stops_the_replay(store: SQLStore):
    """The other records stay dead, and no worker can lease them."""
    store.put(letters(5))
    replay = started(store, canary=1)
    hand_over_replay(store, replay)
    handle(store, bad=1)
    store.advance()
    now = store.replays(replay.id)[0]
    assert (now.status, now.failed, now.left, now.finished_at) == ("stopped", 1, 4, 1000.0)
    assert handle(store) == []
    with pytest.raises(UsageError, match="has reached its limit of failures"):
        resume_replay(store, replay.id, by_command=False)


@on_each
def test_failures_stop_a_replay(store: SQLStore):
    """No more records run than may still fail, so that no more records fail."""
    store.put(letters(9))
    replay = started(store, until_failures=3)
    hand_over_replay(store, replay)
    failed = []
    for _ in range(5):
        failed.append(len(handle(store, bad=1)))
        store.advance()
    now = store.replays(replay.id)[0]
    assert (failed[:3], now.failed, now.status) == ([3, 2, 1], 3, "stopped")
    assert now.left == 3


@on_each
def test_a_rate_holds_for_several_workers(store: SQLStore, clock: Clock):
    """Several workers that ask within one second queue no more records than one worker."""
    store.put(letters(40))
    hand_over_replay(store, started(store, rate="5/s"))
    first = len(handle(store))
    for _ in range(3):
        store.advance()
    assert (first, handle(store)) == (6, [])
    clock.now += 1.0
    store.advance()
    assert len(handle(store)) == 5


@on_each
def test_a_plain_replay_is_queued_at_once(store: SQLStore):
    """Without canaries, rate and limit, all records are queued. A cancelled replay continues when it is resumed."""
    store.put(letters(3))
    replay = started(store)
    hand_over_replay(store, replay)
    cancel_replay(store, replay.id)
    store.advance()
    assert handle(store) == []
    resume_replay(store, replay.id, by_command=False)
    assert len(handle(store)) == 3
