"""Worker processes on a real RabbitMQ broker: envelope, settlement and reconnects."""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pika
import pytest

from tests.conftest import wait_until
from tests.support.process import Running
from tests.support.rabbitmq import RabbitMQ

Start = Callable[..., Running]
pytestmark = pytest.mark.rabbitmq

APPLICATION = """
import json, os, sys, time
import missive
from missive.matchers import Everything

proc = missive.Processor(name="app", concurrency=int(os.environ.get("CONCURRENCY", "1")))

@proc.handle_for(Everything())
def handle(message, context):
    native = context.native
    sys.stdout.write(json.dumps({
        "body": message.raw_data.hex(), "id": message.message_id, "topic": message.topic, "key": message.key,
        "headers": {k: v if isinstance(v, str) else list(map(str, v)) if isinstance(v, tuple) else v.hex()
                    for k, v in message.headers.items()},
        "type": message.content_type, "at": message.timestamp, "attempt": context.attempt,
        "tag": native.method.delivery_tag, "correlation": native.properties.correlation_id,
        "open": context.adapter.call(lambda: context.adapter.client.is_open),
    }) + "\\n")
    sys.stdout.flush()
    time.sleep(float(os.environ.get("SLEEP", "0")))
"""


class Queue:
    """A new queue, used through pika without Missive."""

    def __init__(self, broker: RabbitMQ, arguments: dict[str, Any] | None = None) -> None:
        self.broker = broker
        self.name = f"q-{uuid.uuid4().hex[:8]}"
        self.url = broker.url(self.name)
        with self.channel() as channel:
            channel.queue_declare(self.name, durable=True, arguments=arguments)

    def channel(self) -> AbstractContextManager[Any]:
        return self.broker.channel()

    def publish(self, *bodies: bytes, **properties: Any) -> None:
        with self.channel() as channel:
            for body in bodies:
                channel.basic_publish("", self.name, body, pika.BasicProperties(delivery_mode=2, **properties))

    def waiting(self) -> int:
        with self.channel() as channel:
            return int(channel.queue_declare(self.name, passive=True).method.message_count)


@pytest.fixture
def work(missive: Start, tmp_path: Path) -> Callable[..., Running]:
    """Start a worker on a queue."""
    (tmp_path / "app.py").write_text(APPLICATION)

    def start(queue: Queue, **env: str) -> Running:
        return missive("run", "app:proc", "--from", queue.url, "--dlq", "sqlite:///dlq.db", env=env)

    return start


def stop(process: Running) -> str:
    _, err = process.terminate()
    assert process.code == 0
    return err


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_the_envelope_arrives(rabbitmq: RabbitMQ, work: Callable[..., Any], kind: str):
    """Body, id, headers of all types, topic, timestamp and native object arrive unchanged from both kinds of queue."""
    queue = Queue(rabbitmq, {"x-queue-type": kind})
    headers = {"Text": "é", "number": 7, "list": [1, "a"], "no": None, "yes": True}
    body = bytes(range(256))
    queue.publish(
        body, message_id="id-1", headers=headers, content_type="x/y", timestamp=1700000000, correlation_id="c"
    )
    queue.publish(b"")
    process = work(queue)
    wait_until(lambda: queue.waiting() == 0, "both fetched")
    lines = [json.loads(process.line()) for _ in range(2)]
    stop(process)
    first, second = lines
    assert first["headers"] == {"text": "é", "number": "7", "list": '[1, "a"]', "no": "null", "yes": "true"}
    expected = (body.hex(), "id-1", queue.name, "x/y", 1700000000, 1, "c", True)
    names = ("body", "id", "topic", "type", "at", "attempt", "correlation", "open")
    assert tuple(first[name] for name in names) == expected
    assert (second["body"], second["headers"]) == ("", {})
    assert queue.waiting() == 0


def test_a_drain_returns_unstarted_messages(rabbitmq: RabbitMQ, work: Callable[..., Any]):
    """On SIGTERM, the running message is acked, and all others return to the queue at once, in order."""
    queue = Queue(rabbitmq)
    queue.publish(*(b"%d" % n for n in range(20)))
    process = work(queue, SLEEP="0.5")
    process.line()
    err = stop(process)
    assert "1 handled, 0 dead-lettered, 19 given back unhandled" in err
    with queue.channel() as channel:
        bodies = [channel.basic_get(queue.name, auto_ack=True)[2] for _ in range(19)]
    assert bodies == [b"%d" % n for n in range(1, 20)]


def test_out_of_order_acks_settle_no_other_message(rabbitmq: RabbitMQ, work: Callable[..., Any]):
    """After a concurrent worker is killed, every unhandled message is redelivered, whatever was acked around it."""
    queue = Queue(rabbitmq)
    queue.publish(*(b"%d" % n for n in range(3000)))
    process = work(queue, CONCURRENCY="8", SLEEP="0.001")
    first = [json.loads(process.line())["body"] for _ in range(1000)]
    first += [json.loads(line)["body"] for line in process.kill()[0].splitlines()]
    process = work(queue, CONCURRENCY="8")
    handled, attempts = set(first), set()
    while handled != {(b"%d" % n).hex() for n in range(3000)}:
        line = json.loads(process.line())
        handled.add(line["body"])
        attempts.add(line["attempt"])
    stop(process)
    assert attempts == {1, 2}
    assert queue.waiting() == 0


