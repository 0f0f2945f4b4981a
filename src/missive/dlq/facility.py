"""Dead letters left to the broker: rejected, so that they go to its own dead letter facility."""

from __future__ import annotations

from collections.abc import Sequence

from missive.dlq.contract import Sink
from missive.dlq.record import Record
from missive.errors import StoreRefused

URL = "broker:"


class Facility(Sink):
    """Names the facility of whatever transport a message came from, such as a queue's dead letter exchange.

    Nothing is filed: the engine rejects the message, and a transport that has no facility is refused at start. The
    record is lost with that: what the broker keeps is the message, and not why it is a dead letter.
    """

    durable = rejects = True

    def put(self, records: Sequence[Record]) -> None:  # noqa: ARG002 - the contract's signature
        """Refuse: nothing is filed here. Raises `StoreRefused`."""
        raise StoreRefused(refusal("keep a record"))


def refusal(what: str) -> str:
    """Say that something cannot be done with what the broker keeps."""
    return f"{URL} leaves dead letters to the broker, and cannot {what}: use the broker's own tools"
