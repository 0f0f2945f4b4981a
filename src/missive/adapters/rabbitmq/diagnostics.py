"""The checks of `missive doctor` for RabbitMQ: the declaration, the consumers and the prefetch of each queue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from missive.adapters.base import Finding
from missive.adapters.rabbitmq.declaration import Declaration, discover
from missive.adapters.rabbitmq.settings import Settings
from missive.app.processor import Processor
from missive.words import counted

if TYPE_CHECKING:
    from missive.adapters.rabbitmq.session import RabbitMQSession

_QUICK = 1.0
"""Handler time that most handlers stay below, in seconds."""
_REMEDY = "run rabbitmqctl list_queues name durable arguments effective_policy_definition"
_LENGTHS = {"x-max-length": "messages", "x-max-length-bytes": "bytes"}


async def diagnose(session: RabbitMQSession, settings: Settings, processor: Processor[Any]) -> Sequence[Finding]:
    """Check each queue. Raise `Fatal` or `Transient` if the connection fails."""
    ordered = any(route.terms.ordered_by is not None for route in processor.freeze())
    findings = list(_prefetch(settings, processor))
    for name in settings.queues:
        queue = await session.inspect_queue(name)
        declared = await discover(session, name)
        kind = "" if declared is None else f"{declared.kind}, "
        findings.append(Finding("ok", "queue", f"{name} ({kind}{counted(queue.message_count, 'message')} waiting)"))
        if declared is None:
            message = f"{name}: RabbitMQ shows the declaration only to a user who may configure the queue: {_REMEDY}"
            findings.append(Finding("unknown", "declaration", message))
        else:
            findings += _losses(name, declared)
            findings += _rejection(name, declared, settings)
            findings += await _dead_letter_exchange(session, name, declared)
        single = declared is not None and declared.arguments.get("x-single-active-consumer")
        if queue.consumer_count and ordered and not single:
            message = f"{queue.consumer_count} other consumers share {name}, but a handler uses ordered_by"
            findings.append(Finding("warning", "order", f"{message}: declare the queue with x-single-active-consumer"))
    message = f"AMQP does not reveal policies, which may limit, expire or drop messages: {_REMEDY}"
    return [*findings, Finding("unknown", "policies", message)]


def _prefetch(settings: Settings, processor: Processor[Any]) -> Iterator[Finding]:
    """Compare the prefetch with the consumer timeout: messages that wait too long return to the queue unhandled."""
    timeouts = [route.terms.timeout for route in processor.freeze() if route.discards is None]
    if not timeouts:
        return
    wait = max(0.0, settings.consumer_timeout - max(timeouts))
    average = wait * processor.concurrency / (settings.prefetch * len(settings.queues))
    message = (
        f"with a prefetch of {settings.prefetch}, messages return to the queue unhandled"
        f" when handlers take over {average:.2g} s on average"
    )
    if average < _QUICK:
        yield Finding("warning", "prefetch", f"{message}: lower prefetch= or timeout=, or raise concurrency=")
    else:
        yield Finding("ok", "prefetch", message)


def _losses(name: str, declared: Declaration) -> Iterator[Finding]:
    """Find the parts of a declaration that lose messages."""
    argument = declared.arguments.get
    if not declared.durable:
        message = f"{name} is not durable: a restart of the broker deletes it with its messages; declare it durable"
        yield Finding("warning", "durable", message)
    if declared.auto_delete:
        message = f"{name} is deleted with its messages when its last consumer stops; declare it without auto-delete"
        yield Finding("warning", "auto-delete", message)
    if (expires := argument("x-expires")) is not None:
        message = f"{name} is deleted with its messages after {_seconds(expires)} s without a consumer (x-expires)"
        yield Finding("warning", "auto-delete", message)
    fate = "dropped" if argument("x-dead-letter-exchange") is None else "sent to its dead letter exchange"
    if (ttl := argument("x-message-ttl")) is not None:
        expired = f"a message that waits for over {_seconds(ttl)} s is {fate} (x-message-ttl)"
        message = f"{name}: {expired}, even one that a worker returned"
        yield Finding("warning", "expiry", message)
    limits = [f"{argument(limit)} {unit}" for limit, unit in _LENGTHS.items() if argument(limit) is not None]
    if limits and not str(argument("x-overflow", "drop-head")).startswith("reject-publish"):
        message = (
            f"{name}: beyond {' or '.join(limits)}, the oldest message is {fate}; declare x-overflow=reject-publish"
        )
        yield Finding("warning", "length", message)
    if declared.kind != "quorum":
        return
    if (limit := argument("x-delivery-limit")) is not None:
        message = (
            f"{name}: a message that returns over {limit} times is {fate}, and each stop of a worker returns messages"
        )
        yield Finding("warning", "delivery limit", f"{message}: raise x-delivery-limit, or lower prefetch=")
    else:
        message = f"{name} declares no limit; RabbitMQ 4.0 and later use 20, and a message beyond the limit is {fate}"
        yield Finding("unknown", "delivery limit", f"{message}: see docs/adapters/rabbitmq.md")


def _rejection(name: str, declared: Declaration, settings: Settings) -> Iterator[Finding]:
    """Compare `dead_letter_exchange=` with the declared exchange."""
    option, actual = settings.dead_letter_exchange, declared.arguments.get("x-dead-letter-exchange")
    if option is not None and actual is not None and actual != option:
        message = f"{name} sends rejected messages to {actual}, but dead_letter_exchange= is {option}: name {actual}"
        yield Finding("error", "dead letter exchange", message)
    elif option is not None and actual is None:
        message = (
            f"{name} declares no exchange; unless a policy names {option}, rejected messages are dropped: {_REMEDY}"
        )
        yield Finding("unknown", "dead letter exchange", message)


async def _dead_letter_exchange(session: RabbitMQSession, name: str, declared: Declaration) -> Sequence[Finding]:
    exchange = declared.arguments.get("x-dead-letter-exchange")
    if not exchange or await session.has_exchange(exchange):  # the empty name is the default exchange
        return ()
    message = f"{name}: there is no exchange {exchange}, so its dead letters are dropped; declare the exchange"
    return (Finding("warning", "dead letter exchange", message),)


def _seconds(milliseconds: object) -> str:
    return f"{milliseconds / 1000:g}" if isinstance(milliseconds, int) else str(milliseconds)
