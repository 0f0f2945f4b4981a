"""A job: one delivery on its way through the rooms of the engine, at one attempt."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

import msgspec

from missive.adapters.contract import Delivery, Session, Verb
from missive.dlq.record import Attempt
from missive.engine.decision import Decision
from missive.messages import Message
from missive.routing.route import Route

if TYPE_CHECKING:
    from missive.engine.intake import Source


class Job(msgspec.Struct, eq=False):
    """One delivery being worked on. Only the room that has it changes it."""

    source: Source
    session: Session
    delivery: Delivery
    message: Message
    attempt: int = 1
    route: Route | None = None
    decision: Decision | None = None
    verb: Verb = Verb.ack
    lane: Hashable = None
    """Which jobs it runs one after the other with; None for none."""
    error: BaseException | None = None
    """What the handler raised; kept by a test client only."""
    history: tuple[Attempt, ...] = ()
    """Earlier attempts that failed while the delivery was held."""

    def __repr__(self) -> str:
        return f"<Job: attempt {self.attempt}, {self.message!r}>"