def test_reconnects_after_the_broker_was_killed(rabbitmq: RabbitMQ, work: Callable[..., Any]):
    """After SIGKILL of the broker, the worker reports the failure once, reconnects and continues."""
    queue = Queue(rabbitmq)
    queue.publish(b"before")
    process = work(queue)
    assert json.loads(process.line())["body"] == b"before".hex()
    rabbitmq.kill()
    assert "the connection failed" in process.error_line()
    rabbitmq.start()
    with queue.channel() as channel:  # a killed node may forget a recent declaration
        channel.queue_declare(queue.name, durable=True)
    queue.publish(b"after")
    while json.loads(process.line())["body"] != b"after".hex():
        pass  # an ack may be lost with the broker, so a handled message may be redelivered
    err = stop(process)
    assert "is connected again" in err
    assert queue.waiting() == 0


def test_waits_for_a_missing_queue(rabbitmq: RabbitMQ, work: Callable[..., Any]):
    """A missing queue is reported once and retried. When it is declared, the worker consumes it."""
    queue = Queue(rabbitmq)
    with queue.channel() as channel:
        channel.queue_delete(queue.name)
    process = work(queue)
    assert f"there is no queue {queue.name}; trying again" in process.error_line()
    with queue.channel() as channel:
        channel.queue_declare(queue.name, durable=True)
    queue.publish(b"1")
    assert json.loads(process.line())["body"] == b"1".hex()
    stop(process)


def test_waits_for_a_deleted_queue(rabbitmq: RabbitMQ, work: Callable[..., Any]):
    """When the broker cancels the consumer, the worker notices and consumes the new queue of that name."""
    queue = Queue(rabbitmq)
    queue.publish(b"1")
    process = work(queue)
    process.line()
    with queue.channel() as channel:
        channel.queue_delete(queue.name)
        assert f"the queue {queue.name} is gone" in process.error_line()
        channel.queue_declare(queue.name, durable=True)
    queue.publish(b"2")
    assert json.loads(process.line())["body"] == b"2".hex()
    stop(process)


@pytest.mark.parametrize("answers", [1, 2])
def test_a_lost_handshake_is_transient(rabbitmq: RabbitMQ, missive: Start, tmp_path: Path, answers: int):
    """A connection that is lost during the login is transient: the broker did not refuse the user."""
    (tmp_path / "app.py").write_text(APPLICATION)
    with socket.create_server(("127.0.0.1", 0)) as relay:
        relay.settimeout(30)
        url = rabbitmq.url("q").replace(f":{rabbitmq.port}/", f":{relay.getsockname()[1]}/")
        process = missive("run", "app:proc", "--from", url, "--dlq", "sqlite:///d.db")
        client, _ = relay.accept()
        client.settimeout(30)
        with client, socket.create_connection(("127.0.0.1", rabbitmq.port), 30) as server:
            for _ in range(answers):
                server.sendall(client.recv(4096))
                client.sendall(server.recv(4096))
            client.recv(4096)
    assert "the connection failed while logging in; trying again" in process.error_line()
    stop(process)


def test_an_absent_broker_is_transient(missive: Start, tmp_path: Path):
    """An absent broker gives one line, and a signal ends the wait at once."""
    (tmp_path / "app.py").write_text(APPLICATION)
    process = missive(
        "run", "app:proc", "--from", "rabbitmq://u:hunter2@127.0.0.1:9/?queue=q", "--dlq", "sqlite:///d.db"
    )
    line = process.error_line()
    assert "rabbitmq://127.0.0.1:9/?queue=q: the connection failed" in line
    assert "hunter2" not in line
    stop(process)


def test_refuses_a_timeout_above_the_consumer_timeout(rabbitmq: RabbitMQ, missive: Start, tmp_path: Path):
    """A handler timeout above the consumer timeout fails the start with one line. Nothing is consumed."""
    (tmp_path / "app.py").write_text(APPLICATION)
    queue = Queue(rabbitmq)
    queue.publish(b"1")
    process = missive("run", "app:proc", "--from", f"{queue.url}&consumer_timeout=300", "--dlq", "sqlite:///dlq.db")
    _, err = process.finish()
    assert process.code == 1
    assert err.splitlines()[-1].endswith("but app:handle may take 600 s. Lower its timeout=.")
    wait_until(lambda: queue.waiting() == 1, "the message back in the queue")


def test_returns_messages_before_the_consumer_timeout(rabbitmq: RabbitMQ, missive: Start, tmp_path: Path):
    """Prefetched messages that waited too long return to the broker and are redelivered. Each is handled once."""
    (tmp_path / "app.py").write_text(APPLICATION.replace('name="app",', 'name="app", timeout=2,'))
    queue = Queue(rabbitmq)
    queue.publish(*(b"%d" % n for n in range(6)))
    url = f"{queue.url}&consumer_timeout=4&prefetch=10"
    process = missive("run", "app:proc", "--from", url, "--dlq", "sqlite:///dlq.db", env={"SLEEP": "1"})
    lines = [json.loads(process.line()) for _ in range(6)]
    stop(process)
    assert sorted(bytes.fromhex(line["body"]) for line in lines) == [b"%d" % n for n in range(6)]
    assert any(line["attempt"] > 1 for line in lines)  # returned and redelivered
    assert queue.waiting() == 0
