"""Fixtures for stores: a clock, a new database, a store in it."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from missive.dlq import Replay, Store
from missive.dlq.sql import SQLStore


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
    return str(server.url(server.database()))


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[SQLStore]:
    with contextlib.closing(SQLStore(url, clock=clock)) as opened:
        yield opened


def queued(store: Store, ids: Collection[str], replay: str) -> int:
    """Choose records for a replay that running workers run; returns how many were."""
    store.start_replay(Replay(replay, "me", "chosen"), ids)
    return store.go_on(replay)
