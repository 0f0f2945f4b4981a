"""Turn the rows of an SQLite queue into deliveries, whatever types and bytes their columns have."""

from __future__ import annotations

import json
from decimal import Decimal
from math import isfinite
from typing import Any

from missive.adapters.headers import Table, escape, to_json
from missive.messages import text_or_bytes
from missive.transport import Delivery

_MAX_HEADERS = 8 << 20
"""Length of a headers column above which the column is not parsed: it exceeds the bound of the engine in any case."""
_MAX_ATTEMPT = 1 << 31
"""Limit of a delivery count; the adapter writes no larger value."""


def to_delivery(row: tuple[Any, ...], token: str) -> Delivery:
    """Return the delivery of a row. SQLite stores values of any type in any column."""
    row_id, body, headers, key, topic, message_id, content_type, sent_at, deliveries = row
    too_large = _too_large(body, headers)
    if too_large is not None:
        body, headers = b"", None
    try:
        attempt = deliveries if type(deliveries) is int and 0 < deliveries < _MAX_ATTEMPT else 1 + (deliveries > 1)
        return Delivery(
            body,
            headers=() if headers is None else _headers(headers),
            native_id=str(row_id),
            producer_id=None if message_id is None else _text(message_id),
            key=key if key is None or isinstance(key, (str, bytes)) else str(key),
            topic=None if topic is None else _text(topic),
            timestamp=sent_at if isinstance(sent_at, (int, float)) and isfinite(sent_at) else None,
            content_type=None if content_type is None else _text(content_type),
            position=row_id,
            token=token,
            attempt=attempt,
            redelivered=attempt > 1,
            native=row_id,
            too_large=too_large,
        )
    except Exception:  # noqa: BLE001 - one row must not stop the queue
        reason = "the columns of the row cannot be decoded"
        return Delivery(body, native_id=str(row_id), position=row_id, token=token, native=row_id, unreadable=reason)


def _too_large(body: bytes | int, headers: object) -> str | None:
    """Return which bound a row exceeds, or None. The query returns only the size of a body that is too large."""
    if isinstance(body, int):
        return f"the body has {body} bytes, which is more than max_body"
    if isinstance(headers, (str, bytes)) and len(headers) > _MAX_HEADERS:
        return f"the column headers has {len(headers)} characters"
    return None


def _text(value: object) -> str:
    return escape(value) if isinstance(value, (str, bytes)) else str(value)


def _headers(column: object) -> list[tuple[str, str | bytes]]:
    """Return the pairs of a headers column. Invalid content becomes one header, so no message is lost."""
    try:
        text: Any = column.decode("utf-8", "surrogateescape") if isinstance(column, bytes) else column
        pairs = json.loads(text, parse_float=Decimal, object_pairs_hook=Table)
        if not isinstance(pairs, Table) and any([not isinstance(pair, list) for pair in pairs]):  # noqa: C419 - faster
            raise ValueError  # noqa: TRY301 - handled below
        return [(_text(_header_value(name)), _header_value(value)) for name, value in pairs]
    except (TypeError, ValueError, RecursionError):
        return [("headers", column if isinstance(column, (str, bytes)) else str(column))]


def _header_value(value: object) -> str | bytes:
    """Return text as it is, bytes that are not UTF-8 as bytes, and other values as JSON."""
    if not isinstance(value, str):
        return to_json(value)
    if value.isascii():
        return value
    try:
        return text_or_bytes(value.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # a lone surrogate of the JSON text
        return escape(value)
