"""Records as plain values: columns of a row, or a line of JSON."""

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
"""The version of a record as JSON."""
_SAME = (
    "id", "service", "label", "detail", "handler", "error_type", "error_text", "fingerprint", "identity", "first_at",
    "last_at", "attempts", "message_id", "topic", "content_type", "sent_at", "body", "sha256", "explanation",
    "public", "runtime", "replay", "due", "lane", "closed_at", "closed_by",
    "closed_why", "edited_from", "correlation_id", "trace", "idempotency_key", "version",
)  # fmt: skip
"""The fields that a row holds as they are."""
_same = attrgetter(*_SAME)
_ORIGIN, _ATTEMPT = (tuple(one.name for one in fields(kind)) for kind in (Origin, Attempt))
_TEXT, _TIME = (str, NoneType), (int, float, NoneType)
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("id", "service", "fingerprint", "sha256"), (str,)),
    **dict.fromkeys(("first_at", "last_at"), (int, float)),
    **dict.fromkeys(("label", "detail", "handler", "error_type", "error_text", "identity", "message_id"), _TEXT),
    **dict.fromkeys(("topic", "content_type", "replay", "lane", "closed_by"), _TEXT),
    **dict.fromkeys(("closed_why", "edited_from", "correlation_id", "trace", "idempotency_key"), _TEXT),
    **dict.fromkeys(("sent_at", "due", "closed_at"), _TIME),
    **dict.fromkeys(("attempts", "version"), (int,)),
    "public": (dict,),
    "runtime": (dict,),
    "explanation": (dict, NoneType),
}
"""The types of those that are not made anew, for what comes from a file."""
_LAST_TIME = 253402300800  # the end of the year 9999
_MOST = 2**31 - 1


def to_row(record: Record) -> dict[str, Any]:
    """Return a record as columns: plain values, and what JSON can hold."""
    return {
        **{name: getattr(record, name) for name in _SAME},
        "status": str(record.status),
        "reason": str(record.reason),
        "key": None if record.key is None else _packed(record.key),
        "size": record.size,
        "headers": [[name, _packed(value)] for name, value in record.headers],
        "origin": {name: getattr(record.origin, name) for name in _ORIGIN},
        "candidates": list(record.candidates),
        "error_chain": list(record.error_chain),
        "history": [{name: getattr(attempt, name) for name in _ATTEMPT} for attempt in record.history],
    }


def from_row(row: Any) -> Record:
    """Return the record of what has these columns as attributes."""
    return Record(
        **dict(zip(_SAME, _same(row), strict=True)),
        status=Status(row.status),
        reason=Reason(row.reason),
        key=None if row.key is None else _unpacked(row.key),
        headers=tuple((name, _unpacked(value)) for name, value in row.headers),
        origin=Origin(**row.origin),
        candidates=tuple(row.candidates),
        error_chain=tuple(row.error_chain),
        history=tuple(Attempt(**attempt) for attempt in row.history),
    )


def _packed(value: str | bytes) -> Any:
    """Return text or bytes as JSON can hold them."""
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _unpacked(value: Any) -> str | bytes:
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else str(value)


def to_json(record: Record) -> dict[str, Any]:
    """Return a whole record as JSON can hold it, body included."""
    return {"format": FORMAT, **to_row(record), "body": _packed(record.body)}


def _is_kept_and_shown(record: Record) -> bool:
    times = [getattr(record, name) for name in ("first_at", "last_at", "sent_at", "due", "closed_at")]
    times += [attempt.at for attempt in record.history]
    frames = [frame for link in record.error_chain for frame in link["frames"] if link["type"]]
    considered = [] if record.explanation is None else record.explanation["considered"]
    return (
        all(time is None or abs(time) < _LAST_TIME for time in times)
        and all(len(text) <= most for text, most in ((record.id, 40), (record.fingerprint, 32), (record.sha256, 64)))
        and max(record.attempts, record.version) <= _MOST
        and all({"file", "line", "function"} <= frame.keys() for frame in frames)
        and all({"handler", "verdict", "because"} <= one.keys() for one in considered)
    )


def from_json(value: dict[str, Any]) -> Record:
    """Return the record that `to_json` was given; dead, where that one waited to be taken up.

    Raises ValueError, TypeError, KeyError or AttributeError for what it never returned, and `UsageError` for what a
    newer Missive's did.
    """
    if value["format"] > FORMAT:
        raise UsageError("a newer Missive has written it: upgrade Missive")
    body = _unpacked(value["body"])
    if not isinstance(body, bytes) or hashlib.sha256(body).hexdigest() != value["sha256"]:
        raise ValueError("the body is not the one that was exported")
    record = from_row(SimpleNamespace(**{**value, "body": body}))
    if any(not isinstance(getattr(record, name), kinds) for name, kinds in _KINDS.items()):
        raise TypeError("a field is of another type")
    if not _is_kept_and_shown(record):
        raise ValueError("a field is larger, or of another shape, than a store keeps and a page shows")
    if record.status in (Status.queued, Status.parked):
        return replace(record, status=Status.dead, replay=None, due=None, lane=None)
    return record
