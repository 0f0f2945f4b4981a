"""Missive beside the fastest bare loops on the same client, in the same run: RabbitMQ, persistent 190-byte JSON.

Every side decodes with the same decoder and acks in batches; each is timed until its last settlement is with the
broker, in interleaved rounds, and medians are compared. MISSIVE_BENCH_ROUNDS (7) and MISSIVE_BENCH_MESSAGES (100000)
make it shorter or longer.
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

import msgspec
import pika
from pika.adapters.asyncio_connection import AsyncioConnection

import missive
from missive.adapters import from_url
from missive.engine.lifecycle import Engine
from missive.engine.run import execute, loop_factory
from missive.matchers import Field
from tests.support.rabbitmq import RabbitMQ

ROUNDS = int(os.environ.get("MISSIVE_BENCH_ROUNDS", "7"))
MESSAGES = int(os.environ.get("MISSIVE_BENCH_MESSAGES", "100000"))
BATCH, PREFETCH = 100, 1000
BODY = (
    b'{"type":"order.placed","id":"7f9c24e8-3b12-4fef-91d0-56a2d5a4f1c8","customer":"c-1029384756",'
    b'"total":129.95,"currency":"SEK","lines":[{"sku":"A-1000","qty":2},{"sku":"B-2000","qty":1}],"x":1}'
)
decode = msgspec.json.Decoder().decode


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
    connection.sleep(1)  # the broker is done with writing them
    connection.close()


def waiting(channel: Any) -> int:
    return int(channel.queue_declare("bench", durable=True, passive=True).method.message_count)


def consumer(done: Callable[[Any], None]) -> Callable[..., None]:
    """The body of a bare loop: decode, and ack each hundredth with all before it."""
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
    """The same by Missive: a field matcher and a sync handler; stopped when the last is handled, and so drained."""
    proc = missive.Processor(missive.JSONMessage, name="bench", dlq={})
    engines: list[Engine] = []
    started, seen = 0.0, 0

    @proc.handle_for(Field("type", "order.placed"))
    def handle(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        nonlocal started, seen
        if not seen:
            started = time.perf_counter()
        seen += 1
        if seen == MESSAGES:
            engines[0].stop()

    original = Engine.__init__

    def noted(engine: Engine, *arguments: Any, **options: Any) -> None:
        original(engine, *arguments, **options)
        engines.append(engine)

    Engine.__init__ = noted  # type: ignore[method-assign]
    try:
        (report,) = execute([from_url(f"{url}?queue=bench{parameters}", proc)])
    finally:
        Engine.__init__ = original  # type: ignore[method-assign]
    elapsed = time.perf_counter() - started
    if report.total_handled != MESSAGES:
        raise SystemExit("not every message was handled")
    return elapsed


def main() -> None:
    if not RabbitMQ.available():
        sys.exit("rabbitmq-server was not found: scripts/install-brokers")
    sides = {
        "bare pika, blocking": bare_blocking,
        "bare pika, select": bare_select,
        "bare pika, asyncio": bare_asyncio,
        "Missive": with_missive,
        "Missive, as it comes": lambda url: with_missive(url, ""),
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
    print(f"with the same prefetch, {PREFETCH}; as it comes, with the adapter's own, which is smaller")


if __name__ == "__main__":
    main()
