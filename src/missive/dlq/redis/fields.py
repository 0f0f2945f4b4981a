"""Records as the fields of a hash: what indexes and scripts look at, one document of the rest, and the body."""

from __future__ import annotations

import json
from types import SimpleNamespace

from missive.dlq.record import Record
from missive.dlq.redis.keys import arrival_of, bucket_of, digest
from missive.dlq.rows import from_row, to_row

_TEXTS = {"status": "status", "replay": "replay", "lane": "lane", "closed_by": "by", "closed_why": "why"}
_TIMES = {"due": "due", "closed_at": "closed"}
_CHANGING = (*_TEXTS, *_TIMES, "version")
"""What scripts change, and what is therefore in no document."""
READ = (*_TEXTS.values(), *_TIMES.values(), "version", "doc")
"""The fields that a record without its body is made of."""


def encoded(text: str | None) -> bytes:
    """Return a text as a field has it, where half a surrogate is one in other signs."""
    return (text or "").encode(errors="backslashreplace")


def number(value: float | None) -> str:
    """Return a number to the last digit."""
    return "" if value is None else repr(value)


def to_arguments(record: Record) -> list[str | bytes]:
    """Return a record as the scripts take it: its id, its bucket, and the fields in the order of `scripts.NAMES`."""
    row = {name: value for name, value in to_row(record).items() if name not in _CHANGING and name != "body"}
    bucket, said = bucket_of(record)
    return [
        record.id,
        said,
        str(record.status),
        digest(record.service),
        record.fingerprint,
        bucket,
        number(record.first_at),
        number(record.last_at),
        str(record.attempts),
        record.replay or "",
        number(record.due),
        record.lane or "",
        number(record.closed_at),
        encoded(record.closed_by),
        encoded(record.closed_why),
        str(record.version),
        arrival_of(record) or "",
        json.dumps(row),
        record.body,
    ]


def to_record(fields: dict[bytes, bytes]) -> Record:
    """Return the record of a hash; without a body where that was not read."""

    def text(name: str) -> str | None:
        value = fields.get(name.encode())
        return None if value is None else value.decode()

    row = json.loads(fields[b"doc"])
    row |= {name: text(field) for name, field in _TEXTS.items()}
    row |= {name: None if (value := text(field)) is None else float(value) for name, field in _TIMES.items()}
    return from_row(SimpleNamespace(**row, version=int(fields[b"version"]), body=fields.get(b"body", b"")))


def paired(flat: list[bytes]) -> dict[bytes, bytes]:
    """Return the hash that a script answered as a list."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
