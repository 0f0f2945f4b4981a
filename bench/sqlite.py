"""Missive's SQLite queue beside a bare loop that claims and deletes, in the same run: the same table, on a real disk.

The bare loop leases five hundred rows in one transaction, decodes them, and deletes them in another; so does one that
leases a thousand. Both sync each transaction, as Missive does. Each side is timed until its last row is deleted, in
interleaved rounds; medians are compared. MISSIVE_BENCH_ROUNDS (7), MISSIVE_BENCH_MESSAGES (200000) and
MISSIVE_BENCH_DIRECTORY (where the file is; by default the working directory) change what is done.
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

import missive
from missive.adapters import from_url
from missive.adapters.sqlite import SCHEMA
from missive.engine.lifecycle import Engine
from missive.engine.run import execute
from missive.matchers import Field

ROUNDS = int(os.environ.get("MISSIVE_BENCH_ROUNDS", "7"))
MESSAGES = int(os.environ.get("MISSIVE_BENCH_MESSAGES", "200000"))
DIRECTORY = os.environ.get("MISSIVE_BENCH_DIRECTORY", ".")
BODY = (
    b'{"type":"order.placed","id":"7f9c24e8-3b12-4fef-91d0-56a2d5a4f1c8","customer":"c-1029384756",'
    b'"total":129.95,"currency":"SEK","lines":[{"sku":"A-1000","qty":2},{"sku":"B-2000","qty":1}],"x":1}'
)
decode = msgspec.json.Decoder().decode

CLAIM = """\
UPDATE missive_queue SET visible_at = ?, lease = ?, deliveries = deliveries + 1 WHERE id IN (
    SELECT id FROM missive_queue WHERE queue = 'bench' AND visible_at <= ? ORDER BY visible_at, id LIMIT ?
) RETURNING id, body
"""
DELETE = "DELETE FROM missive_queue WHERE id IN (SELECT value FROM json_each(?)) AND lease = ?"


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def publish(path: Path) -> None:
    connection = connect(path)
    connection.executescript(SCHEMA)
    connection.execute("BEGIN")
    rows = (("bench", BODY) for _ in range(MESSAGES))
    connection.executemany("INSERT INTO missive_queue (queue, body) VALUES (?, ?)", rows)
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def bare(path: Path, count: int) -> float:
    connection = connect(path)
    seen, started = 0, time.perf_counter()
    while seen < MESSAGES:
        now, lease = time.time(), f"bare:{seen}"
        connection.execute("BEGIN IMMEDIATE")
        rows = connection.execute(CLAIM, (now + 30, lease, now, count)).fetchall()
        connection.execute("COMMIT")
        for _, body in rows:
            if decode(body)["type"] != "order.placed":
                raise SystemExit("a message of another type")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(DELETE, (json.dumps([row_id for row_id, _ in rows]), lease))
        connection.execute("COMMIT")
        seen += len(rows)
    elapsed = time.perf_counter() - started
    connection.close()
    return elapsed


def with_missive(path: Path) -> float:
    proc = missive.Processor(missive.JSONMessage, name="bench", dlq={})
    engines: list[Engine] = []
    started, seen = 0.0, 0

    @proc.handle_for(Field("type", "order.placed"))
    def handle(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        nonlocal started, seen
        started = started or time.perf_counter()
        seen += 1
        if seen == MESSAGES:
            engines[0].stop()

    (report,) = execute([from_url(f"sqlite:///{path}?queue=bench", proc)], watch=engines.extend)
    elapsed = time.perf_counter() - started
    if report.total_handled != MESSAGES:
        raise SystemExit("not every message was handled")
    return elapsed


def main() -> None:
    sides: dict[str, Callable[[Path], float]] = {
        "bare, 500 at a time": lambda path: bare(path, 500),
        "bare, 1000 at a time": lambda path: bare(path, 1000),
        "Missive": with_missive,
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    cpus: dict[str, list[float]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory(dir=DIRECTORY) as directory:
        for number in range(ROUNDS):
            for name, side in sides.items():
                path = Path(directory, f"{name}-{number}.db".replace(" ", "-").replace(",", "")).resolve()
                publish(path)
                cpu = time.process_time()
                rates[name].append(MESSAGES / side(path))
                cpus[name].append((time.process_time() - cpu) / MESSAGES)
                path.unlink()
    for name, found in rates.items():
        print(
            f"{name:<22}{statistics.median(found):>9,.0f} messages/s (min {min(found):,.0f}, max {max(found):,.0f}),"
            f" {statistics.median(cpus[name]) * 1e6:.1f} µs of CPU a message"
        )
    base = max(statistics.median(found) for name, found in rates.items() if name.startswith("bare"))
    print(f"Missive / fastest bare loop: {statistics.median(rates['Missive']) / base:.2f} (the bar is 0.7)")


if __name__ == "__main__":
    main()
