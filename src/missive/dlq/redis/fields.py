"""Records as the fields of a hash: a field for each value that scripts use, a JSON document of the others, the body."""

from __future__ import annotations

import json
from types import SimpleNamespace

from missive.dlq.record import Record
from missive.dlq.redis.keys import Bucket, arrival_of, digest
from missive.dlq.rows import from_row, to_row

_TEXTS = {
    "status": "status",
    "replay": "replay",
    "lane": "lane",
    "closed_by": "by",
    "closed_why": "why",
    "assigned": "assigned",
}
_TIMES = {"due": "due", "closed_at": "closed", "orphaned_at": "orphaned"}
_CHANGING = (*_TEXTS, *_TIMES, "version")
"""Fields that scripts change. The document does not contain them."""
READ = (*_TEXTS.values(), *_TIMES.values(), "version", "doc")
"""Fields to read for a record without its body."""


def encoded(text: str | None) -> bytes:
    """Return a text as the bytes of a field, with lone surrogates escaped."""
    return (text or "").encode(errors="backslashreplace")


def number(value: float | None) -> str:
    """Return all digits of a number, or an empty text for None."""
    return "" if value is None else repr(value)


def to_arguments(record: Record) -> list[str | bytes]:
    """Return a record as arguments of a script: its id, its bucket, and the fields in the order of `library.NAMES`."""
    row = {name: value for name, value in to_row(record).items() if name not in _CHANGING and name != "body"}
    bucket = Bucket.of(record)
    return [
        record.id,
        json.dumps(bucket),
        str(record.status),
        digest(record.service),
        record.fingerprint,
        digest(*bucket),
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
        encoded(record.assigned),
        number(record.orphaned_at),
    ]


def to_record(fields: dict[bytes, bytes]) -> Record:
    """Return the record of a hash. The body is empty if it was not read."""

    def text(name: str) -> str | None:
        value = fields.get(name.encode())
        return None if value is None else value.decode()

    row = json.loads(fields[b"doc"])
    row |= {name: text(field) for name, field in _TEXTS.items()}
    row |= {name: None if (value := text(field)) is None else float(value) for name, field in _TIMES.items()}
    return from_row(SimpleNamespace(**row, version=int(fields[b"version"]), body=fields.get(b"body", b"")))


def paired(flat: list[bytes]) -> dict[bytes, bytes]:
    """Return the hash that a script returned as a flat list."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
