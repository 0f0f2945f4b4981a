"""The record of a case's messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from missive.testing.conformance.checks import check
from missive.transport import Delivery


class DeliveryLog:
    """The messages of a case by state. A message is known by its body, which is unique in the case."""

    def __init__(self) -> None:
        self.published: set[bytes] = set()
        self.delivered: Counter[bytes] = Counter()
        self.requested: set[bytes] = set()
        """Messages for which a session was asked to ack."""
        self.confirmed: set[bytes] = set()
        """Messages whose ack the transport confirmed."""
        self.handled: Counter[bytes] = Counter()

    def receive(self, deliveries: Iterable[Delivery]) -> None:
        """Record deliveries. Raise `ConformanceError` for an unpublished message or one whose ack was confirmed."""
        for delivery in deliveries:
            check(delivery.body in self.published, "a phantom: an unpublished message was delivered")
            check(delivery.body not in self.confirmed, "a message was redelivered after its ack was confirmed")
            self.delivered[delivery.body] += 1

    @property
    def undelivered(self) -> set[bytes]:
        """Messages that were published and never delivered."""
        return self.published - set(self.delivered)
