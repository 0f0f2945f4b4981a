"""Limits: how much of one source the engine holds at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one engine."""

    items: int = 1000
    """Maximum number of unsettled deliveries of one source, without waiting ones. A delivery waits for its lane, batch,
    limit or retry."""
    bytes: int = 64 * 1024 * 1024
    """Size of the unsettled bodies of one source at which intake pauses, in bytes."""
    total_items: int = 5000
    """Maximum number of unsettled deliveries of one source, waiting ones included."""
    hold_seconds: float = 10.0
    """Maximum delay for which a message is held unsettled in memory, in seconds. Longer delays move to the transport
    or to the store."""


DEFAULT = Limits()
"""The limits of an engine outside tests."""
