"""Digests for the names of keys, which must contain nothing of a message."""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

from typing_extensions import Self

from missive.dlq.record import Record


def digest(*parts: str | None) -> str:
    """Return a digest of a sequence of texts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


class Bucket(NamedTuple):
    """The values that the records of a bucket share: the values of their group, without the status."""

    fingerprint: str
    service: str
    reason: str
    label: str | None
    handler: str | None
    error_type: str | None

    @classmethod
    def of(cls, record: Record) -> Self:
        """Return the bucket of a record."""
        return cls(record.fingerprint, record.service, record.reason, record.label, record.handler, record.error_type)


def arrival_of(record: Record) -> str | None:
    """Return the digest that all arrivals of a message share, or None when they share nothing."""
    return digest(record.service, record.identity) if record.identity else None
