"""Records and stores for tests: a clock, the kinds of stores, and records in any state."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import pytest

from missive.dlq import Attempt, Origin, Query, Record, Replay, Status, Store
from missive.dlq.redis import RedisStore
from missive.dlq.sql import SQLStore
from missive.ids import new_id
from missive.outcome import Reason

SERVERS = [
    pytest.param("postgres", marks=pytest.mark.postgres),
    pytest.param("mariadb", marks=pytest.mark.mariadb),
]
REDIS = pytest.param("redis", marks=pytest.mark.redis)
on_each = pytest.mark.parametrize("url", ["sqlite", *SERVERS, REDIS], indirect=True)
on_each_sql = pytest.mark.parametrize("url", ["sqlite", *SERVERS], indirect=True)
on_servers = pytest.mark.parametrize("url", SERVERS, indirect=True)


class Clock:
    """A clock that tests set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def opened_at(url: str, clock: Callable[[], float] = time.time) -> Any:
    """Open the store of a URL with a clock."""
    return (RedisStore if url.startswith("redis") else SQLStore)(url, clock=clock)


def record(**changes: object) -> Record:
    """Return a dead letter with these fields changed."""
    made = Record(
        id=new_id(),
        service="shop",
        reason=Reason.failed,
        identity=None,
        body=b"\x00body",
        headers=(("a", "1"), ("A", b"\xff")),
        origin=Origin("memory", "m", "memory:m", None, 3),
        first_at=10.0,
        last_at=10.0,
        fingerprint="f" * 16,
        history=(Attempt(10.0, "failed", 1),),
    )
    made = replace(made, **changes)
    return replace(made, sha256=hashlib.sha256(made.body).hexdigest())


def parked(due: float | None, lane: str | None = None, **changes: object) -> Record:
    """Return a parked record."""
    return record(status=Status.parked, due=due, lane=lane, **changes)


def closed(record_id: str, status: Status = Status.resolved, **changes: object) -> Record:
    """Return a resolved or discarded record."""
    return record(id=record_id, status=status, closed_at=5.0, closed_by="me", **changes)


def queued(store: Store, ids: Collection[str], replay: str) -> int:
    """Queue records for a replay by running workers; return their number."""
    store.start_replay(Replay(replay, "me", "chosen"), ids)
    return store.queue_remaining(replay)


def statuses(store: Store) -> dict[str, str]:
    """Return the status of each record, by id."""
    return {one.id: str(one.status) for one in store.query(Query())}
