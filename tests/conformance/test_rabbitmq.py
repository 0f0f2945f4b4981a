"""RabbitMQ passes the conformance suite, with classic and with quorum queues."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from missive import Processor
from missive.adapters.rabbitmq import RabbitMQAdapter
from missive.testing.conformance import Conformance, Harness, Sent
from missive.testing.conformance.catalogue import Case, all_cases
from tests.support.amqp import odd_properties
from tests.support.rabbitmq import RabbitMQ

pytestmark = pytest.mark.rabbitmq


class RabbitMQHarness(Harness):
    name = "rabbitmq (classic)"
    arguments: ClassVar[dict[str, Any]] = {}
    preserves = frozenset({"timestamp", "producer_id"})
    headers = frozenset({"text"})
    broker = True
    credentials = True
    redelivery_seconds = 8.0
    duplicates = 250  # the prefetch
    # The journal of acks of a classic queue, which is written when it is full or the queue is idle.
    forgotten_settlements = 32_768

    def __init__(self, node: RabbitMQ, queue: str | None = None) -> None:
        self.node = node
        self.queue = queue or f"q-{uuid.uuid4().hex[:8]}"

    def adapter(self, processor: Processor[Any], **options: Any) -> RabbitMQAdapter:
        host, port = options.pop("address", self.address)
        return RabbitMQAdapter(processor, self.queue, host=host, port=port, **options)

    def create(self) -> None:
        with self.node.channel() as channel:
            channel.queue_declare(self.queue, durable=True, arguments=self.arguments)

    def delete_all(self) -> bool:
        with self.node.channel() as channel:
            channel.queue_purge(self.queue)
        return True

    def destroy(self) -> bool:
        with self.node.channel() as channel:
            channel.queue_delete(self.queue)
        self.create()
        return True

    def publish(self, messages: Sequence[Sent]) -> None:
        """Publish all messages, then wait for all confirmations; each single wait would include a disk sync."""
        import pika

        open_tags = set(range(1, len(messages) + 1))

        def answered(frame: Any) -> None:
            assert isinstance(frame.method, pika.spec.Basic.Ack)
            tag = frame.method.delivery_tag
            open_tags.difference_update([one for one in open_tags if one <= tag] if frame.method.multiple else [tag])

        with self.node.channel() as confirming:
            channel = confirming.connection.channel()
            channel._impl.confirm_delivery(answered)
            for sent in messages:
                properties = pika.BasicProperties(
                    delivery_mode=2,
                    headers=dict(sent.headers) or None,
                    message_id=sent.message_id,
                    timestamp=None if sent.timestamp is None else int(sent.timestamp),
                )
                channel.basic_publish("", self.queue, sent.body, properties)
            deadline = time.monotonic() + 60
            while open_tags:
                assert time.monotonic() < deadline, f"{len(open_tags)} messages are not confirmed"
                channel.connection.process_data_events(0.005)

    def publish_odd(self) -> Sequence[bytes]:
        exchange = f"{self.queue}-odd"
        odd = odd_properties()
        with self.node.channel() as channel:
            for body, properties in odd.items():
                channel.basic_publish("", self.queue, body, properties)
            channel.exchange_declare(exchange, "fanout", auto_delete=True)
            channel.queue_bind(self.queue, exchange)
            for key in (b"\xff\xfe", b"\0", b"k" * 255):
                channel.basic_publish(exchange, key, key)
            channel.exchange_delete(exchange)
        return [*odd, b"\xff\xfe", b"\0", b"k" * 255]

    def remaining(self) -> int:
        with self.node.channel() as channel:
            return int(channel.queue_declare(self.queue, passive=True).method.message_count)

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.node.port)

    @property
    def url(self) -> str:
        return self.node.url(self.queue)

    def versions(self) -> str:
        import pika

        with self.node.channel() as channel:
            version = channel.connection._impl.server_properties["version"]
        return f"RabbitMQ {version}, pika {pika.__version__}"

    def kill(self) -> None:
        self.node.kill()

    def stop(self) -> None:
        self.node.stop()

    def start(self) -> None:
        self.node.start()

    def close(self) -> None:
        if self.node.pid is None:
            self.node.start()
        with self.node.channel() as channel:
            channel.queue_delete(self.queue)


class QuorumHarness(RabbitMQHarness):
    name = "rabbitmq (quorum)"
    arguments: ClassVar[dict[str, Any]] = {"x-queue-type": "quorum"}
    forgotten_settlements = 0


def declared(node: RabbitMQ, arguments: dict[str, Any]) -> list[str]:
    """Declare one queue for each case, and restart the node cleanly.

    A node stores a declaration after it has answered it, minutes later for a quorum queue. Without the restart, a
    SIGKILL may lose the queue itself, and RabbitMQ does not promise otherwise.
    """
    names = [f"q-{uuid.uuid4().hex[:8]}" for _ in all_cases()]
    with node.channel() as channel:
        for name in names:
            channel.queue_declare(name, durable=True, arguments=arguments)
    node.stop()
    node.start()
    return names


@pytest.fixture(scope="module")
def classic(rabbitmq: RabbitMQ) -> list[str]:
    return declared(rabbitmq, RabbitMQHarness.arguments)


@pytest.fixture(scope="module")
def quorum(rabbitmq: RabbitMQ) -> list[str]:
    return declared(rabbitmq, QuorumHarness.arguments)


class TestClassic(Conformance):
    """Run every case on a classic queue."""

    @pytest.fixture
    def harness(self, rabbitmq: RabbitMQ, classic: list[str], case: Case) -> RabbitMQHarness:
        return RabbitMQHarness(rabbitmq, classic.pop() if case.created else None)


class TestQuorum(Conformance):
    """Run every case on a quorum queue."""

    @pytest.fixture
    def harness(self, rabbitmq: RabbitMQ, quorum: list[str], case: Case) -> QuorumHarness:
        return QuorumHarness(rabbitmq, quorum.pop() if case.created else None)
