"""Refusals of the broker: transient and fatal ones, and the texts of their errors."""

from __future__ import annotations

import asyncio
from typing import Any

import pika
import pytest
from pika import exceptions

from missive import Fatal, Processor, Transient
from missive.adapters.rabbitmq import RabbitMQAdapter
from missive.adapters.rabbitmq.errors import consumer_timeout, translate
from missive.transport import Credit, Session
from tests.adapters.test_rabbitmq_session import adapter, in_event_loop, names, opened
from tests.support.engine import CANARY
from tests.support.rabbitmq import RabbitMQ

SETTINGS = RabbitMQAdapter(Processor(name="app"), "orders", vhost="shop", username="worker").settings
CHANNEL, CONNECTION = exceptions.ChannelClosedByBroker, exceptions.ConnectionClosedByBroker
AUTHENTICATION, ACCESS = exceptions.ProbableAuthenticationError, exceptions.ProbableAccessDeniedError


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (
            CHANNEL(403, "ACCESS_REFUSED - queue 'orders' in vhost 'shop' in exclusive use"),
            Transient,
            "another consumer uses the queue orders exclusively; waiting until it stops",
        ),
        (
            CHANNEL(403, "ACCESS_REFUSED - access to queue 'orders' in vhost 'shop' refused for user 'worker'"),
            Fatal,
            "user worker has no permission for the queue orders (ACCESS_REFUSED - access to queue 'orders' in vhost"
            " 'shop' refused for user 'worker')",
        ),
        (
            CONNECTION(403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN."),
            Fatal,
            "refused the credentials of user worker",
        ),
        (
            CHANNEL(405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'orders' in vhost 'shop'."),
            Transient,
            "the queue orders is exclusive to another connection",
        ),
        (CHANNEL(404, "NOT_FOUND - no queue 'orders' in vhost 'shop'"), Transient, "there is no queue orders"),
        (
            CHANNEL(404, "NOT_FOUND - home node 'rabbit@b' of durable queue 'orders' in vhost 'shop' is down"),
            Transient,
            "code 404: NOT_FOUND - home node …",
        ),
        (
            CHANNEL(406, "PRECONDITION_FAILED - unknown delivery tag 7"),
            Transient,
            "code 406: PRECONDITION_FAILED - unknown delivery tag 7",
        ),
        (
            CHANNEL(
                406,
                "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 2000 ms."
                " This timeout value can be configured, see consumers doc guide to learn more",
            ),
            Transient,
            "longer than its consumer timeout (PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out."
            " Timeout value used: 2000 ms.",
        ),
        (
            CONNECTION(320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"),
            Transient,
            "code 320: CONNECTION_FORCED - broker forced connection closure with reason …",
        ),
        (
            AUTHENTICATION("ConnectionClosedByBroker: (320) 'CONNECTION_FORCED - node is going down'"),
            Transient,
            "code 320: CONNECTION_FORCED - node is going down",
        ),
        (
            AUTHENTICATION("ConnectionClosedByBroker: (403) 'ACCESS_REFUSED - Login was refused using PLAIN.'"),
            Fatal,
            "refused the credentials of user worker",
        ),
        (
            ACCESS("ConnectionClosedByBroker: (530) 'NOT_ALLOWED - vhost shop not found'"),
            Fatal,
            "there is no virtual host shop",
        ),
        (
            ACCESS(
                "ConnectionClosedByBroker: (530) \"NOT_ALLOWED - access to vhost 'shop' refused for user 'worker'\""
            ),
            Fatal,
            "there is no virtual host shop, or user worker has no permission to use it",
        ),
        (
            ACCESS(
                "ConnectionClosedByBroker: (530) \"NOT_ALLOWED - access to vhost 'shop' refused for user 'worker':"
                ' vhost connection limit (1) is reached"'
            ),
            Transient,
            "vhost connection limit (1) is reached",
        ),
        (
            CONNECTION(530, "NOT_ALLOWED - connection refused for user 'worker': user connection limit (1) is reached"),
            Transient,
            "user connection limit (1) is reached",
        ),
        (CONNECTION(541, "INTERNAL_ERROR"), Transient, "code 541: INTERNAL_ERROR"),
    ],
    ids=lambda value: value.args[1][:40] if isinstance(value, CHANNEL | CONNECTION) else None,
)
def test_refusals(error: Exception, kind: type[Exception], text: str):
    """Only refusals that another attempt would meet again are fatal, and each error has the reason of the broker."""
    found = translate(error, SETTINGS)
    assert type(found) is kind
    assert text in str(found)
    assert "\n" not in str(found)


@pytest.mark.parametrize(
    "reason",
    [
        f"NOT_FOUND - no exchange '{CANARY}' in vhost 'shop'",
        f"NOT_FOUND - no exchange 'x' in vhost 'shop' {CANARY}' in vhost 'shop'",
        f"PRECONDITION_FAILED - invalid expiration '{CANARY}'",
        f'PRECONDITION_FAILED - invalid message: {{"{CANARY}"',
        f"PRECONDITION_FAILED - user_id property set to '{CANARY}' but authenticated user was 'worker'",
    ],
)
def test_reasons_show_no_content(reason: str):
    """A reason ends before a name that is not in the settings."""
    text = str(translate(CHANNEL(406, reason), SETTINGS))
    assert CANARY not in text
    assert reason[:20] in text


def test_the_consumer_timeout_is_read_from_the_reason():
    """The limit is in seconds. Other reasons have none."""
    reason = "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1500 ms. This"
    assert consumer_timeout(406, reason) == 1.5
    assert consumer_timeout(406, "PRECONDITION_FAILED - unknown delivery tag 1500 ms") is None


async def arrives(session: Session) -> bytes:
    return (await asyncio.wait_for(session.fetch(Credit(1, 1000)), 20))[0].body


@pytest.mark.rabbitmq
@pytest.mark.parametrize("first", ["consumer", "queue"])
def test_exclusive_use_by_another_client_is_transient(rabbitmq: RabbitMQ, first: str):
    """While another client uses the queue exclusively, the session fails with a transient error of its own."""

    @in_event_loop
    async def check() -> None:
        with rabbitmq.channel() as channel:
            if first == "consumer":
                (name,) = names(rabbitmq, {})
                channel.basic_consume(name, lambda *_: None, exclusive=True)
                error = f"another consumer uses the queue {name} exclusively; waiting until it stops"
            else:
                name = channel.queue_declare("", exclusive=True).method.queue
                error = f"the queue {name} is exclusive to another connection"
            source: Any = adapter(rabbitmq, name)
            with pytest.raises(Transient, match=error):
                async with opened(source) as session:
                    await arrives(session)
            if first == "queue":
                return
        with rabbitmq.channel() as channel:
            channel.basic_publish("", name, b"later", pika.BasicProperties(delivery_mode=2))
        async with opened(source) as session:
            assert await arrives(session) == b"later"

    check()
