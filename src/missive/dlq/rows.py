"""Records as plain values: the columns of a row, or a line of JSON."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import fields, replace
from operator import attrgetter
from types import NoneType, SimpleNamespace
from typing import Any

from missive.dlq.record import Attempt, Origin, Record, Status
from missive.errors import UsageError
from missive.outcome import Reason

FORMAT = 1
"""Version of the JSON form of a record."""
_SAME = (
    "id", "service", "label", "detail", "handler", "error_type", "error_text", "fingerprint", "identity", "first_at",
    "last_at", "attempts", "message_id", "topic", "content_type", "sent_at", "body", "sha256", "explanation",
    "public", "runtime", "replay", "due", "lane", "closed_at", "closed_by",
    "closed_why", "edited_from", "correlation_id", "trace", "idempotency_key", "version",
)  # fmt: skip
"""Fields that a row holds without conversion."""
_same = attrgetter(*_SAME)
_ORIGIN, _ATTEMPT = (tuple(one.name for one in fields(kind)) for kind in (Origin, Attempt))
_TEXT, _TIME = (str, NoneType), (int, float, NoneType)
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("id", "service", "fingerprint", "sha256"), (str,)),
    **dict.fromkeys(("first_at", "last_at"), (int, float)),
    **dict.fromkeys(("label", "detail", "handler", "error_type", "error_text", "identity", "message_id"), _TEXT),
    **dict.fromkeys(("topic", "content_type", "replay", "lane", "closed_by", "assigned"), _TEXT),
    **dict.fromkeys(("closed_why", "edited_from", "correlation_id", "trace", "idempotency_key"), _TEXT),
    **dict.fromkeys(("sent_at", "due", "closed_at", "orphaned_at"), _TIME),
    **dict.fromkeys(("attempts", "version"), (int,)),
    "public": (dict,),
    "runtime": (dict,),
    "explanation": (dict, NoneType),
}
"""Types of the fields that are read without conversion, to check imported files."""
_LAST_TIME = 253402300800  # the end of the year 9999
_LARGEST_INTEGER = 2**31 - 1


def to_row(record: Record) -> dict[str, Any]:
    """Return the columns of a record: plain values, and values that JSON can represent."""
    return {
        **{name: getattr(record, name) for name in _SAME},
        "status": str(record.status),
        "reason": str(record.reason),
        "key": None if record.key is None else _packed(record.key),
        "size": record.size,
        "headers": [[name, _packed(value)] for name, value in record.headers],
        "origin": {name: getattr(record.origin, name) for name in _ORIGIN},
        "assigned": record.assigned,
        "orphaned_at": record.orphaned_at,
        "candidates": list(record.candidates),
        "error_chain": list(record.error_chain),
        "history": [{name: getattr(attempt, name) for name in _ATTEMPT} for attempt in record.history],
    }


def from_row(row: Any) -> Record:
    """Return the record of a row, which has the columns as attributes."""
    return Record(
        **dict(zip(_SAME, _same(row), strict=True)),
        status=Status(row.status),
        reason=Reason(row.reason),
        key=None if row.key is None else _unpacked(row.key),
        headers=tuple((name, _unpacked(value)) for name, value in row.headers),
        origin=Origin(**row.origin),
        assigned=getattr(row, "assigned", None),  # an older Missive has not written the next two
        orphaned_at=getattr(row, "orphaned_at", None),
        candidates=tuple(row.candidates),
        error_chain=tuple(row.error_chain),
        history=tuple(Attempt(**attempt) for attempt in row.history),
    )


def _packed(value: str | bytes) -> Any:
    """Return text or bytes as a value that JSON can represent."""
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _unpacked(value: Any) -> str | bytes:
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else str(value)


def to_json(record: Record) -> dict[str, Any]:
    """Return a record with its body as a value that JSON can represent."""
    return {"format": FORMAT, **to_row(record), "body": _packed(record.body)}


def _is_storable(record: Record) -> bool:
    times = [getattr(record, name) for name in ("first_at", "last_at", "sent_at", "due", "closed_at", "orphaned_at")]
    times += [attempt.at for attempt in record.history]
    frames = [frame for link in record.error_chain for frame in link["frames"] if link["type"]]
    considered = [] if record.explanation is None else record.explanation["considered"]
    return (
        all(time is None or abs(time) < _LAST_TIME for time in times)
        and all(len(text) <= most for text, most in ((record.id, 40), (record.fingerprint, 32), (record.sha256, 64)))
        and max(record.attempts, record.version) <= _LARGEST_INTEGER
        and all({"file", "line", "function"} <= frame.keys() for frame in frames)
        and all({"handler", "verdict", "because"} <= one.keys() for one in considered)
    )


def from_json(value: dict[str, Any]) -> Record:
    """Return the record of a value that `to_json` returned. A queued or parked record becomes dead.

    Raises ValueError, TypeError, KeyError or AttributeError for a value that `to_json` cannot have returned, and
    `UsageError` for a value from a newer Missive.
    """
    if value["format"] > FORMAT:
        raise UsageError("a newer Missive has exported it: upgrade Missive")
    body = _unpacked(value["body"])
    if not isinstance(body, bytes) or hashlib.sha256(body).hexdigest() != value["sha256"]:
        raise ValueError("the body differs from the exported body")
    record = from_row(SimpleNamespace(**{**value, "body": body}))
    if any(not isinstance(getattr(record, name), kinds) for name, kinds in _KINDS.items()):
        raise TypeError("a field has the wrong type")
    if not _is_storable(record):
        raise ValueError("a field is too large, or has the wrong shape")
    if record.status in (Status.queued, Status.parked):
        return replace(record, status=Status.dead, replay=None, due=None, lane=None, orphaned_at=None)
    return record
