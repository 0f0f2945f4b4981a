"""What `missive doctor` looks at: how many messages wait in each queue, and who else consumes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from missive.adapters.contract import Finding

if TYPE_CHECKING:
    from missive.adapters.rabbitmq.adapter import RabbitMQAdapter
    from missive.adapters.rabbitmq.session import RabbitMQSession


async def examine(session: RabbitMQSession, adapter: RabbitMQAdapter) -> Sequence[Finding]:
    """Look at the queues. Raises `Fatal` and `Transient`."""
    ordered = any(route.terms.ordered_by is not None for route in adapter.processor.freeze())
    findings: list[Finding] = []
    for name in adapter.queues:
        queue = await session.declared(name)
        findings.append(Finding("ok", "queue", f"{name} has {queue.message_count} messages waiting"))
        if queue.consumer_count and ordered:
            says = f"{queue.consumer_count} other consumers share {name}, and a handler asks for order by key"
            findings.append(Finding("warning", "order", f"{says}: give the queue x-single-active-consumer"))
    says = "whether it is durable, and policies that drop messages, AMQP does not tell: see rabbitmqctl list_queues"
    return [*findings, Finding("ok", "policies", says)]
