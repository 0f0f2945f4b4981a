"""Run FastStream as its documentation shows, on one transport. peers.py runs this file in a separate environment.

The fastest configuration is used: orjson, uvloop, no pydantic, no log lines. Print the time from the first message to
the last and the CPU time, in seconds.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
import uuid
from typing import Any

import orjson
import uvloop
from faststream.kafka import KafkaBroker
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue
from faststream.redis import RedisBroker, StreamSub


def broker_of(transport: str, url: str, handle: Any) -> Any:
    """Return a broker with one subscriber."""
    options: dict[str, Any] = {"logger": None, "apply_types": False, "decoder": decode}
    if transport == "rabbitmq":
        rabbit = RabbitBroker(url, default_channel=Channel(prefetch_count=1000), **options)
        rabbit.subscriber(RabbitQueue("bench", durable=True))(handle)
        return rabbit
    if transport == "redis":
        redis = RedisBroker(url, **options)
        redis.subscriber(stream=StreamSub("bench", group="faststream", consumer="c", max_records=500))(handle)
        return redis
    kafka = KafkaBroker(url, **options)
    kafka.subscriber("bench", group_id=uuid.uuid4().hex, auto_offset_reset="earliest")(handle)
    return kafka


async def decode(message: Any) -> Any:
    return orjson.loads(message.body)


async def main(transport: str, url: str, messages: int) -> None:
    logging.disable()
    done, seen = asyncio.Event(), 0
    started = cpu = 0.0

    async def handle(body: Any) -> None:
        nonlocal seen, started, cpu
        if not seen:
            started, cpu = time.perf_counter(), time.process_time()
        if body["type"] != "order.placed":
            raise SystemExit("a message of another type")
        seen += 1
        if seen == messages:
            done.set()

    broker = broker_of(transport, url, handle)
    await broker.start()
    await done.wait()
    print(time.perf_counter() - started, time.process_time() - cpu)
    await broker.stop()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
