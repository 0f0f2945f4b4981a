"""Escaped copies of records whose texts a database rejects."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from missive.dlq.record import Record

_LONGEST = 200
"""Length of an escaped text, in characters. The database may have rejected a long one."""
_KEPT = frozenset({
    "id", "service", "reason", "status", "identity", "fingerprint", "handler", "assigned", "sha256", "lane", "replay",
    "closed_by", "edited_from", "lease_token", "message", "body", "headers", "key",
})  # fmt: skip
"""Fields that name something, and fields of the message that stay as they are."""
_NOTE = "the database rejected a text of this record: texts are escaped and cut, and the message is unchanged"


def escaped(record: Record) -> Record:
    """Return a record whose texts are ASCII and short.

    The message stays as it was: values of headers and the key are stored as bytes, which every database takes.
    """
    changes = {one.name: _escape(getattr(record, one.name)) for one in fields(record) if one.name not in _KEPT}
    changes["headers"] = tuple((_escape(name), _to_bytes(value)) for name, value in record.headers)
    changes["key"] = None if record.key is None else _to_bytes(record.key)
    changes["detail"] = _NOTE if record.detail is None else f"{changes['detail']} ({_NOTE})"
    return replace(record, **changes)


def _escape(value: Any) -> Any:
    if isinstance(value, str) and type(value) is str:
        return value.replace("\0", "\\x00").encode("ascii", "backslashreplace").decode()[:_LONGEST]
    if isinstance(value, dict):
        return {_escape(name): _escape(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        plain = [_escape(one) for one in value]
        return plain if isinstance(value, list) else tuple(plain)
    if hasattr(value, "__dataclass_fields__"):
        return replace(value, **{one.name: _escape(getattr(value, one.name)) for one in fields(value)})
    return value


def _to_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
