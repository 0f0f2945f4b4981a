"""A consumer timeout of the broker that is shorter than declared: it is learned, and messages that outlast it end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import pytest

from tests.support.process import Running
from tests.support.rabbitmq import RabbitMQ

pytestmark = pytest.mark.rabbitmq

SECONDS = 2
APPLICATION = """
import asyncio, os, time
import missive
from missive.matchers import Everything

proc = missive.Processor(name="app", concurrency=2)

@proc.handle_for(Everything())
KIND def handle(message, context):
    os.write(1, message.raw_data + b" %d\\n" % context.attempt)
    if message.raw_data == b"slow":
        SLEEP
"""
SYNC = APPLICATION.replace("KIND ", "").replace("SLEEP", "time.sleep(6)")
ASYNC = APPLICATION.replace("KIND", "async").replace("SLEEP", "await asyncio.sleep(600)")


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A node that closes a channel on which a message is unacked for two seconds."""
    settings = f", {{consumer_timeout, {SECONDS * 1000}}}, {{channel_tick_interval, 200}}"
    with RabbitMQ(tmp_path_factory.mktemp("impatient"), settings=settings) as node:
        yield node


def publish(broker: RabbitMQ, queue: str, *bodies: bytes) -> None:
    with broker.channel() as channel:
        for body in bodies:
            channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2))


@pytest.mark.parametrize("kind", ["classic", "quorum"])
@pytest.mark.parametrize("code", [SYNC, ASYNC], ids=["sync", "async"])
def test_a_message_that_outlasts_the_timeout_is_quarantined(
    impatient: RabbitMQ, missive: Callable[..., Running], tmp_path: Path, code: str, kind: str
):
    """The log has the broker's reason and the learned limit; the message becomes a dead letter at the third time."""
    queue = f"slow-{kind}-{code is SYNC}"
    with impatient.channel() as channel:
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": kind})
    (tmp_path / "app.py").write_text(code)
    publish(impatient, queue, b"slow", *(b"good-%d" % number for number in range(20)))
    process = missive("run", "app:proc", "--from", impatient.url(queue), "--dlq", "sqlite:///dlq.db")
    errors: list[str] = []
    with contextlib.suppress(AssertionError):
        while not any("becomes a dead letter" in line for line in errors):
            errors.append(process.error_line(60))
    publish(impatient, queue, b"last")
    lines: list[str] = []
    while "last 1" not in lines:
        lines.append(process.line(60).strip())
    out, err = process.terminate(60)
    log = "\n".join([*errors, err])
    lines += out.splitlines()
    assert process.code == 0, log
    assert "delivery acknowledgement on channel 1 timed out. Timeout value used: 2000 ms." in log
    assert log.count("the consumer timeout of the broker is 2 s, not 1800 s: set consumer_timeout=2") == 1
    for time in range(1, 4):
        assert f"app:handle: the lease of a message ended while its handler ran ({time} of 3 times)" in log
    assert log.count("the lease of a message ended 3 times while its handler ran, and it becomes a dead letter") == 1
    # A run that began late in its lease does not count. A quorum queue counts messages that went back unstarted too.
    attempts = [int(line.split()[1]) for line in lines if line.startswith("slow")]
    assert attempts == sorted(attempts)
    assert len(attempts) >= 3
    assert kind == "quorum" or set(attempts) == {1, 2, 3}
    assert {line.split()[0] for line in lines} == {"slow", "last", *(f"good-{number}" for number in range(20))}
    out, _ = missive("dlq", "list", "--dlq", "sqlite:///dlq.db", "--json").finish()
    assert [record["reason"] for record in json.loads(out)] == ["poison"]


def test_the_count_survives_a_restart(impatient: RabbitMQ, missive: Callable[..., Running], tmp_path: Path):
    """A process that is stopped after one lapse leaves its count to the next process."""
    queue = "slow-restart"
    with impatient.channel() as channel:
        channel.queue_declare(queue, durable=True)
    (tmp_path / "app.py").write_text(ASYNC)
    publish(impatient, queue, b"slow")
    for time in range(1, 4):
        process = missive(
            "run", "app:proc", "--from", impatient.url(queue), "--dlq", "sqlite:///dlq.db", "--drain", "0.1"
        )
        assert process.line().strip() == f"slow {time}"
        while f"({time} of 3 times)" not in process.error_line(30):
            pass
        process.terminate()
    process = missive("run", "app:proc", "--from", impatient.url(queue), "--dlq", "sqlite:///dlq.db")
    while "becomes a dead letter" not in process.error_line(30):
        pass
    out, err = process.terminate()
    assert (out, process.code) == ("", 0)
    assert "1 dead-lettered (1 poison)" in err
