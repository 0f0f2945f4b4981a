"""The record of a dead letter: the message, why it is here, and what happened to it."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from missive.outcome import Outcome, Reason

if TYPE_CHECKING:
    from missive.dlq.failure import Failure
    from missive.messages import Message

_FINGERPRINT_VERSION = 1
_FIRST_ATTEMPTS = 3
_LAST_ATTEMPTS = 17
_WAITED = frozenset({Outcome.retried, Outcome.nacked})
"""What the history says of attempts after which it waited, and was no dead letter."""
HEADER_FIELDS = {"correlation-id": "correlation_id", "traceparent": "trace", "idempotency-key": "idempotency_key"}
"""The headers that a record has as fields of their own, too."""


class Status(StrEnum):
    """Where a record is in its life."""

    parked = "parked"
    """Waits for its time to be tried again."""
    dead = "dead"
    """Waits for somebody to look at it."""
    queued = "queued"
    """Chosen for replay; a worker of its service will take it up."""
    resolved = "resolved"
    """Handled by a replay."""
    discarded = "discarded"
    """Given up on purpose."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message came from."""

    transport: str
    destination: str
    url: str
    """Without credentials."""
    lane: str | None = None
    position: int | None = None
    native_id: str | None = None
    """The transport's own id of it."""


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
    """The replay it was part of."""
    host: str | None = None
    pid: int | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Record:
    """One dead letter. Its repr shows nothing of the message."""

    id: str
    service: str
    reason: Reason
    identity: str | None
    """What arrivals of this message share; None where nothing is shared."""
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
    """The values that the processor declared public."""
    error_type: str | None = None
    error_chain: tuple[dict[str, Any], ...] = ()
    error_text: str | None = None
    """As confidential as the body."""
    attempts: int = 1
    history: tuple[Attempt, ...] = ()
    runtime: dict[str, Any] = field(default_factory=dict)
    replay: str | None = None
    due: float | None = None
    """Before when (in seconds since 1970) a parked or queued record is not taken up; None for at once."""
    lane: str | None = None
    """What it is parked in order with: a digest of the key, and never the key itself."""
    closed_at: float | None = None
    closed_by: str | None = None
    closed_why: str | None = None
    """A word or a sentence of whoever closed it."""
    edited_from: str | None = None
    """The id of the record whose message this one's is, changed by an operator."""
    correlation_id: str | None = None
    """The header `correlation-id`; as confidential as the other headers."""
    trace: str | None = None
    """The header `traceparent`; the same."""
    idempotency_key: str | None = None
    """The header `idempotency-key`; the same."""
    version: int = 1
    """Counts its changes: by operators, and by failing again. Being claimed is none."""
    lease_token: str | None = field(default=None, compare=False)
    """The token under which it was taken up, for `put`: a record that somebody else has by now is left as it is."""
    may_join: bool = field(default=False, compare=False)
    """Whether this may be another arrival of a message with a record of the same identity; not kept."""
    message: Message | None = field(default=None, compare=False)
    """The live message, for a sink that keeps objects; a store does not keep it."""

    @property
    def size(self) -> int:
        """The body's size in bytes."""
        return len(self.body)

    @property
    def next_attempt(self) -> int:
        """Which attempt the next one is: those go on while it is parked, and a replay of a dead letter begins anew."""
        return max([a.attempt + (a.reason == Outcome.retried) for a in self._tried], default=1)

    @property
    def failed_at(self) -> float | None:
        """When it failed first, while it is parked, in seconds since 1970; None for not yet."""
        return min([a.at for a in self._tried if a.reason == Outcome.retried], default=None)

    @property
    def _tried(self) -> list[Attempt]:
        """The attempts of a parked record since it was last a dead letter."""
        lines = self.history if self.status is Status.parked else ()
        return list(itertools.takewhile(lambda attempt: attempt.reason in _WAITED, reversed(lines)))

    def joined_by(self, newer: Record) -> Record:
        """Return this record after the same message failed once more: the newer story, one history."""
        history = (*self.history, *newer.history)
        if len(history) > _FIRST_ATTEMPTS + _LAST_ATTEMPTS:
            history = (*history[:_FIRST_ATTEMPTS], *history[-_LAST_ATTEMPTS:])
        return replace(
            newer,
            id=self.id,
            service=self.service,
            identity=self.identity,
            origin=self.origin,
            first_at=self.first_at,
            attempts=self.attempts + 1,
            history=history,
            replay=newer.replay or self.replay,
            edited_from=self.edited_from,
            version=self.version + 1,
        )

    def __repr__(self) -> str:
        return f"<Record {self.id}: {self.reason}, {self.size} bytes>"


def fingerprint(reason: Reason, label: str | None, handler: str | None, failure: Failure | None) -> str:
    """Return what failures of the same kind share: no line numbers, so that it outlives an unrelated edit."""
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
    """Return the reason as a plain dict keeps it: in words, or the exception's text."""
    if record.reason is Reason.unmatched:
        return "no matching handlers"
    if record.reason is Reason.ambiguous:
        return "multiple matching handlers"
    return record.label or record.error_text or str(record.reason)
