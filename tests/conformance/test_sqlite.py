"""SQLiteAdapter passes the conformance suite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from missive import Processor
from missive.adapters.sqlite import SCHEMA, SQLiteAdapter
from missive.testing.conformance import Conformance, Harness, Sent

INSERT = "INSERT INTO missive_queue (queue, body, headers, key, message_id, sent_at) VALUES ('q', ?, ?, ?, ?, ?)"


class SQLiteHarness(Harness):
    name = "sqlite"
    preserves = frozenset({"key", "timestamp", "producer_id", "native_id"})
    headers = frozenset({"text", "duplicate"})
    redelivery_seconds = 8.0

    def __init__(self, directory: Path) -> None:
        self.path = directory / "queue.db"

    def adapter(self, processor: Processor[Any], **options: Any) -> SQLiteAdapter:
        return SQLiteAdapter(processor, self.path, "q", lease=self.lease)

    def create(self) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.executescript(SCHEMA)

    def publish(self, messages: Sequence[Sent]) -> None:
        rows = [(m.body, json.dumps(m.headers), m.key, m.message_id, m.timestamp or 1.0) for m in messages]
        with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
            connection.executemany(INSERT, rows)

    def remaining(self) -> int:
        with closing(sqlite3.connect(self.path, timeout=30)) as connection:
            return int(connection.execute("SELECT count(*) FROM missive_queue").fetchone()[0])

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}?queue=q&lease=1"

    def versions(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}"


class TestSQLite(Conformance):
    """All cases, on a file."""

    @pytest.fixture
    def harness(self, tmp_path: Path) -> SQLiteHarness:
        return SQLiteHarness(tmp_path)
