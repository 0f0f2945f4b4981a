"""Compare Missive with FastStream and the fastest bare loop, in one run, on RabbitMQ, Redis Streams and Kafka.

FastStream runs in a separate environment, which `scripts/bench --peers` creates. MISSIVE_BENCH_PEERS is the interpreter
of this environment. The rounds are interleaved, each starts with the first message, and the medians are compared.
MISSIVE_BENCH_ROUNDS (3) and MISSIVE_BENCH_MESSAGES (50000) set the length of the run.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import kafka, loop, rabbitmq, redis_streams

from tests.support.kafka import Kafka
from tests.support.ports import HOST
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis import RedisServer

ROUNDS = int(os.environ.get("MISSIVE_BENCH_ROUNDS", "3"))
MESSAGES = int(os.environ.get("MISSIVE_BENCH_MESSAGES", "50000"))
PEERS = os.environ.get("MISSIVE_BENCH_PEERS", "")
SIDES = ("bare", "Missive", "FastStream")


def faststream(transport: str, url: str) -> tuple[float, float]:
    """Return the time that FastStream takes for all messages and its CPU time, in seconds."""
    command = [PEERS, str(Path(__file__).with_name("faststream_peer.py")), transport, url, str(MESSAGES)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if ran.returncode:
        raise SystemExit(ran.stderr)
    wall, cpu = ran.stdout.split()
    return float(wall), float(cpu)


def in_process(side: Callable[[], float]) -> tuple[float, float]:
    cpu = time.process_time()
    return side(), time.process_time() - cpu


@contextmanager
def on_rabbitmq(directory: Path) -> Iterator[Callable[[str, int], tuple[float, float]]]:
    rabbitmq.MESSAGES = MESSAGES
    with RabbitMQ(directory) as broker:

        def side(name: str, _number: int) -> tuple[float, float]:
            rabbitmq.publish(broker.url())
            if name == "FastStream":
                return faststream("rabbitmq", broker.url())
            parameters = f"&prefetch={rabbitmq.PREFETCH}"
            if name == "Missive":
                return in_process(lambda: rabbitmq.with_missive(broker.url(), parameters))
            return in_process(lambda: rabbitmq.bare_select(broker.url()))

        yield side


@contextmanager
def on_redis(directory: Path) -> Iterator[Callable[[str, int], tuple[float, float]]]:
    redis_streams.MESSAGES = MESSAGES
    with RedisServer(directory) as server:
        redis_streams.publish(server)

        def side(name: str, number: int) -> tuple[float, float]:
            if name == "FastStream":
                with server.client() as client:
                    for group in client.xinfo_groups("bench"):
                        client.xgroup_destroy("bench", group["name"])
                    client.xgroup_create("bench", "faststream", "0")
                return faststream("redis", f"redis://{HOST}:{server.port}/0")
            if name == "Missive":
                return in_process(lambda: redis_streams.with_missive(server, f"missive-{number}"))
            return in_process(lambda: redis_streams.bare(server, f"bare-{number}", 500))

        yield side


@contextmanager
def on_kafka(directory: Path) -> Iterator[Callable[[str, int], tuple[float, float]]]:
    with Kafka(directory) as broker:

        def side(name: str, number: int) -> tuple[float, float]:
            if name == "FastStream":
                return faststream("kafka", broker.servers)
            run = kafka.single if name == "Missive" else kafka.bare
            return in_process(lambda: run(broker, "bench", MESSAGES))

        broker.create("bench")
        broker.publish("bench", (loop.BODY for _ in range(MESSAGES)))
        yield side


def main() -> None:
    if not PEERS:
        sys.exit("MISSIVE_BENCH_PEERS is not set: run scripts/bench --peers")
    brokers = {
        "RabbitMQ": (RabbitMQ, on_rabbitmq),
        "Redis Streams": (RedisServer, on_redis),
        "Kafka": (Kafka, on_kafka),
    }
    for transport, (broker, start) in brokers.items():
        if not broker.available():
            print(f"{transport} is not installed: run scripts/install-brokers")
            continue
        rates: dict[str, list[float]] = {name: [] for name in SIDES}
        cpus: dict[str, list[float]] = {name: [] for name in SIDES}
        with tempfile.TemporaryDirectory() as directory, start(Path(directory)) as side:
            for number in range(ROUNDS):
                for name in SIDES:
                    wall, cpu = side(name, number)
                    rates[name].append(MESSAGES / wall)
                    cpus[name].append(cpu / MESSAGES)
        for name, found in rates.items():
            print(
                f"{transport}, {name:<12}{statistics.median(found):>9,.0f} messages/s"
                f" (min {min(found):,.0f}, max {max(found):,.0f}),"
                f" {statistics.median(cpus[name]) * 1e6:.1f} µs of CPU a message"
            )
        bare, missive, peer = (statistics.median(rates[name]) for name in SIDES)
        print(
            f"{transport}: {missive / peer:.1f}× FastStream, {missive / bare:.2f}× bare"
            " (the bar is the smaller of 4× the one and 0.9× the other)"
        )


if __name__ == "__main__":
    main()
