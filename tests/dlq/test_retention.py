"""Retention: how long a store keeps resolved and discarded records."""

from __future__ import annotations

import contextlib

import pytest

from missive.dlq import Query, Replay, Status
from missive.dlq.retention import Retention
from missive.dlq.sql import SQLStore
from missive.errors import UsageError
from missive.operations.replay import start_replay
from missive.operations.selection import Selection
from tests.support.stores import Clock, on_each, opened_at, record


@on_each
def test_closed_records_expire_after_their_retention(url: str, clock: Clock):
    """Resolved and discarded records expire in batches; dead and parked records stay."""
    store = opened_at(f"{url}{'&' if '?' in url else '?'}keep_resolved=1h&keep_discarded=2h", clock)
    closed = [
        record(id=f"{status}{n}", status=Status(status), closed_at=900.0 + n)
        for status in ("resolved", "discarded")
        for n in range(3)
    ]
    store.put([*closed, record(id="dead"), record(id="parked", status=Status.parked)])
    assert store.expire() == 0
    clock.now = 902.5 + 3600
    assert [store.expire(2), store.expire(2), store.expire(2)] == [2, 1, 0]
    clock.now += 36000
    assert store.expire() == 3
    assert store.ids(Query()) == ["dead", "parked"]
    store.close()


@on_each
def test_a_running_replay_keeps_its_resolved_records(url: str, clock: Clock):
    """A replay that runs for longer than the retention does not run its canaries again."""
    with contextlib.closing(opened_at(f"{url}{'&' if '?' in url else '?'}keep_resolved=1h", clock)) as store:
        store.put([record(id="old", status=Status.resolved, closed_at=900.0), *(record(id=f"{n}") for n in range(3))])
        replay = start_replay(store, Selection(("0", "1", "2"), ("shop",)), Replay("", "me", "q", canary=1))
        store.advance()
        (lease,) = store.lease_records("shop", "t", 9, 60)
        store.resolve([lease.record.id], "t", Status.resolved, "x")
        clock.now += 36000
        assert (store.expire(), store.expire()) == (1, 0), "the canary stays"
        store.advance()
        assert store.replays(replay.id)[0].queued == 2
        store.set_replay(replay.id, "cancelled")
        assert store.expire() == 1


def test_retention_is_parsed_from_the_parameters_of_a_url():
    """The default is thirty days; a wrong duration is refused, and other parameters stay."""
    assert Retention.parse({})[0] == (2_592_000.0, 2_592_000.0)
    kept, others = Retention.parse({"keep_resolved": "forever", "keep_discarded": "90min", "sslmode": "require"})
    assert (kept, others) == ((None, 5400.0), {"sslmode": "require"})
    with pytest.raises(UsageError, match="keep_resolved is a duration, such as 90min"):
        Retention.parse({"keep_resolved": "soon"})
    with pytest.raises(UsageError, match="did you mean keep_resolved"):
        SQLStore("sqlite:///x.db?keep_resolvd=1h")
