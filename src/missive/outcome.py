"""Outcomes: the closed lists of how a message can end and why."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """How one attempt at a message ended; the same in results, contexts and metrics."""

    acked = "acked"
    """Handled."""
    nacked = "nacked"
    """Not here, not now: comes back without spending an attempt."""
    retried = "retried"
    """Comes back later, as the next attempt."""
    dead_lettered = "dead_lettered"
    """Filed in the dead letter queue with its reason."""
    discarded = "discarded"
    """Needs nothing done, as declared."""


class Reason(StrEnum):
    """Why a message was dead-lettered: a closed list."""

    unreadable = "unreadable"
    """No handler could be chosen, or run, because the body cannot be decoded."""
    unmatched = "unmatched"
    """No handler matches."""
    ambiguous = "ambiguous"
    """Several handlers match."""
    matcher_failed = "matcher_failed"
    """A matcher raised, in place of answering."""
    rejected = "rejected"
    """The handler said so; its short constant is the label."""
    failed = "failed"
    """The handler, or a hook around it, raised."""
    timeout = "timeout"
    """The handler ran for longer than its timeout."""
    conflict = "conflict"
    """Its `once` key is that of another body's effect; or nobody knows whether its own happened."""
    poison = "poison"
    """It killed its worker process three times."""
    shutdown = "shutdown"
    """The processor stopped before the message was handled, and its transport cannot take it back."""
