"""The sink that leaves dead letters to the broker's own dead letter facility."""

from __future__ import annotations

from collections.abc import Sequence

from missive.dlq.contract import Sink
from missive.dlq.record import Record
from missive.errors import StoreRefused

URL = "broker:"


class Facility(Sink):
    """The dead letter facility of the transport that delivered a message, such as a queue's dead letter exchange.

    The engine rejects the message and stores no record. The broker therefore has the message, but not the reason why it
    is a dead letter. The engine refuses a transport without such a facility at start.
    """

    durable = rejects = True

    def put(self, records: Sequence[Record]) -> None:  # noqa: ARG002 - the contract's signature
        """Raise `StoreRefused`: the broker cannot store records."""
        raise StoreRefused(refusal("keep a record"))


def refusal(what: str) -> str:
    """Return an error text: dead letters at the broker do not support the operation `what`."""
    return f"{URL} leaves dead letters to the broker, and cannot {what}: use the broker's own tools"
