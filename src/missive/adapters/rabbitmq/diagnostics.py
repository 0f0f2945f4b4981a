"""What `missive doctor` looks at: each queue as it was declared, who else consumes it, and if the prefetch fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from missive.adapters.base import Finding
from missive.adapters.rabbitmq.declaration import Declaration, declaration

if TYPE_CHECKING:
    from missive.adapters.rabbitmq.adapter import RabbitMQAdapter
    from missive.adapters.rabbitmq.session import RabbitMQSession

_QUICK = 1.0
"""Seconds: most handlers are done in less."""
_LOOK = "see rabbitmqctl list_queues name durable arguments effective_policy_definition"


async def examine(session: RabbitMQSession, adapter: RabbitMQAdapter) -> Sequence[Finding]:
    """Look at the queues. Raises `Fatal` and `Transient`."""
    ordered = any(route.terms.ordered_by is not None for route in adapter.processor.freeze())
    findings = list(_prefetch(adapter))
    for name in adapter.queues:
        queue = await session.declared(name)
        known = await declaration(session, name)
        kind = "" if known is None else f"{known.kind}, "
        findings.append(Finding("ok", "queue", f"{name} ({kind}{queue.message_count} messages waiting)"))
        if known is None:
            says = f"{name}: its declaration is not told to this user, who may not configure it: {_LOOK}"
            findings.append(Finding("unknown", "declaration", says))
        else:
            findings += _loses(name, known)
            findings += _rejects(name, known, adapter)
            findings += await _dead_letters(session, name, known)
        single = known is not None and known.arguments.get("x-single-active-consumer")
        if queue.consumer_count and ordered and not single:
            says = f"{queue.consumer_count} other consumers share {name}, and a handler asks for order by key"
            findings.append(Finding("warning", "order", f"{says}: give the queue x-single-active-consumer"))
    says = f"AMQP does not tell them, and they may limit, expire or drop messages: {_LOOK}"
    return [*findings, Finding("unknown", "policies", says)]


def _prefetch(adapter: RabbitMQAdapter) -> Iterator[Finding]:
    """Hold the prefetch against the consumer timeout: what waits for too long is given back unhandled."""
    processor = adapter.processor
    timeouts = [route.timeout for route in processor.freeze() if route.discards is None]
    if not timeouts:
        return
    room = max(0.0, adapter.consumer_timeout - max(timeouts))
    each = room * processor.concurrency / (adapter.prefetch * len(adapter.queues))
    says = f"with a prefetch of {adapter.prefetch}, handlers that take over {each:.2g} s on average give messages back"
    if each < _QUICK:
        yield Finding("warning", "prefetch", f"{says}: lower prefetch= or timeout=, or raise concurrency=")
    else:
        yield Finding("ok", "prefetch", says)


def _loses(name: str, known: Declaration) -> Iterator[Finding]:
    """Tell what of a declaration loses messages."""
    has = known.arguments.get
    if not known.durable:
        says = f"{name} is not durable: it and its messages are gone when the broker restarts; declare it durable"
        yield Finding("warning", "durable", says)
    if known.auto_delete:
        says = f"{name} is deleted with its messages when its last consumer stops; declare it without auto-delete"
        yield Finding("warning", "auto-delete", says)
    if (expires := has("x-expires")) is not None:
        says = f"{name} is deleted with its messages after {_seconds(expires)} s without a consumer (x-expires)"
        yield Finding("warning", "auto-delete", says)
    goes = "dropped" if has("x-dead-letter-exchange") is None else "sent to its dead letter exchange"
    if (ttl := has("x-message-ttl")) is not None:
        says = f"{name}: a message that waits for over {_seconds(ttl)} s is {goes} (x-message-ttl), also one given back"
        yield Finding("warning", "expiry", says)
    longest = [f"{has(limit)} {what}" for limit, what in _LENGTHS.items() if has(limit) is not None]
    if longest and not str(has("x-overflow", "drop-head")).startswith("reject-publish"):
        says = f"{name}: beyond {' or '.join(longest)} the oldest is {goes}; declare x-overflow=reject-publish"
        yield Finding("warning", "length", says)
    if known.kind != "quorum":
        return
    if (limit := has("x-delivery-limit")) is not None:
        says = f"{name}: a message that comes back over {limit} times is {goes}, and each stop gives messages back"
        yield Finding("warning", "delivery limit", f"{says}: raise x-delivery-limit, lower prefetch=")
    else:
        says = f"{name} declares none; from RabbitMQ 4.0 on it is 20 then, beyond which a message is {goes}"
        yield Finding("unknown", "delivery limit", f"{says}: see docs/adapters/rabbitmq.md")


_LENGTHS = {"x-max-length": "messages", "x-max-length-bytes": "bytes"}


def _rejects(name: str, known: Declaration, adapter: RabbitMQAdapter) -> Iterator[Finding]:
    """Hold the exchange that dead letters are left to against the declared one."""
    told, declared = adapter.dead_letter_exchange, known.arguments.get("x-dead-letter-exchange")
    if told is not None and declared is not None and declared != told:
        says = f"{name} sends what is rejected to {declared}, and dead_letter_exchange= says {told}"
        yield Finding("error", "dead letter exchange", says)
    elif told is not None and declared is None:
        says = f"{name} declares none; only a policy can send what is rejected to {told}, else it is dropped: {_LOOK}"
        yield Finding("unknown", "dead letter exchange", says)


async def _dead_letters(session: RabbitMQSession, name: str, known: Declaration) -> Sequence[Finding]:
    exchange = known.arguments.get("x-dead-letter-exchange")
    if not exchange:  # there is none, or it is the default one, which is always there
        return ()
    if await session.has_exchange(exchange):
        return ()
    says = f"{name}: there is no exchange {exchange}, so that what goes to it is dropped; declare it"
    return (Finding("warning", "dead letter exchange", says),)


def _seconds(milliseconds: object) -> str:
    return f"{milliseconds / 1000:g}" if isinstance(milliseconds, int) else str(milliseconds)
