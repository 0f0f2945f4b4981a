"""Decode AMQP tables of any bytes: the headers of a message, and pika's form of them.

RabbitMQ defines the types of values in its errata of the AMQP specification:
https://www.rabbitmq.com/amqp-0-9-1-errata. A value that cannot be decoded keeps its bytes, so no table loses a message.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Context, Decimal
from struct import Struct
from typing import Any

from missive.adapters.headers import Table, escape, to_json
from missive.messages import text_or_bytes

_MAX_DEPTH = 100
"""Limit of tables and arrays inside each other. JSON decoders have limits of about a thousand."""
_TEXT, _BYTES, _ARRAY, _TABLE, _VOID = b"SxAFV"
_LENGTH = Struct(">I")
_EXACT = Context(prec=12)
"""A decimal of AMQP has at most ten digits; the default context of the thread may have fewer."""


class Timestamp(int):
    """Seconds since 1970; some producers write milliseconds."""


class Raw(bytes):
    """The encoded value that cannot be decoded: its type, and its content or the rest of the table."""


def _decimal(scale: int, digits: int) -> Decimal:
    return Decimal(digits).scaleb(-scale, _EXACT)


_FIXED: dict[int, tuple[Struct, Callable[..., Any] | None]] = {
    **{kind: (Struct(f">{code}"), None) for kind, code in zip(b"tbBsUuIilLfd", "?bBhhHiIqqfd", strict=True)},
    ord("D"): (Struct(">Bi"), _decimal),
    # Producers of negative timestamps write two's complement, although the specification has no sign.
    ord("T"): (Struct(">q"), Timestamp),
}
"""The types of a fixed size, by their octet: their encoding, and a conversion."""


class _UndecodableError(Exception):
    """A value cannot be decoded. `end` is the offset of the next value, or None where the end is unknown."""

    def __init__(self, end: int | None = None) -> None:
        self.end = end


def decode_table(encoded: bytes, at: int) -> tuple[Table, int, bool]:
    """Return a table, the offset of its end, and whether all values could be decoded.

    A value that cannot be decoded is `Raw`. Raise an exception where the table exceeds `encoded`.
    """
    (size,) = _LENGTH.unpack_from(encoded, at)
    at += _LENGTH.size
    end = at + size
    if end > len(encoded):
        raise ValueError("the table is longer than its frame")
    table, complete = Table(), True
    while at < end:
        start = min(at + 1 + encoded[at], end)
        name = text_or_bytes(encoded[at + 1 : start])
        try:
            value, at = _decode_value(encoded, start, end, 0)
        except _UndecodableError as error:
            complete = False
            at = end if error.end is None else error.end
            value = Raw(encoded[start:at])
        table.append((name, value))
    return table, end, complete


def _decode_value(encoded: bytes, at: int, end: int, depth: int) -> tuple[Any, int]:
    """Return the value at an offset and the offset of its end. Raise `_UndecodableError`."""
    start = _within(at + 1, end)
    kind = encoded[at]
    if (fixed := _FIXED.get(kind)) is not None:
        encoding, convert = fixed
        after = _within(start + encoding.size, end)
        values = encoding.unpack_from(encoded, start)
        return values[0] if convert is None else convert(*values), after
    if kind == _VOID:
        return None, start
    if kind not in (_TEXT, _BYTES, _ARRAY, _TABLE):
        raise _UndecodableError
    content = _within(start + _LENGTH.size, end)
    after = _within(content + _LENGTH.unpack_from(encoded, start)[0], end)
    if kind == _TEXT:
        return text_or_bytes(encoded[content:after]), after
    if kind == _BYTES:
        return encoded[content:after], after
    try:
        return _decode_values(encoded, content, after, depth + 1, named=kind == _TABLE), after
    except _UndecodableError:
        raise _UndecodableError(after) from None


def _decode_values(encoded: bytes, at: int, end: int, depth: int, *, named: bool) -> list[Any]:
    """Return the values of an array, or the pairs of a table."""
    if depth > _MAX_DEPTH:
        raise _UndecodableError
    values: list[Any] = Table() if named else []
    while at < end:
        if not named:
            value, at = _decode_value(encoded, at, end, depth)
            values.append(value)
            continue
        start = _within(at + 1 + encoded[at], end)
        name = text_or_bytes(encoded[at + 1 : start])
        value, at = _decode_value(encoded, start, end, depth)
        values.append((name, value))
    return values


def _within(after: int, end: int) -> int:
    if after > end:
        raise _UndecodableError
    return after


def to_headers(table: Table) -> list[tuple[str, str | bytes]]:
    """Return a table as headers. A value other than text and bytes becomes JSON; timestamps are numbers."""
    return [
        (
            escape(name) if isinstance(name, bytes) else name,
            value if isinstance(value, (str, bytes)) else to_json(value),
        )
        for name, value in table
    ]


def to_pika(value: Any) -> Any:
    """Return a value as pika returns it, with exact numbers. A timestamp that no `datetime` can hold stays a number."""
    if isinstance(value, Table):
        return {name: to_pika(inner) for name, inner in value}
    if isinstance(value, list):
        return [to_pika(inner) for inner in value]
    if isinstance(value, Timestamp):
        try:
            return datetime.fromtimestamp(value, UTC)
        except (OverflowError, OSError, ValueError):
            return int(value)
    return value
