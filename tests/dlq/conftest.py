"""Fixtures: a clock, a new database, and a store in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from missive.dlq.redis import RedisStore
from tests.support.redis_store import check
from tests.support.stores import Clock, opened_at


@pytest.fixture
def clock() -> Clock:
    """Return a clock that the test sets."""
    return Clock()


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a new database of the requested kind."""
    if (kind := getattr(request, "param", "sqlite")) == "sqlite":
        return f"sqlite:///{tmp_path}/dlq.db"
    server = request.getfixturevalue(kind)
    if kind == "redis":
        return str(server.store())
    return str(server.url(server.database()))


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[Any]:
    """Open a store; check the indexes of a Redis store at the end."""
    with contextlib.closing(opened_at(url, clock)) as opened:
        yield opened
        if isinstance(opened, RedisStore):
            check(opened)
