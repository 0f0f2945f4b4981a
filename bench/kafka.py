"""Compare Missive with a plain `consume(500)` loop of confluent-kafka: a real broker, JSON messages of 190 bytes.

All candidates use the same decoder. The time ends with the reply to the last commit. Rounds are interleaved, and the
result compares medians. MISSIVE_BENCH_ROUNDS (7) and MISSIVE_BENCH_MESSAGES (600000) set the length of the run.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.loop import BODY, decode
from confluent_kafka import Consumer, TopicPartition

import missive
from missive.adapters import from_url
from missive.engine.engine import Engine
from missive.engine.runner import execute
from missive.matchers import Field, by_key
from tests.support.kafka import Kafka

ROUNDS = int(os.environ.get("MISSIVE_BENCH_ROUNDS", "7"))
MESSAGES = int(os.environ.get("MISSIVE_BENCH_MESSAGES", "600000"))
KEYED = max(2000, MESSAGES // 15)
KEYS, CONCURRENCY = 1000, 100


def bare(kafka: Kafka, topic: str, messages: int) -> float:
    """Consume chunks of 500, decode each message, check its type, and commit each chunk without waiting."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.servers,
            "group.id": uuid.uuid4().hex,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([topic])
    seen, started = 0, 0.0
    while seen < messages:
        chunk = consumer.consume(500, 1.0)
        if chunk and not started:
            started = time.perf_counter()
        for message in chunk:
            if decode(message.value())["type"] != "order.placed":
                raise SystemExit("a message has another type")
        seen += len(chunk)
        if chunk:
            consumer.commit(asynchronous=True)
    consumer.commit(asynchronous=False)
    elapsed = time.perf_counter() - started
    consumer.close()
    return elapsed


def run(kafka: Kafka, topic: str, proc: missive.Processor[Any], messages: int, concurrency: int = 1) -> float:
    """Run a processor on all messages. Return the seconds from the first message to the last commit."""
    engines: list[Engine] = []
    times = [0.0]

    def first(*_: Any) -> None:
        times[0] = times[0] or time.perf_counter()

    proc.counted = Counter(messages, first, lambda: engines[0].stop())  # noqa: PLW0108 - the engine does not exist yet  # type: ignore[attr-defined]
    (report,) = execute(
        [from_url(kafka.url(topic, uuid.uuid4().hex), proc)], concurrency=concurrency, watch=engines.extend
    )
    elapsed = time.perf_counter() - times[0]
    if report.total_handled != messages:
        raise SystemExit(f"{report.total_handled} of {messages} messages were handled")
    return elapsed


class Counter:
    """A counter of handled messages. The first message starts the clock, and the last message stops the engine."""

    def __init__(self, messages: int, first: Callable[[], None], last: Callable[[], None]) -> None:
        self._left = messages
        self._first, self._last = first, last

    def add(self, count: int = 1) -> None:
        self._first()
        self._left -= count
        if not self._left:
            self._last()


def single(kafka: Kafka, topic: str, messages: int) -> float:
    proc = missive.Processor(missive.JSONMessage, name="bench", dlq={})

    @proc.handle_for(Field("type", "order.placed"))
    def handle(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        proc.counted.add()  # type: ignore[attr-defined]

    return run(kafka, topic, proc, messages)


def batched(kafka: Kafka, topic: str, messages: int) -> float:
    proc = missive.Processor(missive.JSONMessage, name="bench", dlq={})

    @proc.handle_batch_for(Field("type", "order.placed"), size=500)
    def handle(batch: missive.Batch[missive.JSONMessage]) -> None:
        proc.counted.add(len(batch))  # type: ignore[attr-defined]

    return run(kafka, topic, proc, messages)


def keyed(kafka: Kafka, topic: str, messages: int, concurrency: int) -> float:
    """Handle 1,000 keys, each in order, with handlers of one millisecond."""
    proc = missive.Processor(missive.JSONMessage, name="bench", dlq={}, concurrency=concurrency)

    @proc.handle_for(Field("type", "order.placed"), ordered_by=by_key)
    async def handle(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        await asyncio.sleep(0.001)
        proc.counted.add()  # type: ignore[attr-defined]

    return run(kafka, topic, proc, messages, concurrency)


def main() -> None:
    if not Kafka.available():
        sys.exit("Apache Kafka is not installed. Run scripts/install-brokers")
    sides: dict[str, Callable[[Kafka, str, int], float]] = {
        "bare consume(500)": bare,
        "Missive": single,
        "Missive, batches of 500": batched,
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    cpus: dict[str, list[float]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as directory, Kafka(Path(directory)) as kafka:
        kafka.create("bench")
        kafka.publish("bench", (BODY for _ in range(MESSAGES)))
        for _ in range(ROUNDS):
            for name, side in sides.items():
                cpu = time.process_time()
                rates[name].append(MESSAGES / side(kafka, "bench", MESSAGES))
                cpus[name].append((time.process_time() - cpu) / MESSAGES)
        for name, found in rates.items():
            print(
                f"{name:<26}{statistics.median(found):>9,.0f} messages/s"
                f" (min {min(found):,.0f}, max {max(found):,.0f}),"
                f" {statistics.median(cpus[name]) * 1e6:.1f} µs of CPU a message"
            )
        base = statistics.median(rates["bare consume(500)"])
        for name, bar in (("Missive", 0.5), ("Missive, batches of 500", 0.9)):
            print(f"{name} / bare: {statistics.median(rates[name]) / base:.2f} (the bar is {bar})")
        kafka.create("keys")
        kafka.publish("keys", (BODY for _ in range(KEYED)), key=lambda n: b"%d" % (n % KEYS))
        alone = _sequential(kafka)
        together = KEYED / keyed(kafka, "keys", KEYED, CONCURRENCY)
        print(
            f"{KEYS:,} keys in order on one partition, handlers of 1 ms, concurrency {CONCURRENCY}:"
            f" {together:,.0f} messages/s, {together / alone:.0f}× the sequential loop (the bar is 30×)"
        )


def _sequential(kafka: Kafka) -> float:
    """Return the messages per second of a loop that waits one millisecond for each message."""
    consumer = Consumer({"bootstrap.servers": kafka.servers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False})
    consumer.assign([TopicPartition("keys", 0, 0)])

    async def loop() -> float:
        seen, started = 0, time.perf_counter()
        while seen < min(KEYED, 2000):
            for message in consumer.consume(500, 1.0):
                decode(message.value())
                await asyncio.sleep(0.001)
                seen += 1
        return seen / (time.perf_counter() - started)

    try:
        return asyncio.run(loop())
    finally:
        consumer.close()


if __name__ == "__main__":
    main()
