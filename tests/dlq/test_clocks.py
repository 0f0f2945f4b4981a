"""Clocks that are set back, on each store: nothing stays leased, claimed or waiting for longer than it should."""

from __future__ import annotations

import pytest

from missive.dlq import Status, Store
from missive.dlq.once import ClaimRequest, ClaimState
from tests.support.stores import Clock, on_each, parked, queued, record

HOUR, DAY = 3600.0, 86400.0
jumps = pytest.mark.parametrize("jump", [HOUR, DAY])


def leased(store: Store, token: str) -> list[str]:
    """Lease records for a minute, and return their ids."""
    return [lease.record.id for lease in store.lease_records("shop", token, 10, 60)]


@on_each
@jumps
def test_a_lease_does_not_outlive_a_clock_that_was_set_back(store: Store, clock: Clock, jump: float):
    """The lease of a dead worker ends after its length on the new clock, and not at once."""
    clock.now = 1e6
    of_replay, waiting = record(), parked(None)
    store.put([of_replay, waiting])
    queued(store, [of_replay.id], "r1")
    assert len(leased(store, "dead")) == 2
    clock.now -= jump
    assert leased(store, "next") == [], "the holder may be alive and renew its lease"
    clock.now += 61
    assert sorted(leased(store, "next")) == sorted([of_replay.id, waiting.id])


@on_each
def test_a_living_holder_keeps_its_lease_when_the_clock_is_set_back(store: Store, clock: Clock):
    """A renewed lease counts from the new time, and fences other workers."""
    clock.now = 1e6
    one = parked(None)
    store.put([one])
    assert leased(store, "ours") == [one.id]
    clock.now -= HOUR
    assert leased(store, "theirs") == []
    for _ in range(3):
        clock.now += 40
        assert store.extend_leases([one.id], "ours", 60) == {one.id}
        assert leased(store, "theirs") == []
    assert store.resolve([one.id], "ours", Status.resolved, "t") == {one.id}


@on_each
@jumps
@pytest.mark.parametrize("lane", [None, "a"])
@pytest.mark.parametrize("delay", [30.0, 2 * DAY])
def test_a_parked_record_waits_for_its_own_delay_only(
    store: Store, clock: Clock, jump: float, lane: str | None, delay: float
):
    """A due time counts from the new time when the failure lies in the future. Further searches change nothing."""
    clock.now = 1e6
    one = parked(clock.now + delay, lane, last_at=clock.now)
    store.put([one])
    clock.now -= jump
    assert leased(store, "t") == []
    before = clock.now
    while clock.now < before + delay - 20:
        clock.now += min(delay / 2, before + delay - 10 - clock.now)
        assert leased(store, "t") == []
        clock.now -= 1  # another search
        assert leased(store, "t") == []
    clock.now = before + delay + 1
    assert leased(store, "t") == [one.id]


@on_each
def test_a_small_difference_of_clocks_changes_nothing(store: Store, clock: Clock):
    """The clock of another machine may be a few seconds ahead."""
    clock.now = 1e6
    one = parked(clock.now + 600, last_at=clock.now)
    store.put([one])
    clock.now -= 5
    assert leased(store, "t") == []
    found = store.get(one.id)
    assert found is not None
    assert (found.due, found.last_at) == (one.due, one.last_at)


@on_each
def test_a_clock_set_forward_loses_no_record(store: Store, clock: Clock):
    """A holder that renews its lease first keeps it. Otherwise another worker takes the record, who is fenced."""
    clock.now = 1e6
    one = parked(None)
    store.put([one])
    assert leased(store, "ours") == [one.id]
    clock.now += HOUR
    assert store.extend_leases([one.id], "ours", 60) == {one.id}, "another worker has not taken the record"
    assert leased(store, "theirs") == []
    clock.now += HOUR
    assert leased(store, "theirs") == [one.id]
    assert store.extend_leases([one.id], "ours", 60) == set()
    assert store.resolve([one.id], "ours", Status.resolved, "t") == set()


@on_each
@jumps
def test_a_claim_does_not_outlive_a_clock_that_was_set_back(store: Store, clock: Clock, jump: float):
    """The claim of a dead owner ends after its length on the new clock, and not at once."""
    clock.now = 1e6
    request = ClaimRequest("h", "0" * 64, "b" * 64)
    assert store.once_begin("shop", [request], "dead", 60, DAY)[0].state is ClaimState.ours
    clock.now -= jump
    assert store.once_begin("shop", [request], "next", 60, DAY)[0].state is ClaimState.busy
    clock.now += 61
    assert store.once_begin("shop", [request], "next", 60, DAY)[0].state is ClaimState.ours
