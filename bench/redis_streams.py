"""Compare Missive on Redis Streams with loops that use redis-py and hiredis alone, in one run, on 190 bytes of JSON.

A bare loop reads 100 entries (or 500) with XREADGROUP, decodes them, and acks them with one XACK. The rounds are
interleaved, each ends with the answer to the last ack, and the medians are compared. MISSIVE_BENCH_ROUNDS (7) and
MISSIVE_BENCH_MESSAGES (400000) set the length of the run.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import redis
from bench import loop
from bench.loop import BODY, decode

from tests.support.ports import HOST
from tests.support.redis import RedisServer

ROUNDS = int(os.environ.get("MISSIVE_BENCH_ROUNDS", "7"))
MESSAGES = int(os.environ.get("MISSIVE_BENCH_MESSAGES", "400000"))


def publish(server: RedisServer) -> None:
    with server.client() as client:
        client.config_set("appendfsync", "everysec")
        pipe = client.pipeline(transaction=False)
        for number in range(MESSAGES):
            pipe.xadd("bench", {"data": BODY})
            if number % 10_000 == 0:
                pipe.execute()
        pipe.execute()


def bare(server: RedisServer, group: str, count: int) -> float:
    client = redis.Redis(host=HOST, port=server.port, protocol=2)
    client.xgroup_create("bench", group, "0")
    seen, started = 0, time.perf_counter()
    while seen < MESSAGES:
        ((_, entries),) = client.xreadgroup(group, "c", {"bench": ">"}, count=count)
        for _, fields in entries:
            if decode(fields[b"data"])["type"] != "order.placed":
                raise SystemExit("a message of another type")
        client.xack("bench", group, *[entry for entry, _ in entries])
        seen += len(entries)
    elapsed = time.perf_counter() - started
    client.close()
    return elapsed


def with_missive(server: RedisServer, group: str) -> float:
    return loop.with_missive(server.url("bench", group, create="true"), MESSAGES)


def main() -> None:
    if not RedisServer.available():
        sys.exit("redis-server is not installed: run scripts/install-brokers")
    sides: dict[str, Any] = {
        "bare, XREADGROUP 100": lambda server, group: bare(server, group, 100),
        "bare, XREADGROUP 500": lambda server, group: bare(server, group, 500),
        "Missive": with_missive,
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    cpus: dict[str, list[float]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as directory, RedisServer(Path(directory)) as server:
        publish(server)
        for number in range(ROUNDS):
            for name, side in sides.items():
                cpu = time.process_time()
                rates[name].append(MESSAGES / side(server, f"{name} {number}".replace(" ", "-").replace(",", "")))
                cpus[name].append((time.process_time() - cpu) / MESSAGES)
    for name, found in rates.items():
        print(
            f"{name:<24}{statistics.median(found):>9,.0f} messages/s (min {min(found):,.0f}, max {max(found):,.0f}),"
            f" {statistics.median(cpus[name]) * 1e6:.1f} µs of CPU a message"
        )
    base = max(statistics.median(found) for name, found in rates.items() if name.startswith("bare"))
    print(f"Missive / fastest bare loop: {statistics.median(rates['Missive']) / base:.2f} (the bar is 0.75)")


if __name__ == "__main__":
    main()
