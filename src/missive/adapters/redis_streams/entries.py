"""Turn the entries of a stream into deliveries."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec

from missive.messages import text_or_bytes
from missive.transport import Delivery

_SEQUENCE_BITS = 20
"""Bits of a position for the number of an entry within its millisecond. A producer's own id may need more."""


class RedisNative(msgspec.Struct, frozen=True, gc=False):
    """The value of `context.native`: the id of the entry, and its raw fields (names and values in turn)."""

    id: str
    fields: Sequence[bytes]

    def __repr__(self) -> str:
        return f"<RedisNative {self.id}>"


def to_delivery(entry: str, fields: Sequence[bytes], attempt: int, token: int, body_field: bytes) -> Delivery:
    """Return the delivery of an entry, given its id, its fields, and the name of the field that holds the body."""
    headers: Sequence[tuple[str, str | bytes]] = ()
    unreadable = None
    if len(fields) == 2 and fields[0] == body_field:  # noqa: PLR2004 - a name and its value
        body = fields[1]
    else:
        try:
            body, headers = _body_and_headers(fields, body_field)
        except Exception:  # noqa: BLE001 - one entry must not stop the group
            body, unreadable = b"", "the fields of the entry cannot be decoded"
    milliseconds, _, sequence = entry.partition("-")
    at, number = int(milliseconds), int(sequence)
    return Delivery(
        body,
        headers=headers,
        native_id=entry,
        timestamp=at / 1000,
        position=at << _SEQUENCE_BITS | number if number < 1 << _SEQUENCE_BITS else None,
        token=token,
        attempt=attempt,
        redelivered=attempt > 1,
        native=RedisNative(entry, fields),
        unreadable=unreadable,
    )


def order_of(delivery: Delivery) -> tuple[int, int]:
    """Return the sort key of an entry's id. Unlike a position, every id has one."""
    milliseconds, _, sequence = (delivery.native_id or "0-0").partition("-")
    return int(milliseconds), int(sequence)


def _body_and_headers(fields: Sequence[bytes], body_field: bytes) -> tuple[bytes, Sequence[tuple[str, str | bytes]]]:
    """Return the body and headers of an entry with several fields, or without a body field."""
    pairs = list(zip(fields[::2], fields[1::2], strict=False))
    bodies = [value for name, value in pairs if name == body_field]
    if not bodies:
        whole = {_text(name): _text(value) for name, value in pairs}
        return json.dumps(whole, ensure_ascii=False).encode(), ()
    body = pairs.index((body_field, bodies[0]))  # another field of this name is a header
    return bodies[0], [(_text(name), text_or_bytes(value)) for name, value in pairs[:body] + pairs[body + 1 :]]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
