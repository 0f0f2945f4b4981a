"""Digests for the names of keys, which must contain nothing of a message."""

from __future__ import annotations

import hashlib
import json

from missive.dlq.record import Record


def digest(*parts: str | None) -> str:
    """Return a digest of a sequence of texts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def bucket_of(record: Record) -> tuple[str, str]:
    """Return the digest of a record's bucket, and its description in JSON: the group's values without the status."""
    values = (
        record.fingerprint,
        record.service,
        str(record.reason),
        record.label,
        record.handler,
        record.error_type,
    )
    return digest(*values), json.dumps(values)


def arrival_of(record: Record) -> str | None:
    """Return the digest that all arrivals of a message share, or None when they share nothing."""
    return digest(record.service, record.identity) if record.identity else None
