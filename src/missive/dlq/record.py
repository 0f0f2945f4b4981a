"""The record of a dead letter: the message, the reason, the history and the state of its review."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from missive.outcome import Outcome, Reason
from missive.words import counted

if TYPE_CHECKING:
    from missive.dlq.failure import Failure
    from missive.messages import Message

_FINGERPRINT_VERSION = 1
_FIRST_ATTEMPTS = 3
_LAST_ATTEMPTS = 17
_WAITED = frozenset({Outcome.retried, Outcome.nacked})
"""Outcomes in the history after which the record was parked, and not a dead letter."""
HEADER_FIELDS = {"correlation-id": "correlation_id", "traceparent": "trace", "idempotency-key": "idempotency_key"}
"""Headers that a record also has as separate fields."""


class Status(StrEnum):
    """The stage of a record's life."""

    parked = "parked"
    """Waits for the due time of its next attempt."""
    dead = "dead"
    """Waits for a review."""
    queued = "queued"
    """Selected for replay; a worker of its service will lease it."""
    resolved = "resolved"
    """Handled by a replay."""
    discarded = "discarded"
    """Closed without handling, by a decision of an operator or a handler."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The source of a message."""

    transport: str
    destination: str
    url: str
    """Without credentials."""
    lane: str | None = None
    position: int | None = None
    native_id: str | None = None
    """The id that the transport gave the message."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One line of a record's history."""

    at: float
    """Seconds since 1970."""
    reason: str
    attempt: int
    handler: str | None = None
    error: str | None = None
    """The exception's type."""
    replay: str | None = None
    """The replay in which the attempt ran."""
    host: str | None = None
    pid: int | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Record:
    """One dead letter. Its repr shows nothing of the message."""

    id: str
    service: str
    reason: Reason
    identity: str | None
    """A value that all arrivals of this message share, or None when they share nothing."""
    body: bytes
    headers: tuple[tuple[str, str | bytes], ...]
    origin: Origin
    first_at: float
    last_at: float
    fingerprint: str
    status: Status = Status.dead
    label: str | None = None
    detail: str | None = None
    handler: str | None = None
    candidates: tuple[str, ...] = ()
    explanation: dict[str, Any] | None = None
    message_id: str | None = None
    topic: str | None = None
    key: str | bytes | None = None
    content_type: str | None = None
    sent_at: float | None = None
    sha256: str = ""
    public: dict[str, Any] = field(default_factory=dict)
    """The values of the fields that the processor declared public."""
    error_type: str | None = None
    error_chain: tuple[dict[str, Any], ...] = ()
    error_text: str | None = None
    """As confidential as the body."""
    attempts: int = 1
    history: tuple[Attempt, ...] = ()
    runtime: dict[str, Any] = field(default_factory=dict)
    replay: str | None = None
    due: float | None = None
    """Earliest time of the next attempt of a parked or queued record, in seconds since 1970; None for at once."""
    lane: str | None = None
    """The lane in whose order the record is parked: a digest of the key, and never the key itself."""
    closed_at: float | None = None
    closed_by: str | None = None
    closed_why: str | None = None
    """The reason that the operator or the handler gave."""
    edited_from: str | None = None
    """The id of the record whose message an operator changed to make this record."""
    correlation_id: str | None = None
    """The header `correlation-id`; as confidential as the other headers."""
    trace: str | None = None
    """The header `traceparent`; as confidential as the other headers."""
    idempotency_key: str | None = None
    """The header `idempotency-key`; as confidential as the other headers."""
    version: int = 1
    """Number of changes by operators and by new failures. A lease is not a change."""
    assigned: str | None = None
    """The name of the handler that an operator chose for the next attempts. It runs without a look at its matcher."""
    orphaned_at: float | None = None
    """Time from which a worker has missed the handler of this waiting record, in seconds since 1970."""
    is_orphan: bool = field(default=False, compare=False)
    """Whether the record has waited too long for a handler that is not registered. Not stored."""
    lease_token: str | None = field(default=None, compare=False)
    """The token of the record lease. `put` ignores the record if another worker holds the lease by now."""
    may_join: bool = field(default=False, compare=False)
    """Whether `put` may join this record to a stored record of the same identity. Not stored."""
    leased_until: float | None = field(default=None, compare=False)
    """When the lease of a new record ends, in seconds since 1970, if its message runs already."""
    waits: bool = field(default=False, compare=False)
    """Whether the message only waits, without an attempt. The stored record then keeps its failure. Not stored."""
    message: Message | None = field(default=None, compare=False)
    """The live message, for a sink of objects. Not stored."""

    @property
    def size(self) -> int:
        """Size of the body, in bytes."""
        return len(self.body)

    @property
    def next_attempt(self) -> int:
        """Number of the next attempt. A parked record continues its count; a replay of a dead letter starts at 1."""
        return max([a.attempt + (a.reason == Outcome.retried) for a in self._tried], default=1)

    @property
    def failed_at(self) -> float | None:
        """Time of the first failure of a parked record, in seconds since 1970; None before it failed."""
        return min([a.at for a in self._tried if a.reason == Outcome.retried], default=None)

    @property
    def _tried(self) -> list[Attempt]:
        """Attempts of a parked record since it was last a dead letter, newest first."""
        lines = self.history if self.status is Status.parked else ()
        return list(itertools.takewhile(lambda attempt: attempt.reason in _WAITED, reversed(lines)))

    def holds(self, newer: Record) -> bool:
        """Return whether this record was stored with the failure of `newer` before, and only the answer was lost."""
        adopted = newer.leased_until is not None
        new = newer.lease_token is None or adopted
        if not new or newer.id != self.id or newer.last_at > self.last_at:
            return False
        return bool(newer.history) and newer.history[-1] in self.history

    def joined_by(self, newer: Record) -> Record:
        """Return this record after another failure of its message: the newer values with a joined history.

        A message that only waits did not fail: its record keeps the failure and the version, and its history
        gains only attempts.
        """
        if newer.waits:
            tried = tuple(attempt for attempt in newer.history if attempt.reason != Outcome.nacked)
            return replace(
                self,
                status=newer.status,
                due=newer.due,
                lane=newer.lane,
                history=_bounded((*self.history, *tried)),
                closed_at=None,
                closed_by=None,
                closed_why=None,
            )
        return replace(
            newer,
            id=self.id,
            service=self.service,
            identity=self.identity,
            origin=self.origin,
            first_at=self.first_at,
            attempts=self.attempts + 1,
            history=_bounded((*self.history, *newer.history)),
            replay=newer.replay or self.replay,
            edited_from=self.edited_from,
            version=self.version + 1,
        )

    def __repr__(self) -> str:
        return f"<Record {self.id}: {self.reason}, {counted(self.size, 'byte')}>"


def _bounded(history: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
    """Return the first and the last lines of a long history."""
    if len(history) <= _FIRST_ATTEMPTS + _LAST_ATTEMPTS:
        return history
    return (*history[:_FIRST_ATTEMPTS], *history[-_LAST_ATTEMPTS:])


def fingerprint(reason: str, label: str | None, handler: str | None, failure: Failure | None) -> str:
    """Return a digest that failures of the same kind share. It has no line numbers, and so survives unrelated edits."""
    parts = [
        str(_FINGERPRINT_VERSION),
        reason,
        label or "",
        handler or "",
        failure.root_type if failure else "",
        failure.innermost_user_frame if failure else "",
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def plain_reason(record: Record) -> str:
    """Return the reason as a plain dict shows it: a phrase, or the text of the exception."""
    if record.reason is Reason.unmatched:
        return "no matching handlers"
    if record.reason is Reason.ambiguous:
        return "multiple matching handlers"
    return record.label or record.error_text or str(record.reason)
