"""Views of a record for `dlq list` and `dlq show`: metadata, and only the public values of its message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from missive.dlq.contract import Note
from missive.dlq.record import Record
from missive.public import header_key


def summary(record: Record) -> dict[str, Any]:
    """Return the fields of a record that a list shows."""
    return {
        "id": record.id,
        "status": str(record.status),
        "service": record.service,
        "reason": str(record.reason),
        "label": record.label,
        "handler": record.handler,
        "assigned": record.assigned,
        "error": record.error_type,
        "group": record.fingerprint,
        "attempts": record.attempts,
        "first_at": record.first_at,
        "last_at": record.last_at,
        "size": record.size,
        "source": record.origin.url,
        "public": record.public,
    }


def details(record: Record, notes: Sequence[Note] = ()) -> dict[str, Any]:
    """Return everything about a record except the body, private header values and the exception's text."""
    public = record.public
    return {
        **summary(record),
        "message": {
            "size": record.size,
            "sha256": record.sha256,
            "content_type": record.content_type,
            "headers": {name: public.get(header_key(name), "***") for name, _ in record.headers},
            "sent_at": record.sent_at,
        },
        "origin": {
            "transport": record.origin.transport,
            "destination": record.origin.destination,
            "url": record.origin.url,
            "lane": record.origin.lane,
            "position": record.origin.position,
        },
        "candidates": list(record.candidates),
        "explanation": record.explanation,
        "stack": list(record.error_chain),
        "history": [{name: getattr(attempt, name) for name in attempt.__slots__} for attempt in record.history],
        "runtime": record.runtime,
        "replay": record.replay,
        "closed_at": record.closed_at,
        "closed_by": record.closed_by,
        "closed_why": record.closed_why,
        "edited_from": record.edited_from,
        "version": record.version,
        "notes": [note._asdict() for note in notes],
    }
