"""How a queue was declared, which AMQP tells only in its refusals to declare it otherwise.

A declaration that differs from the queue that is there is refused, and changes nothing; the refusal names the first
difference: https://www.rabbitmq.com/docs/queues#property-equivalence. What is asked for here can never be declared, so
that nothing is made either when the queue is gone meanwhile.
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
_NEVER = "no-such-value"
"""A value that no argument takes."""
_MOST = 25
"""More differences than there are arguments."""
_TYPE, _LIMIT = "x-queue-type", "x-delivery-limit"


class Declaration(NamedTuple):
    """What a queue was declared with. A policy, which AMQP does not tell at all, may say otherwise."""

    durable: bool
    auto_delete: bool
    arguments: dict[str, Any]

    @property
    def kind(self) -> str:
        """`classic`, `quorum` or another type."""
        return str(self.arguments.get(_TYPE, "classic"))


async def declaration(session: RabbitMQSession, queue: str) -> Declaration | None:
    """Find out how a queue was declared; None where the broker does not say, as to one who may not configure it."""
    found: dict[str, Any] = {_TYPE: _NEVER}
    properties = {"durable": True, "auto_delete": False}
    for _ in range(_MOST):
        refusal = await session.attempt(partial(_declare, queue, dict(properties), dict(found)))
        difference = _DIFFERENCE.search(getattr(refusal, "reply_text", ""))
        if difference is None:
            return None
        name, text, kind = difference.groups()
        if name in properties:
            properties[name] = text == "true"
            continue
        asked = found.pop(name, None)
        if text is not None:
            found[name] = _value(text, kind)
        if asked is _NEVER and found.get(_TYPE) == "quorum" and name == _TYPE:
            found[_LIMIT] = _NEVER  # which is compared after the type
        elif asked is _NEVER:
            return Declaration(**properties, arguments=found)
    return None


def _declare(queue: str, properties: dict[str, bool], arguments: dict[str, Any], channel: Any, done: Any) -> None:
    channel.queue_declare(queue, **properties, arguments=arguments, callback=done)


def _value(text: str, kind: str | None) -> str | int | bool:
    if kind == "bool":
        return text == "true"
    return int(text) if kind != "longstr" and text.lstrip("-").isdecimal() else text
