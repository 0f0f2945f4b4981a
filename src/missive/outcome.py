"""The outcomes of a message and the reasons of dead letters, as closed lists."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """The end of one attempt. Results, contexts and metrics use the same values."""

    acked = "acked"
    """Handled."""
    nacked = "nacked"
    """Returned without spending an attempt, to be handled elsewhere or later."""
    retried = "retried"
    """Scheduled for another attempt."""
    dead_lettered = "dead_lettered"
    """Stored in the dead letter queue with a reason."""
    discarded = "discarded"
    """Declared to need no work."""


class Reason(StrEnum):
    """The reason of a dead letter."""

    unreadable = "unreadable"
    """The body cannot be decoded, and routing or the handler needs it."""
    too_large = "too_large"
    """The body or the headers exceed their bounds. The record has no body."""
    unmatched = "unmatched"
    """No handler matches."""
    ambiguous = "ambiguous"
    """Several handlers match."""
    matcher_failed = "matcher_failed"
    """A matcher raised an exception."""
    rejected = "rejected"
    """The handler rejected the message. Its short constant reason is the label."""
    failed = "failed"
    """The handler, or a hook around it, raised an exception."""
    timeout = "timeout"
    """The handler exceeded its timeout."""
    conflict = "conflict"
    """The `once` key belongs to the effect of another body, or the effect's result is unknown."""
    poison = "poison"
    """The message killed its worker process three times."""
    shutdown = "shutdown"
    """The processor stopped before the handler started, and the transport cannot take the message back."""
