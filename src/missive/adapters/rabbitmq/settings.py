"""The settings of one RabbitMQ source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from missive.adapters.base import DEFAULT_MAX_BODY
from missive.adapters.rabbitmq.address import Address
from missive.errors import UsageError


@dataclass(frozen=True, slots=True)
class Settings:
    """Queues, broker address and limits of one source. Raise `UsageError` for a limit out of range."""

    queues: tuple[str, ...]
    address: Address
    prefetch: int
    """Limit of unacked messages for each queue."""
    consumer_timeout: float
    """The broker's limit for unacked messages, in seconds."""
    dead_letter_exchange: str | None
    max_body: int = DEFAULT_MAX_BODY
    """Size above which a body is not kept, in bytes."""
    shown: str | None = None
    """The URL to show, where variables of the environment must not be shown with their values."""

    def __post_init__(self) -> None:
        if self.prefetch < 1:
            raise UsageError(
                "prefetch= must be a whole number of at least 1; Missive does not accept AMQP's 0 (no limit)"
            )
        if not self.consumer_timeout > 0:
            raise UsageError(
                "consumer_timeout= must be above 0 seconds: give the value that the broker is configured with"
            )

    @property
    def destination(self) -> str:
        """The queue names, separated by commas."""
        return ",".join(self.queues)

    @property
    def url(self) -> str:
        """The URL as it may be shown."""
        return self.shown or self.identity

    @property
    def identity(self) -> str:
        """The broker, virtual host and queues, without credentials."""
        return f"{self.address.url}?queue={self.destination}"


def queue_names(queue: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names in a list, or in a text that separates them by commas.

    Raise `UsageError` for an empty name and for a repeated name.
    """
    names = [name.strip() for name in queue.split(",")] if isinstance(queue, str) else list(queue)
    if not names or not all(names):
        raise UsageError("queue= names no queue: use ?queue=orders, ?queue=orders,refunds or a list of names")
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"queue= names {repeated} twice: name each queue once")
    return tuple(names)
