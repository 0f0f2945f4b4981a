"""Discover the declaration of a queue, which AMQP reveals only when it refuses a different declaration.

The broker refuses a declaration that differs from the existing queue. The refusal changes nothing and names the first
difference: https://www.rabbitmq.com/docs/queues#property-equivalence. Each declaration here includes a value that no
queue can have, so the broker never creates a queue, even if the queue has been deleted in the meantime.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from missive.adapters.rabbitmq.session import RabbitMQSession

_DIFFERENCE = re.compile(
    r"inequivalent arg '([\w-]+)' for .* current is (?:none|(?:the value )?'(.*?)'(?: of type '(\w+)')?)$"
)
_IMPOSSIBLE = "no-such-value"
"""A value that the broker accepts for no argument."""
_MAX_REQUESTS = 25
"""Limit of refused declarations for one queue; above the number of arguments that RabbitMQ knows."""
_TYPE, _LIMIT = "x-queue-type", "x-delivery-limit"


class Declaration(NamedTuple):
    """The declared properties and arguments of a queue. AMQP does not reveal policies, which may override them."""

    durable: bool
    auto_delete: bool
    arguments: dict[str, Any]

    @property
    def kind(self) -> str:
        """The queue type: `classic`, `quorum` or another type."""
        return str(self.arguments.get(_TYPE, "classic"))


async def discover(session: RabbitMQSession, queue: str) -> Declaration | None:
    """Return the declaration of a queue.

    Return None if the broker does not reveal it, for example to a user who may not configure the queue.
    """
    arguments: dict[str, Any] = {_TYPE: _IMPOSSIBLE}
    properties = {"durable": True, "auto_delete": False}
    for _ in range(_MAX_REQUESTS):
        refusal = await session.probe(partial(_declare, queue, dict(properties), dict(arguments)))
        difference = _DIFFERENCE.search(getattr(refusal, "reply_text", ""))
        if difference is None:
            return None
        name, text, kind = difference.groups()
        if name in properties:
            properties[name] = text == "true"
            continue
        requested = arguments.pop(name, None)
        if text is not None:
            arguments[name] = _value(text, kind)
        if requested is _IMPOSSIBLE and arguments.get(_TYPE) == "quorum" and name == _TYPE:
            arguments[_LIMIT] = _IMPOSSIBLE  # the broker compares it after the type
        elif requested is _IMPOSSIBLE:
            return Declaration(**properties, arguments=arguments)
    return None


def _declare(queue: str, properties: dict[str, bool], arguments: dict[str, Any], channel: Any, done: Any) -> None:
    channel.queue_declare(queue, **properties, arguments=arguments, callback=done)


def _value(text: str, kind: str | None) -> str | int | bool:
    if kind == "bool":
        return text == "true"
    return int(text) if kind != "longstr" and text.lstrip("-").isdecimal() else text


def version_numbers(version: object) -> tuple[int, ...]:
    """Return the major and minor number of a broker's version such as 3.12.1; zeros for another text."""
    parts = str(version).split(".")[:2]
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else (0, 0)
