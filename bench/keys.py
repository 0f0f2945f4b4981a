"""Order by key: what it costs to dispatch, and how much of the concurrency is left, beside the same without order."""

from __future__ import annotations

import asyncio
import bisect
import itertools
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.engine import Counted

import missive
from missive.engine.runner import execute
from missive.matchers import Everything, by_header
from missive.testing import MemoryAdapter
from missive.transport import Delivery

ROUNDS = 5
CONCURRENCY = 100
HANDLER_SECONDS = 0.001
BAR = 0.8


async def sleeps(message: missive.RawMessage, context: missive.HandlingContext) -> None:
    await asyncio.sleep(HANDLER_SECONDS)


def nothing(message: missive.RawMessage, context: missive.HandlingContext) -> None:
    pass


def rate(
    keys: Sequence[str],
    handler: Callable[..., Any],
    *,
    ordered: bool,
    concurrency: int = CONCURRENCY,
) -> float:
    """Return the messages a second of a run, one message for each of the keys."""
    proc = missive.Processor(name="bench", dlq={}, concurrency=concurrency)
    proc.add_handler(Everything(), handler, ordered_by=by_header("key") if ordered else None)
    adapter = MemoryAdapter(proc, [Delivery(b"", headers=(("key", key),)) for key in keys])
    adapter.settled = Counted()
    started = time.perf_counter()
    (report,) = execute([adapter])
    elapsed = time.perf_counter() - started
    if report.total_handled != len(keys):
        raise SystemExit("not every message was handled")
    return len(keys) / elapsed


def zipf(count: int, keys: int) -> list[str]:
    """Draw keys of which the n-th is 1/n as frequent as the first."""
    weights = list(itertools.accumulate(1 / n for n in range(1, keys + 1)))
    draw = random.Random(1).random
    return [f"k{bisect.bisect(weights, draw() * weights[-1])}" for _ in range(count)]


def handler_seconds() -> float:
    """Return how long the handler takes alone: a loop's timer is never exact."""
    return 1 / statistics.median(rate(["k"] * 500, sleeps, ordered=True, concurrency=1) for _ in range(ROUNDS))


def overlap(name: str, keys: Sequence[str], alone: float) -> None:
    share = max(keys.count(key) for key in set(keys[:1000])) / len(keys)
    pairs = [(rate(keys, sleeps, ordered=False), rate(keys, sleeps, ordered=True)) for _ in range(ROUNDS)]
    unordered = statistics.median(one for one, _ in pairs)
    ordered = statistics.median(other for _, other in pairs)
    most = min(unordered, 1 / (share * alone))
    print(
        f"{name}: {ordered:,.0f} a second in order, {unordered:,.0f} without; the hottest key has {share:.2%}, so that"
        f" at the most {most:,.0f} can be: {ordered / most:.2f}× (bar {BAR})"
    )


def main() -> None:
    alone = handler_seconds()
    print(f"a handler of {HANDLER_SECONDS * 1e3:g} ms takes {alone * 1e3:.2f} ms alone; concurrency {CONCURRENCY}")
    overlap("1,000 keys, uniform", [f"k{n % 1000}" for n in range(30_000)], alone)
    overlap("1,000 keys, Zipf", zipf(20_000, 1000), alone)
    print("dispatch, a handler that does nothing:")
    count = 100_000
    counts = (10, 1000, 100_000)
    runs: dict[int, list[float]] = {keys: [] for keys in (0, *counts)}
    for _ in range(ROUNDS):
        runs[0].append(1 / rate(["k"] * count, nothing, ordered=False, concurrency=1))
        for keys in counts:
            runs[keys].append(1 / rate([f"k{n % keys}" for n in range(count)], nothing, ordered=True, concurrency=1))
    for keys in counts:
        cost = statistics.median(runs[keys])
        print(
            f"  {keys:,} keys: {cost * 1e6:.2f} µs a message, {cost / statistics.median(runs[0]):.2f}× without order,"
            f" {cost / statistics.median(runs[counts[0]]):.2f}× that of {counts[0]} keys"
        )


if __name__ == "__main__":
    main()
