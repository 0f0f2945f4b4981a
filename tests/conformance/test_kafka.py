"""The conformance suite on Kafka."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from missive import Processor
from missive.adapters.kafka import KafkaAdapter
from missive.testing.conformance import Conformance, Harness, Sent
from tests.support.kafka import Kafka
from tests.support.kafka_raw import RawMessage, publish
from tests.support.ports import HOST

pytestmark = pytest.mark.kafka

QUICK = {"session.timeout.ms": 3000, "heartbeat.interval.ms": 300, "topic.metadata.refresh.interval.ms": 500}


class KafkaHarness(Harness):
    name = "kafka"
    preserves = frozenset({"key", "timestamp", "native_id"})
    headers = frozenset({"text", "bytes", "duplicate"})
    broker = True
    credentials = True
    groups = True
    read_ahead = 2000
    largest_body = 900_000
    trims = True
    redelivery_seconds = 20.0
    handover_duplicates = 4  # the last commit of a leaving member can fall into a rebalance, which takes a second

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.topic, self.group = f"t-{uuid.uuid4().hex[:8]}", f"g-{uuid.uuid4().hex[:8]}"

    def adapter(self, processor: Processor[Any], **options: Any) -> KafkaAdapter:
        servers = self.kafka.servers
        if "address" in options:
            servers = "{}:{}".format(*options.pop("address"))
        if "password" in options:
            servers, options["username"] = self.kafka.sasl_servers, "worker"
        group = options.pop("group", self.group)
        return KafkaAdapter(processor, self.topic, group, servers=servers, settings=QUICK, **options)

    def create(self) -> None:
        self.kafka.create(self.topic, self.lanes)

    def publish(self, messages: Sequence[Sent]) -> None:
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self.kafka.servers, "acks": "all", "log_level": 0})
        failed: list[Any] = []
        for sent in messages:
            producer.produce(
                self.topic,
                sent.body,
                key=sent.key,
                headers=[(name, value) for name, value in sent.headers],
                timestamp=0 if sent.timestamp is None else int(sent.timestamp * 1000),
                on_delivery=lambda error, _: failed.append(error) if error else None,
            )
            producer.poll(0)
        assert producer.flush(30) == 0
        assert failed == []

    def publish_odd(self) -> Sequence[bytes]:
        messages = [
            RawMessage(b"odd name", [(b"a", b"1"), (b"\xff", b"v")]),
            RawMessage(b"odd value", [(b"a", b"\xff"), (b"b", None), (b"c", b"")]),
            RawMessage(b"no name", [(b"", b"v")]),
            RawMessage(b"nul", [(b"a\0b", b"\0")], b"\0"),
            RawMessage(b"surrogate", [("\ud800".encode("utf-8", "surrogatepass"), b"v")]),
            RawMessage(b"many", [(b"n%d" % number, b"v") for number in range(1000)]),
            RawMessage(b"odd key", [], b"\xff\xfe"),
            RawMessage(b"empty key", [], b""),
            RawMessage(b"negative time", [], None, -62135596800001),
            RawMessage(b"\xff", [(b"number", b"\x00\x00\x00\x01")], b"\x00\x01"),
        ]
        publish(self.kafka.servers, self.topic, messages)
        return [message.body for message in messages]

    def leave_gap(self) -> bool:
        from confluent_kafka import Producer

        settings = {"bootstrap.servers": self.kafka.servers, "transactional.id": uuid.uuid4().hex, "log_level": 0}
        producer = Producer(settings)
        producer.init_transactions(30)
        producer.begin_transaction()
        for number in range(3):
            producer.produce(self.topic, b"aborted-%d" % number)
        producer.flush(30)
        producer.abort_transaction(30)
        return True

    def remaining(self) -> int:
        return self.kafka.lag(self.topic, self.group, self.lanes)

    @property
    def address(self) -> tuple[str, int]:
        return (HOST, self.kafka.proxied_port)

    @property
    def proxy_port(self) -> int:
        return self.kafka.proxy_port

    @property
    def url(self) -> str:
        settings = "".join(f"&{name}={value}" for name, value in QUICK.items())
        return f"{self.kafka.url(self.topic, self.group)}{settings}"

    def versions(self) -> str:
        import confluent_kafka

        return f"Apache Kafka {self.kafka.version}, confluent-kafka {confluent_kafka.version()}"

    def kill(self) -> None:
        self.kafka.kill()

    def stop(self) -> None:
        self.kafka.stop()

    def start(self) -> None:
        self.kafka.start()

    def trim(self, position: int) -> None:
        self.kafka.trim(self.topic, position)

    def delete_all(self) -> bool:
        for partition in range(self.lanes):
            self.kafka.trim(self.topic, -1, partition)
        return True

    def destroy(self) -> bool:
        self.kafka.recreate(self.topic, self.lanes)
        return True

    def overrun(self, position: int) -> None:
        self.kafka.commit(self.topic, self.group, position)

    def close(self) -> None:
        if self.kafka.pid is None:
            self.kafka.start()


class TestKafka(Conformance):
    """Run every case on a topic of one partition, or of several partitions where a case needs them."""

    @pytest.fixture
    def harness(self, kafka: Kafka) -> KafkaHarness:
        return KafkaHarness(kafka)
