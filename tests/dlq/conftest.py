"""Fixtures for stores: a clock, a new database, a store in it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from missive.dlq import Replay, Store
from missive.dlq.redis import RedisStore
from missive.dlq.sql import SQLStore
from tests.support.redis_store import check


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new database of each kind."""
    if (kind := getattr(request, "param", "sqlite")) == "sqlite":
        return f"sqlite:///{tmp_path}/dlq.db"
    server = request.getfixturevalue(kind)
    if kind == "redis":
        return str(server.store())
    return str(server.url(server.database()))


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[Any]:
    with contextlib.closing(opened_at(url, clock)) as opened:
        yield opened
        if isinstance(opened, RedisStore):
            check(opened)


def opened_at(url: str, clock: Callable[[], float] = time.time) -> Any:
    """Open the store of a URL, by a clock."""
    return (RedisStore if url.startswith("redis") else SQLStore)(url, clock=clock)


def queued(store: Store, ids: Collection[str], replay: str) -> int:
    """Choose records for a replay that running workers run; returns how many were."""
    store.start_replay(Replay(replay, "me", "chosen"), ids)
    return store.queue_remaining(replay)
