"""The cost of one message through the engine, from an in-memory source, all in: JSON, a field, a handler."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import msgspec

import missive
from missive.adapters.contract import Delivery, Item
from missive.engine.run import execute
from missive.matchers import Field
from missive.testing import MemoryAdapter

MESSAGES = 100_000
ROUNDS = 5

BODY = (
    b'{"type":"order.placed","id":"7f9c24e8-3b12-4fef-91d0-56a2d5a4f1c8","customer":"c-1029384756",'
    b'"total":129.95,"currency":"SEK","lines":[{"sku":"A-1000","qty":2},{"sku":"B-2000","qty":1}],"note":"at door"}'
)


def sync_handler(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
    pass


async def async_handler(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
    pass


class Counted(list[Item]):
    """A ledger that only counts: a hundred thousand kept items would be measured as garbage collection."""

    def __init__(self) -> None:
        self.count = 0

    def extend(self, items: Any) -> None:
        self.count += len(items)


def per_message(handler: Callable[..., object]) -> tuple[float, float]:
    """Return the wall and the CPU seconds of a message."""
    proc = missive.Processor(missive.JSONMessage, name="bench", dlq={})
    proc.add_handler(Field("type", "order.placed"), handler)
    adapter = MemoryAdapter(proc, [Delivery(BODY) for _ in range(MESSAGES)])
    adapter.settled = ledger = Counted()
    gc.collect()
    gc.freeze()  # the messages that wait are the bench's, not the engine's
    started, cpu = time.perf_counter(), time.process_time()
    (report,) = execute([adapter])
    elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
    gc.unfreeze()
    if report.total_handled != MESSAGES or ledger.count != MESSAGES:
        raise SystemExit("not every message was handled and settled")
    return elapsed / MESSAGES, cpu / MESSAGES


def decode_cost() -> float:
    """What decoding the body alone costs here, for scaling figures between machines."""
    decode = msgspec.json.Decoder().decode
    started = time.perf_counter()
    for _ in range(MESSAGES):
        decode(BODY)
    return (time.perf_counter() - started) / MESSAGES


def main() -> None:
    decode = statistics.median(decode_cost() for _ in range(ROUNDS))
    print(f"decoding the {len(BODY)}-byte body alone: {decode * 1e6:.2f} µs")
    for name, handler in (("sync", sync_handler), ("async", async_handler)):
        runs = [per_message(handler) for _ in range(ROUNDS)]
        walls = [wall for wall, _ in runs]
        middle, cpu = statistics.median(walls), statistics.median(cpu for _, cpu in runs)
        print(
            f"engine, {name} handler: {middle * 1e6:.2f} µs a message (min {min(walls) * 1e6:.2f},"
            f" max {max(walls) * 1e6:.2f}), {cpu * 1e6:.2f} µs of CPU; {middle / decode:.1f}× its decoding"
        )
    orjson_on_the_reference = 0.7
    print(
        f"the bar of the design is 6 µs where decoding costs {orjson_on_the_reference} µs:"
        f" {6 * decode * 1e6 / orjson_on_the_reference:.1f} µs here"
    )


if __name__ == "__main__":
    main()
