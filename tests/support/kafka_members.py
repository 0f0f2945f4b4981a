"""Topics, members of a group, and worker processes for the tests of the Kafka adapter."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import missive
from missive.adapters import from_url
from missive.engine.engine import Engine
from missive.engine.runner import loop_factory
from missive.matchers import Everything
from tests.support.kafka import Kafka

QUICK = {"session__timeout__ms": 3000, "heartbeat__interval__ms": 300}
"""Parameters for rebalances within seconds. A double underscore stands for a dot."""

APPLICATION = """
import json, os, sys, time
import missive
from missive.matchers import Everything, by_key

ordered = {"ordered_by": by_key} if os.environ.get("ORDERED") else {}
proc = missive.Processor(name="app", concurrency=int(os.environ.get("CONCURRENCY", "1")))

@proc.handle_for(Everything(), **ordered)
def handle(message, context):
    os.write(1, (json.dumps([message.raw_data.decode(), message.key, context.native.partition()]) + "\\n").encode())
    if message.raw_data.decode() in os.environ.get("STUCK", "").split(","):
        time.sleep(3600)
    time.sleep(float(os.environ.get("SLEEP", "0")))
"""
"""The application of worker processes. Its handler prints the body, key and partition of each message as JSON."""


class Topic:
    """A new topic, and a new group that consumes it."""

    def __init__(self, broker: Kafka, partitions: int = 1, **config: str) -> None:
        self.broker = broker
        self.name, self.group = f"t-{uuid.uuid4().hex[:8]}", f"g-{uuid.uuid4().hex[:8]}"
        self.partitions = partitions
        broker.create(self.name, partitions, **config)

    def publish(self, bodies: Any, **options: Any) -> None:
        self.broker.publish(self.name, bodies, **options)

    def url(self, **parameters: object) -> str:
        return self.broker.url(self.name, self.group, **parameters)

    @property
    def lag(self) -> int:
        return self.broker.lag(self.name, self.group, self.partitions)

    @property
    def committed(self) -> list[int]:
        return self.broker.committed(self.name, self.group, self.partitions)


class Member:
    """An engine with one adapter, on its own thread. Async handlers run on the loop of another thread."""

    def __init__(self, proc: missive.Processor[Any], adapter: Any, concurrency: int = 1, drain: float = 10) -> None:
        self.handlers = asyncio.new_event_loop()
        self.engine = Engine(
            proc, [adapter], sink=None, concurrency=concurrency, drain=drain, handlers_loop=self.handlers
        )
        self.error: BaseException | None = None
        self._threads = [
            threading.Thread(target=self.handlers.run_forever, daemon=True),
            threading.Thread(target=self._run, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(self.engine.main())
        except missive.MissiveError as error:
            self.error = error

    def stop(self) -> None:
        if self.handlers.is_closed():
            return
        self.engine.stop_once()
        self._threads[1].join(30)
        self.handlers.call_soon_threadsafe(self.handlers.stop)
        self._threads[0].join(10)
        self.handlers.close()
        assert not self._threads[1].is_alive()


@contextmanager
def member(topic: Topic, handle: Callable[..., Any], concurrency: int = 1, **settings: Any) -> Iterator[Member]:
    """Run a processor with one handler on a topic. Stop it at the end of the block."""
    parameters, drain = settings.pop("parameters", QUICK), settings.pop("drain", 10)
    proc = missive.Processor(name="app", concurrency=concurrency)
    proc.add_handler(Everything(), handle, **settings)
    running = Member(proc, from_url(topic.url(**parameters), proc), concurrency, drain)
    try:
        yield running
    finally:
        running.stop()
