"""Headers of any bytes on a real broker: each message arrives, and the session goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pika
import pytest

from tests.conftest import wait_until
from tests.support.amqp import ODD, REFUSED, raw_headers
from tests.support.process import Running
from tests.support.rabbitmq import RabbitMQ

pytestmark = pytest.mark.rabbitmq

APPLICATION = """
import json, sys
import missive
from missive.matchers import Everything

proc = missive.Processor(name="app")

@proc.handle_for(Everything())
def handle(message, context):
    properties = context.native.properties
    pairs = [(name, value if isinstance(value, str) else value.hex()) for name, value in message.headers.pairs]
    print(json.dumps([message.raw_data.decode(), pairs, len(properties.headers or {}), properties.delivery_mode]))
    sys.stdout.flush()
"""


UNMATCHED = """
import missive
from missive.matchers import Topic

proc = missive.Processor(name="app")

@proc.handle_for(Topic("none"))
def handle(message, context):
    pass
"""


@pytest.fixture
def work(missive: Callable[..., Running], tmp_path: Path) -> Callable[[str], Running]:
    (tmp_path / "app.py").write_text(APPLICATION)
    return lambda url: missive("run", "app:proc", "--from", url, "--dlq", "sqlite:///dlq.db")


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_odd_headers_arrive(rabbitmq: RabbitMQ, work: Callable[[str], Running], kind: str):
    """Every message is handled once with its headers as text, and `context.native.properties` can be read."""
    name = f"odd-{kind}"
    with rabbitmq.channel() as channel:
        channel.queue_declare(name, durable=True, arguments={"x-queue-type": kind})
        for body, (header, _) in ODD.items():
            channel.basic_publish("", name, body, raw_headers(header))
        channel.basic_publish("", name, b"plain", pika.BasicProperties(delivery_mode=2))
    odd = [body for body, value in REFUSED.items() if accepts(rabbitmq, name, body, value)]
    process = work(rabbitmq.url(name))
    lines = [json.loads(process.line()) for _ in range(len(ODD) + 1 + len(odd))]
    wait_until(lambda: waiting(rabbitmq, name) == 0, "all messages to be settled")
    _, err = process.terminate()
    assert process.code == 0
    assert f"{len(lines)} handled, 0 dead-lettered" in err
    assert err.count("headers of a message cannot be decoded") == 1
    assert "trying again" not in err
    found = {body.encode(): pairs for body, pairs, _, _ in lines}
    assert {body: value for body in ODD for _, value in found[body]} == {body: text for body, (_, text) in ODD.items()}
    assert all(count == 1 and mode == 2 for body, _, count, mode in lines if body.encode() in ODD)


def accepts(broker: RabbitMQ, queue: str, body: bytes, value: bytes) -> bool:
    """Publish a message with an invalid header, and return whether the broker accepts it."""
    try:
        with broker.channel() as channel:
            channel.basic_publish("", queue, body, raw_headers((b"h", value)))
    except pika.exceptions.AMQPError:
        return False
    return True


def waiting(broker: RabbitMQ, queue: str) -> int:
    with broker.channel() as channel:
        return int(channel.queue_declare(queue, passive=True).method.message_count)


def test_any_timestamp_can_be_filed_and_listed(rabbitmq: RabbitMQ, missive: Callable[..., Running], tmp_path: Path):
    """The property `timestamp` may be any number: the message arrives, becomes a dead letter, and can be shown."""
    (tmp_path / "app.py").write_text(UNMATCHED)
    timestamps = (1772000000000, (1 << 63) - 1, (1 << 64) - 1, 0)
    with rabbitmq.channel() as channel:
        channel.queue_declare("odd-timestamp", durable=True)
        for timestamp in timestamps:
            properties = pika.BasicProperties(delivery_mode=2, timestamp=timestamp)
            channel.basic_publish("", "odd-timestamp", b"%d" % timestamp, properties)
    process = missive("run", "app:proc", "--from", rabbitmq.url("odd-timestamp"), "--dlq", "sqlite:///dlq.db")
    wait_until(lambda: waiting(rabbitmq, "odd-timestamp") == 0, "all messages to be settled")
    _, err = process.terminate()
    assert process.code == 0
    assert "4 dead-lettered" in err
    out, _ = missive("dlq", "list", "--dlq", "sqlite:///dlq.db", "--json").finish()
    records = json.loads(out)
    assert len(records) == len(timestamps)
    for record in records:
        for mode in ((), ("--json",)):
            shown = missive("dlq", "show", record["id"], "--dlq", "sqlite:///dlq.db", *mode)
            _, err = shown.finish()
            assert (shown.code, err) == (0, "")
