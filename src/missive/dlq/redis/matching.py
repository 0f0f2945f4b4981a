"""The conditions of a query, applied to records and buckets that have been read."""

from __future__ import annotations

import json

from missive.dlq.contract import Query
from missive.dlq.record import Record
from missive.dlq.redis.keys import Bucket


def matches_bucket(query: Query, bucket: Bucket, status: str) -> bool:
    """Return whether the group part of a query selects the records of a bucket and status."""
    without = [one for one in query.without if one.selects_groups]
    return _holds(query, bucket, status) and not any(matches_bucket(one, bucket, status) for one in without)


def _holds(query: Query, bucket: Bucket, status: str) -> bool:
    return (not query.statuses or status in query.statuses) and all(
        wanted is None or wanted == there
        for wanted, there in (
            (query.group, bucket.fingerprint),
            (query.service, bucket.service),
            (query.reason, bucket.reason),
            (query.handler, bucket.handler),
            (query.label, bucket.label),
            (query.error, bucket.error_type),
        )
    )


def matches(query: Query, record: Record) -> bool:
    """Return whether a query selects a record."""
    return (
        _holds(query, Bucket.of(record), record.status)
        and (not query.ids or record.id in query.ids)
        and (query.replay is None or query.replay == record.replay)
        and (query.topic is None or query.topic == record.topic)
        and (query.source is None or query.source in (record.origin.url, record.origin.destination))
        and _is_between(query.min_attempts, record.attempts, query.max_attempts, inclusive=True)
        and _is_between(query.first_after, record.first_at, query.first_before)
        and _is_between(query.last_after, record.last_at, query.last_before)
        and all(_mentions(record, word) for word in query.text)
        and not any(matches(left_out, record) for left_out in query.without)
    )


def _is_between(least: float | None, value: float, most: float | None, *, inclusive: bool = False) -> bool:
    if inclusive:
        return (least is None or least <= value) and (most is None or value <= most)
    return (least is None or least < value) and (most is None or value < most)


def _mentions(record: Record, word: str) -> bool:
    shown = (record.label, record.handler, record.error_type)
    # As JSON, so that a text is found at any depth of the public values.
    quoted, public = (json.dumps(value, ensure_ascii=False).lower() for value in (word, record.public))
    return quoted[1:-1] in public or any(text is not None and word.lower() in text.lower() for text in shown)
