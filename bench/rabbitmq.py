"""Compare Missive on RabbitMQ with loops that use pika alone, in one run, on persistent messages of 190 bytes of JSON.

Every side uses the same decoder and acks in batches. The rounds are interleaved, each ends when the broker has received
the last settlement, and the medians are compared. MISSIVE_BENCH_ROUNDS (7) and MISSIVE_BENCH_MESSAGES (100000) set the
length of the run.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pika
from bench import loop
from bench.loop import BODY, decode
from pika.adapters.asyncio_connection import AsyncioConnection

from missive.engine.runner import loop_factory
from tests.support.rabbitmq import RabbitMQ

ROUNDS = int(os.environ.get("MISSIVE_BENCH_ROUNDS", "7"))
MESSAGES = int(os.environ.get("MISSIVE_BENCH_MESSAGES", "100000"))
BATCH, PREFETCH = 100, 1000


def publish(url: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.queue_declare("bench", durable=True)
    for number in range(MESSAGES):
        channel.basic_publish(
            "", "bench", BODY, pika.BasicProperties(delivery_mode=2, message_id=str(number), type="order.placed")
        )
    while waiting(channel) < MESSAGES:
        connection.sleep(0.05)
    connection.sleep(1)  # the broker finishes its writes
    connection.close()


def waiting(channel: Any) -> int:
    return int(channel.queue_declare("bench", durable=True, passive=True).method.message_count)


def consumer(done: Callable[[Any], None]) -> Callable[..., None]:
    """Return the callback of a bare loop. It decodes each message, and acks each hundredth with all before it."""
    seen = 0

    def on_message(channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        nonlocal seen
        decode(body)
        seen += 1
        if seen % BATCH == 0:
            channel.basic_ack(method.delivery_tag, multiple=True)
        if seen == MESSAGES:
            done(channel)

    return on_message


def bare_blocking(url: str) -> float:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=PREFETCH)
    started = time.perf_counter()
    channel.basic_consume("bench", consumer(lambda channel: channel.stop_consuming()))
    channel.start_consuming()
    connection.close()
    return time.perf_counter() - started


def bare_select(url: str) -> float:
    started = 0.0

    def on_channel(channel: Any) -> None:
        nonlocal started
        channel.basic_qos(prefetch_count=PREFETCH)
        started = time.perf_counter()
        channel.basic_consume("bench", consumer(lambda channel: channel.connection.close()))

    connection = pika.SelectConnection(
        pika.URLParameters(url),
        on_open_callback=lambda connection: connection.channel(on_open_callback=on_channel),
        on_close_callback=lambda connection, _: connection.ioloop.stop(),
    )
    connection.ioloop.start()
    return time.perf_counter() - started


def bare_asyncio(url: str) -> float:
    started = 0.0

    def on_channel(channel: Any) -> None:
        nonlocal started
        channel.basic_qos(prefetch_count=PREFETCH)
        started = time.perf_counter()
        channel.basic_consume("bench", consumer(lambda channel: channel.connection.close()))

    async def consume() -> None:
        closed = asyncio.get_running_loop().create_future()
        AsyncioConnection(
            pika.URLParameters(url),
            on_open_callback=lambda connection: connection.channel(on_open_callback=on_channel),
            on_close_callback=lambda _connection, _reason: closed.set_result(None),
        )
        await closed

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(consume())
    return time.perf_counter() - started


def with_missive(url: str, parameters: str = f"&prefetch={PREFETCH}") -> float:
    return loop.with_missive(f"{url}?queue=bench{parameters}", MESSAGES)


def main() -> None:
    if not RabbitMQ.available():
        sys.exit("rabbitmq-server is not installed: run scripts/install-brokers")
    sides = {
        "bare pika, blocking": bare_blocking,
        "bare pika, select": bare_select,
        "bare pika, asyncio": bare_asyncio,
        "Missive": with_missive,
        "Missive, default": lambda url: with_missive(url, ""),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    cpus: dict[str, list[float]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as directory, RabbitMQ(Path(directory)) as broker:
        for _ in range(ROUNDS):
            for name, side in sides.items():
                publish(broker.url())
                cpu = time.process_time()
                rates[name].append(MESSAGES / side(broker.url()))
                cpus[name].append((time.process_time() - cpu) / MESSAGES)
    for name, found in rates.items():
        print(
            f"{name:<22}{statistics.median(found):>9,.0f} messages/s (min {min(found):,.0f}, max {max(found):,.0f}),"
            f" {statistics.median(cpus[name]) * 1e6:.1f} µs of CPU a message"
        )
    fastest = max(statistics.median(found) for name, found in rates.items() if name.startswith("bare"))
    for name in (name for name in rates if name.startswith("Missive")):
        print(f"{name} / fastest bare loop: {statistics.median(rates[name]) / fastest:.2f} (the bar is 0.9)")
    print(f"All sides have a prefetch of {PREFETCH}, except the default, which is the adapter's smaller prefetch.")


if __name__ == "__main__":
    main()
