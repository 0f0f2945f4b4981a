"""Send a million messages through each transport, and compare the memory at the end with the memory at the start.

The application has one sync handler with a field matcher, and retries every hundredth message once. The resident memory
is sampled after each twentieth of the messages. MISSIVE_BENCH_MESSAGES (1000000) is the number of messages, and
MISSIVE_BENCH_TRANSPORTS lists transports among memory, sqlite, rabbitmq, redis and kafka.
"""

from __future__ import annotations

import gc
import os
import resource
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import rabbitmq, redis_streams, sqlite
from bench.loop import BODY

import missive
from missive.adapters import from_url
from missive.adapters.base import Adapter
from missive.engine.engine import Engine
from missive.engine.runner import execute
from missive.matchers import Field
from missive.testing import MemoryAdapter
from missive.transport import Delivery
from tests.support.kafka import Kafka
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis import RedisServer

MESSAGES = int(os.environ.get("MISSIVE_BENCH_MESSAGES", "1000000"))
TRANSPORTS = os.environ.get("MISSIVE_BENCH_TRANSPORTS", "memory,sqlite,rabbitmq,redis,kafka").split(",")
SAMPLES = 20
MIB = 1024 * 1024

Make = Callable[[missive.Processor[Any]], Adapter]


class Endless(MemoryAdapter):
    """A source that makes messages when they are fetched, and stores neither messages nor settlements."""

    def __init__(self, processor: missive.Processor[Any]) -> None:
        super().__init__(processor)
        self.waiting = Many()  # type: ignore[assignment]
        self.settled = Nothing()


class Many:
    def __init__(self) -> None:
        self.left = MESSAGES

    def __len__(self) -> int:
        return self.left

    def popleft(self) -> Delivery:
        self.left -= 1
        return Delivery(BODY)

    def extend(self, released: list[Delivery]) -> None:
        self.left += len(released)


class Nothing(list[Any]):
    def extend(self, items: Any) -> None:
        pass


def resident() -> float:
    """Return the current resident memory, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


@contextmanager
def on_memory(_directory: Path) -> Iterator[Make]:
    yield Endless


@contextmanager
def on_sqlite(directory: Path) -> Iterator[Make]:
    sqlite.MESSAGES = MESSAGES
    sqlite.publish(directory / "queue.db")
    yield lambda proc: from_url(f"sqlite:///{directory / 'queue.db'}?queue=bench", proc)


@contextmanager
def on_rabbitmq(directory: Path) -> Iterator[Make]:
    rabbitmq.MESSAGES = MESSAGES
    with RabbitMQ(directory) as broker:
        rabbitmq.publish(broker.url())
        yield lambda proc: from_url(f"{broker.url()}?queue=bench&prefetch={rabbitmq.PREFETCH}", proc)


@contextmanager
def on_redis(directory: Path) -> Iterator[Make]:
    redis_streams.MESSAGES = MESSAGES
    with RedisServer(directory) as server:
        redis_streams.publish(server)
        yield lambda proc: from_url(server.url("bench", "soak", create="true"), proc)


@contextmanager
def on_kafka(directory: Path) -> Iterator[Make]:
    with Kafka(directory) as broker:
        broker.create("bench", partitions=4)
        broker.publish("bench", (BODY for _ in range(MESSAGES)))
        yield lambda proc: from_url(broker.url("bench", uuid.uuid4().hex), proc)


def soak(make: Make) -> tuple[list[float], float]:
    """Return the samples, in MiB, and the duration, in seconds."""
    proc = missive.Processor(missive.JSONMessage, name="soak", dlq={})
    engines: list[Engine] = []
    samples: list[float] = []
    seen = done = 0

    @proc.handle_for(Field("type", "order.placed"))
    def handle(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        nonlocal seen, done
        seen += 1
        if seen % 100 == 0 and context.attempt == 1:
            context.retry(0)
            return
        done += 1
        if done % (MESSAGES // SAMPLES) == 0:
            gc.collect()
            samples.append(resident())
        if done == MESSAGES:
            engines[0].stop()

    started = time.perf_counter()
    (report,) = execute([make(proc)], watch=engines.extend)
    if report.total_handled != MESSAGES:
        raise SystemExit(f"{report.total_handled} of {MESSAGES} messages were handled")
    return samples, time.perf_counter() - started


def main() -> None:
    transports = {
        "memory": on_memory,
        "sqlite": on_sqlite,
        "rabbitmq": on_rabbitmq,
        "redis": on_redis,
        "kafka": on_kafka,
    }
    for name in TRANSPORTS:
        with tempfile.TemporaryDirectory(dir=".") as directory, transports[name](Path(directory).resolve()) as make:
            samples, seconds = soak(make)
        quarter = len(samples) // 4
        print(
            f"{name:<9}{MESSAGES:>10,} messages in {seconds:,.0f} s; resident MiB: first {samples[0]:.1f},"
            f" maximum of the first quarter {max(samples[: quarter + 1]):.1f}, maximum of the last"
            f" {max(samples[-quarter:]):.1f}, last {samples[-1]:.1f}"
        )


if __name__ == "__main__":
    main()
