"""Entry: one message of a schedule, and its deliveries."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from missive.app.terms import HandlerRoute
from missive.dlq.once import EffectKey
from missive.outcome import Outcome
from missive.transport import Delivery

HELD = (Outcome.retried, Outcome.nacked)
"""The outcomes after which a message waits for another attempt."""


class Entry:
    """One message: its content, its place in the transport, and its outcome."""

    __slots__ = (
        "acked_beyond",
        "at",
        "attempted",
        "completed",
        "dead",
        "delivered",
        "effect",
        "filed",
        "group",
        "happened",
        "holder",
        "lane",
        "number",
        "passes",
        "position",
        "removed",
        "route",
        "template",
        "unreadable_key",
    )

    def __init__(self, number: int, template: Delivery, at: float) -> None:
        self.number = number
        self.template = template
        self.at = at
        """The time of its arrival at the transport."""
        self.lane: str | None = None
        self.position: int | None = None
        self.route: HandlerRoute | None = None
        self.group: Hashable = None
        """The key of the messages that run in order with it; None without an order."""
        self.passes = False
        """Whether later messages of its group may run while it waits for a retry."""
        self.effect: EffectKey | None = None
        """The effect that is claimed before it runs, for a handler with `once=`."""
        self.happened = False
        """Whether the store has recorded its effect."""
        self.delivered = 0
        """Number of its deliveries."""
        self.holder: Handout | None = None
        """Its last delivery."""
        self.removed = False
        """Whether the transport has removed it."""
        self.attempted = False
        """Whether an attempt ended with a decision."""
        self.acked_beyond = False
        """Whether the committed `acked_beyond` of its lane contains it."""
        self.completed = 0
        """Number of times that its handling ended: acked, discarded, or decided as a dead letter."""
        self.unreadable_key = False
        """Whether reading its key or effect raises, which is a failure."""
        self.dead = False
        """Whether its handling ended as a dead letter."""
        self.filed = 0
        """Number of times that the store has stored its record."""

    @property
    def finished(self) -> bool:
        """Whether its dead letter is stored, or its route discards it."""
        return self.filed > 0 or (self.route is not None and self.route.discards is not None)


class Handout:
    """One delivery of a message to a session, and its progress in the engine."""

    __slots__ = (
        "attempt",
        "blamed",
        "entry",
        "fetched",
        "lane_lost",
        "lost",
        "outcome",
        "running",
        "session",
        "settled",
        "until",
    )

    def __init__(self, entry: Entry, session: Any, until: float, attempt: int) -> None:
        self.entry = entry
        self.session = session
        self.until = until
        """The end of its lease."""
        self.attempt = attempt
        """The number that the next attempt must have."""
        self.blamed = False
        """Whether its dependency caused the failure. The breaker decides whether this spent the attempt."""
        self.fetched = False
        """Whether `fetch` returned it."""
        self.running = False
        self.lane_lost = False
        """Whether its lane was lost before its handler started, and the engine knows."""
        self.lost = False
        """Whether it can no longer be settled."""
        self.settled = False
        """Whether the engine settled it, with any result."""
        self.outcome: Outcome | None = None

    @property
    def final(self) -> bool:
        """Whether its handling ended, with an outcome other than retried or nacked."""
        return self.outcome is not None and self.outcome not in HELD

    @property
    def could_run(self) -> bool:
        """Whether it runs, is done, or waits for a free worker only."""
        if self.running or self.final or self.entry.acked_beyond:
            return True
        entry = self.entry
        terms = None if entry.route is None else entry.route.terms
        plain = terms is None or (terms.concurrency is None and terms.rate_limit is None and terms.batch is None)
        plain = plain and (terms is None or terms.breaker is None)
        return plain and entry.group is None and entry.effect is None and self.outcome is None

    @property
    def waits_for_store(self) -> bool:
        """Whether it is a dead letter, which an outage of the store keeps unsettled beside the limit of messages."""
        entry = self.entry
        unhandled = not self.running and self.outcome is None and (entry.route is None or entry.unreadable_key)
        return self.outcome is Outcome.dead_lettered or unhandled

    @property
    def unconfirmed(self) -> bool:
        """Whether the engine settled it, and the transport did not receive the settlement."""
        return self.settled and not self.lost and not self.entry.removed

    @property
    def durable(self) -> bool:
        """Whether its outcome is durable, so that it may be settled."""
        if self.outcome in (Outcome.acked, Outcome.discarded):
            return self.entry.effect is None or self.entry.happened
        return self.entry.finished or self.entry.acked_beyond or self.entry.happened
