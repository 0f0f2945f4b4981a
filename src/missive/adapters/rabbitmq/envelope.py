"""A delivery of the engine's from pika's method, properties and body."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from missive.adapters.contract import Delivery


class RabbitMQNative(NamedTuple):
    """What `context.native` is: pika's method and properties of the delivery, and the queue that it came from."""

    method: Any
    properties: Any
    queue: str

    def __repr__(self) -> str:
        return "<RabbitMQNative>"


def delivery(method: Any, properties: Any, body: bytes, queue: str) -> Delivery:
    """Return the delivery; its token is the tag on the channel."""
    headers = properties.headers
    redelivered = method.redelivered
    counted = None if headers is None else headers.get("x-delivery-count")  # quorum queues count
    return Delivery(
        body,
        headers=() if headers is None else _pairs(headers),
        producer_id=None if (message_id := properties.message_id) is None else _text(message_id),
        topic=_text(method.routing_key),
        timestamp=properties.timestamp,
        content_type=None if (content_type := properties.content_type) is None else _text(content_type),
        token=method.delivery_tag,
        attempt=counted + 1 if isinstance(counted, int) else 1 + redelivered,
        redelivered=redelivered,
        native=RabbitMQNative(method, properties, queue),
    )


def _pairs(table: dict[str, Any]) -> list[tuple[str, str | bytes]]:
    """Return an AMQP table as headers: other values than text become JSON, or their own text."""
    return [
        (_text(name), value if isinstance(value, (str, bytes)) else json.dumps(value, default=str))
        for name, value in table.items()
    ]


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
