"""A raw encoder of AMQP tables, for bytes that no client library writes."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import pika

HEADERS, DELIVERY_MODE = 1 << 13, 1 << 12


def short(text: bytes) -> bytes:
    """Return a short string."""
    return bytes([len(text)]) + text


def sized(kind: bytes, content: bytes) -> bytes:
    """Return a value with a length: text (S), bytes (x), an array (A) or a table (F)."""
    return kind + struct.pack(">I", len(content)) + content


def packed(kind: bytes, code: str, *values: Any) -> bytes:
    """Return a value of a fixed size, packed by a code of `struct`."""
    return kind + struct.pack(f">{code}", *values)


def pairs(named: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the content of a table, given its names and encoded values."""
    return b"".join(short(name) + value for name, value in named)


def table(*named: tuple[bytes, bytes]) -> bytes:
    """Return a table with its length."""
    return sized(b"", pairs(named))


def nested(depth: int, kind: bytes = b"A") -> bytes:
    """Return an empty array or table inside others."""
    value = sized(kind, b"")
    for _ in range(depth):
        value = sized(kind, short(b"n") + value if kind == b"F" else value)
    return value


class RawProperties(pika.BasicProperties):  # type: ignore[misc] # pika has no types
    """Properties whose encoded bytes are given."""

    def __init__(self, encoded: bytes) -> None:
        super().__init__()
        self._encoded = encoded

    def encode(self) -> list[bytes]:
        return [self._encoded]


def raw_headers(*named: tuple[bytes, bytes]) -> RawProperties:
    """Return persistent properties with headers of any bytes."""
    flags = struct.pack(">H", HEADERS | DELIVERY_MODE)
    return RawProperties(flags + table(*named) + b"\x02")
