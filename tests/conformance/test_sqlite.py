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

HEADERS = [
    None,
    "",
    "{",
    "5",
    '"ab"',
    '["ab", "cd"]',
    '[["a"]]',
    '[["f", 0.75], ["t", true], ["n", null], ["o", {"a": [1.5, "é"]}], ["i", 1e400], [7, "name"]]',
    '{"a": "1", "b": 2}',
    r'[["\ud800", "\udfff"], ["nul\u0000", "\u0000"]]',
    b'[["\xff", "\xfe"], ["a", "1"]]',
    b"\xff",
    17,
    0.5,
    "[" * 100_000,
    "[[" + '"a", ' + "9" * 5000 + "]]",
]
ODD = [
    *[(headers, None, None, None, None, 1.0) for headers in HEADERS],
    (None, b"\xff\xfe", b"\xff", b"\xfe", b"\xfd", 1.0),
    (None, 17, 18, 19, 20, "yesterday"),
    (None, "\0", "\0", "\0", "\0", b"\xff"),
    (None, "k", "t", "m", "c", 1e308),
    (None, "", "", "", "", -9e15),
]
"""Headers, key, topic, message id, content type and time of odd rows."""


class SQLiteHarness(Harness):
    name = "sqlite"
    preserves = frozenset({"key", "timestamp", "producer_id", "native_id"})
    headers = frozenset({"text", "duplicate"})
    redelivery_seconds = 8.0

    def __init__(self, directory: Path) -> None:
        self.path = directory / "queue.db"

    def adapter(self, processor: Processor[Any], **options: Any) -> SQLiteAdapter:
        return SQLiteAdapter(processor, self.path, "q", lease=self.lease, **options)

    def create(self) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.executescript(SCHEMA)

    def publish(self, messages: Sequence[Sent]) -> None:
        rows = [(m.body, json.dumps(m.headers), m.key, m.message_id, m.timestamp or 1.0) for m in messages]
        with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
            connection.executemany(INSERT, rows)

    def publish_odd(self) -> Sequence[bytes]:
        insert = (
            "INSERT INTO missive_queue (queue, body, headers, key, topic, message_id, content_type, sent_at)"
            " VALUES ('q', ?, ?, CAST(? AS TEXT), ?, ?, ?, ?)"
        )
        rows = [(b"odd-%d" % number, *row) for number, row in enumerate(ODD)]
        with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
            connection.executemany(insert, rows)
            connection.execute("UPDATE missive_queue SET key = x'ff' WHERE body = ?", (b"odd-0",))
            connection.execute("UPDATE missive_queue SET deliveries = 'many' WHERE body = ?", (b"odd-1",))
            connection.execute("UPDATE missive_queue SET deliveries = 9223372036854775807 WHERE body = ?", (b"odd-2",))
        return [row[0] for row in rows]

    def delete_all(self) -> bool:
        with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
            connection.execute("DELETE FROM missive_queue")
        return True

    def destroy(self) -> bool:
        with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
            connection.execute("DROP TABLE missive_queue")
        self.create()
        return True

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
