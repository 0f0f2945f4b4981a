"""Compare the SQLite queue of Missive with a bare loop on the same table, in one run on a real disk.

The bare loop leases 500 rows (or 1000) in one transaction, decodes them, and deletes them in another transaction. Both
sides sync each transaction. The clock stops when the last row is deleted. Rounds are interleaved, and medians are
compared. Environment variables: MISSIVE_BENCH_ROUNDS (7), MISSIVE_BENCH_MESSAGES (200000), and
MISSIVE_BENCH_DIRECTORY (directory of the file; the working directory by default).
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

from bench import loop
from bench.loop import BODY, decode

from missive.adapters.sqlite import SCHEMA

ROUNDS = int(os.environ.get("MISSIVE_BENCH_ROUNDS", "7"))
MESSAGES = int(os.environ.get("MISSIVE_BENCH_MESSAGES", "200000"))
DIRECTORY = os.environ.get("MISSIVE_BENCH_DIRECTORY", ".")

LEASE = """\
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
        rows = connection.execute(LEASE, (now + 30, lease, now, count)).fetchall()
        connection.execute("COMMIT")
        for _, body in rows:
            if decode(body)["type"] != "order.placed":
                raise SystemExit("the message has an unexpected type")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(DELETE, (json.dumps([row_id for row_id, _ in rows]), lease))
        connection.execute("COMMIT")
        seen += len(rows)
    elapsed = time.perf_counter() - started
    connection.close()
    return elapsed


def with_missive(path: Path) -> float:
    return loop.with_missive(f"sqlite:///{path}?queue=bench", MESSAGES)


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
            f" {statistics.median(cpus[name]) * 1e6:.1f} µs of CPU per message"
        )
    base = max(statistics.median(found) for name, found in rates.items() if name.startswith("bare"))
    print(f"Missive / fastest bare loop: {statistics.median(rates['Missive']) / base:.2f} (the bar is 0.7)")


if __name__ == "__main__":
    main()
