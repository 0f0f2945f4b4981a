"""`missive doctor` checks the queues of a real RabbitMQ broker and changes none of them."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

import missive
from missive.adapters import RabbitMQAdapter
from missive.adapters.base import Finding
from missive.adapters.rabbitmq.declaration import Declaration, discover
from missive.adapters.rabbitmq.session import RabbitMQSession
from missive.matchers import Everything
from missive.operations.doctor import DiagnosticHost, diagnose_source
from tests.support.rabbitmq import RabbitMQ

pytestmark = pytest.mark.rabbitmq
EVERYTHING: dict[str, Any] = {
    "x-message-ttl": 60_000,
    "x-expires": 3_600_000,
    "x-max-length": 10,
    "x-max-length-bytes": 10_000,
    "x-dead-letter-exchange": "nowhere",
    "x-dead-letter-routing-key": "it's 'here'",
    "x-max-priority": 3,
    "x-overflow": "drop-head",
    "x-single-active-consumer": True,
}


def queue(broker: RabbitMQ, arguments: dict[str, Any], **properties: Any) -> str:
    name = f"q-{uuid.uuid4().hex[:8]}"
    with broker.channel() as channel:
        channel.queue_declare(name, **{"durable": True, "arguments": arguments} | properties)
    return name


def adapter(broker: RabbitMQ, *queues: str, **options: Any) -> RabbitMQAdapter:
    proc = missive.Processor(missive.RawMessage, name="app", concurrency=4)

    @proc.handle_for(Everything(), timeout=60)
    def handle(message: missive.RawMessage, context: missive.HandlingContext) -> None:
        """Do nothing."""

    return RabbitMQAdapter(proc, queues, host="127.0.0.1", port=broker.port, **options)


def found(source: RabbitMQAdapter) -> dict[str, Finding]:
    """Return the findings by check."""
    return {finding.check: finding for finding in asyncio.run(diagnose_source(source))}


def declared(broker: RabbitMQ, name: str, **options: Any) -> Declaration | None:
    async def ask() -> Declaration | None:
        source = adapter(broker, *options.pop("queues", (name,)), **options)
        session = await source.connect(DiagnosticHost("app"))
        try:
            assert isinstance(session, RabbitMQSession)
            return await discover(session, name)
        finally:
            await session.close()

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("arguments", "properties"),
    [
        ({}, {}),
        ({}, {"durable": False, "auto_delete": True}),
        ({"x-queue-type": "classic"}, {}),
        (EVERYTHING, {}),
        ({"x-queue-type": "quorum"}, {}),
        ({"x-queue-type": "quorum", "x-delivery-limit": 3, "x-dead-letter-exchange": ""}, {}),
    ],
    ids=lambda value: ",".join(value) or "plain",
)
def test_discovers_a_declaration(rabbitmq: RabbitMQ, arguments: dict[str, Any], properties: dict[str, bool]):
    """The discovered declaration equals the original in each value, and the broker accepts it again."""
    name = queue(rabbitmq, arguments, **properties)
    flags = {"durable": True, "auto_delete": False} | properties
    assert declared(rabbitmq, name) == Declaration(**flags, arguments=arguments)
    with rabbitmq.channel() as channel:
        channel.queue_declare(name, **flags, arguments=arguments)


def test_discovery_creates_no_queue(rabbitmq: RabbitMQ):
    """Discovery of a deleted queue returns None and does not create the queue."""
    existing, deleted = queue(rabbitmq, {}), f"q-{uuid.uuid4().hex[:8]}"
    assert declared(rabbitmq, deleted, queues=(existing,)) is None
    with rabbitmq.channel() as channel, pytest.raises(Exception, match="NOT_FOUND"):
        channel.queue_declare(deleted, passive=True)


def test_a_sound_queue(rabbitmq: RabbitMQ):
    """A durable queue without limits has no warning. Policies are unknown, because AMQP does not reveal them."""
    findings = found(adapter(rabbitmq, queue(rabbitmq, {}), prefetch=10))
    assert {check: finding.level for check, finding in findings.items()} == {
        "connection": "ok",
        "timeouts": "ok",
        "prefetch": "ok",
        "queue": "ok",
        "policies": "unknown",
    }


def test_warns_about_message_loss(rabbitmq: RabbitMQ):
    """Each argument that drops messages is a warning that names it, and so is a missing dead letter exchange."""
    name = queue(rabbitmq, EVERYTHING, durable=False, auto_delete=True)
    findings = found(adapter(rabbitmq, name))
    warnings = {check: finding.message for check, finding in findings.items() if finding.level == "warning"}
    assert set(warnings) == {"durable", "auto-delete", "expiry", "length", "dead letter exchange"}
    assert "waits for over 60 s is sent to its dead letter exchange" in warnings["expiry"]
    assert "beyond 10 messages or 10000 bytes, the oldest message is sent to" in warnings["length"]
    assert "there is no exchange nowhere" in warnings["dead letter exchange"]
    dropped = found(adapter(rabbitmq, queue(rabbitmq, {"x-max-length": 5, "x-dead-letter-exchange": "amq.direct"})))
    assert "dead letter exchange" not in dropped
    assert "length" in dropped
    full = found(adapter(rabbitmq, queue(rabbitmq, {"x-max-length": 5, "x-overflow": "reject-publish"})))
    assert "length" not in full


def test_delivery_limits(rabbitmq: RabbitMQ):
    """A quorum queue's own delivery limit is a warning; without one, the broker's default is unknown."""
    limited = found(adapter(rabbitmq, queue(rabbitmq, {"x-queue-type": "quorum", "x-delivery-limit": 3})))
    assert limited["delivery limit"].level == "warning"
    assert "returns over 3 times is dropped" in limited["delivery limit"].message
    unlimited = found(adapter(rabbitmq, queue(rabbitmq, {"x-queue-type": "quorum"})))
    assert unlimited["delivery limit"].level == "unknown"
    assert "(quorum, 0 messages waiting)" in unlimited["queue"].message


def test_warns_about_a_prefetch_too_large_for_the_consumer_timeout(rabbitmq: RabbitMQ):
    """A prefetch is a warning if messages return unhandled even with quick handlers."""
    name = queue(rabbitmq, {})
    sound = found(adapter(rabbitmq, name, prefetch=250))["prefetch"]
    assert (sound.level, "take over 28 s on average" in sound.message) == ("ok", True)
    tight = found(adapter(rabbitmq, name, prefetch=250, consumer_timeout=100))["prefetch"]
    assert (tight.level, "take over 0.64 s on average" in tight.message) == ("warning", True)
