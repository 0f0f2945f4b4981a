"""Observers: listeners that the engine calls for each chunk of events, and never for each message."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from missive.adapters.base import Adapter
from missive.dlq.failure import Failure
from missive.transport import Session
from missive.verbs import overriding


class Attempted(msgspec.Struct, frozen=True, eq=False, gc=False):
    """An attempt that did not succeed."""

    what: str
    """The reason of a dead letter, or the outcome of an attempt after which the message waits."""
    handler: str | None
    label: str | None
    failure: Failure | None
    record: str | None = None
    """The id of the record in the dead letter store, once the record is durable."""
    fingerprint: str | None = None
    """The fingerprint of the record."""


class Observer:
    """A listener of one engine. Every verb does nothing unless a listener overrides it.

    The engine calls the verbs on its loop. They must return at once, and must not raise.
    """

    def connected(self, adapter: Adapter, session: Session) -> None:
        """Note that a source is connected."""

    def lag(self, adapter: Adapter, messages: int) -> None:
        """Note how many messages wait in the transport. The engine asks every few seconds."""

    def retried(self, attempts: Sequence[Attempted]) -> None:
        """Note attempts after which the messages wait for another attempt."""

    def dead_lettered(self, attempts: Sequence[Attempted]) -> None:
        """Note dead letters: when their records are durable, or when the store cannot be written now."""

    def tick(self) -> None:
        """Note that about a second has passed."""

    def drained(self) -> None:
        """Note that the engine has ended its work."""


class Observers:
    """The listeners of one engine, compiled to one tuple of bound methods for each verb."""

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self.connected = overriding(observers, Observer.connected)
        self.lag = overriding(observers, Observer.lag)
        self.retried = overriding(observers, Observer.retried)
        self.dead_lettered = overriding(observers, Observer.dead_lettered)
        self.tick = overriding(observers, Observer.tick)
        self.drained = overriding(observers, Observer.drained)
