"""What keys are named by: digests, for nothing of a message may stand in a key's name."""

from __future__ import annotations

import hashlib
import json

from missive.dlq.record import Record


def digest(*parts: str | None) -> str:
    """Return what stands for some texts, and for no others."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def bucket_of(record: Record) -> tuple[str, str]:
    """Return what stands for all that a group is told by save the status, and that itself as JSON."""
    said = (
        record.fingerprint,
        record.service,
        str(record.reason),
        record.label,
        record.handler,
        record.error_type,
    )
    return digest(*said), json.dumps(said)


def arrival_of(record: Record) -> str | None:
    """Return what stands for what arrivals of a message share, or None."""
    return digest(record.service, record.identity) if record.identity else None
