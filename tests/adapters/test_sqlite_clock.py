"""Clocks that are set back: the rows of an SQLite queue do not wait for the clock."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from missive import Processor
from missive.adapters.sqlite import SCHEMA, SQLiteAdapter
from missive.testing.conformance.host import KitHost
from missive.transport import Credit

HOUR = 3600.0


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "q.db")) as connection:
        connection.executescript(SCHEMA)
    return tmp_path / "q.db"


def insert(path: Path, **columns: object) -> None:
    """Insert a row with these columns."""
    names = ", ".join(columns)
    marks = ", ".join("?" * len(columns))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            f"INSERT INTO missive_queue (queue, body, {names}) VALUES ('q', x'61', {marks})", [*columns.values()]
        )


def arrives(path: Path, seconds: float) -> bool:
    """Return whether a consumer with a lease of 0.5 s receives a message in time."""

    async def main() -> bool:
        session = await SQLiteAdapter(Processor(name="t"), path, "q", lease=0.5).connect(KitHost())
        try:
            async with asyncio.timeout(seconds):
                return len(await session.fetch(Credit(10, 1000))) == 1
        except TimeoutError:
            return False
        finally:
            await session.close()

    return asyncio.run(main())


@pytest.mark.parametrize(
    "columns",
    [
        lambda now: {"sent_at": now + HOUR, "visible_at": now + HOUR},
        lambda now: {"sent_at": now + HOUR, "visible_at": now + HOUR + 0.2},
        lambda now: {"visible_at": now + HOUR, "lease": "dead:1/0.5"},
        lambda now: {"visible_at": now + HOUR, "lease": "delay/0.2"},
    ],
    ids=["ready", "delayed by its producer", "leased by a dead consumer", "delayed by a retry"],
)
def test_a_row_from_before_the_clock_was_set_back_arrives(queue: Path, columns):
    """A row whose times lie an hour ahead arrives after its own delay or lease, and not after an hour."""
    insert(queue, **columns(time.time()))
    assert arrives(queue, 20)


def test_a_delayed_row_still_waits(queue: Path):
    """A row that its producer delays does not arrive early."""
    insert(queue, visible_at=time.time() + HOUR)
    assert not arrives(queue, 1.5)
