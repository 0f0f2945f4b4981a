"""A raw encoder of AMQP tables, for bytes that no client library writes, and a collection of odd headers."""

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


ODD: dict[bytes, tuple[tuple[bytes, bytes], str]] = {
    b"milliseconds": ((b"h", packed(b"T", "q", 1772000000000)), "1772000000000"),
    b"largest time": ((b"h", packed(b"T", "Q", (1 << 63) - 1)), "9223372036854775807"),
    b"negative time": ((b"h", packed(b"T", "q", -62135596801)), "-62135596801"),
    b"double": ((b"h", packed(b"d", "d", 0.75)), "0.75"),
    b"float": ((b"h", packed(b"f", "f", 0.5)), "0.5"),
    b"decimal": ((b"h", packed(b"D", "Bi", 2, 314)), "3.14"),
    b"large scale": ((b"h", packed(b"D", "Bi", 255, 7)), "7E-255"),
    b"void": ((b"h", b"V"), "null"),
    b"signed": ((b"h", packed(b"b", "b", -7)), "-7"),
    b"short": ((b"h", packed(b"s", "h", -300)), "-300"),
    b"unsigned": ((b"h", packed(b"i", "I", 1 << 31)), "2147483648"),
    b"bytes": ((b"h", sized(b"x", b"\xff\x00")), "ff00"),
    b"odd text": ((b"h", sized(b"S", b"\xff")), "ff"),
    b"odd name": ((b"\xfe", sized(b"S", b"v")), "v"),
    b"no name": ((b"", sized(b"S", b"v")), "v"),
    b"nested name": ((b"h", sized(b"F", pairs([(b"\xff", packed(b"t", "B", 1))]))), '{"\\udcff": true}'),
    b"nested bytes": ((b"h", sized(b"A", sized(b"x", b"\xfe"))), '["\\udcfe"]'),
    b"nested time": ((b"h", sized(b"A", packed(b"T", "q", 1772000000000))), "[1772000000000]"),
    b"deep": ((b"h", nested(90)), "[" * 91 + "]" * 91),
    b"too deep": ((b"h", nested(1000)), nested(1000).hex()),
    b"deep tables": ((b"h", nested(1000, b"F")), nested(1000, b"F").hex()),
    b"count": ((b"x-delivery-count", sized(b"S", b"many")), "many"),
    b"negative count": ((b"x-delivery-count", packed(b"l", "q", -(1 << 63))), str(-(1 << 63))),
}
REFUSED = {b"unknown type": b"Z", b"not a number": packed(b"d", "d", float("nan")), b"cut": b"S\x00\x00\x00\x09a"}
"""Values that some brokers refuse from a producer."""


def odd_properties() -> dict[bytes, RawProperties]:
    """Return properties that a broker accepts, by a name: each has odd headers, ids or times."""
    content_type, message_id, timestamp = 1 << 15, 1 << 7, 1 << 6
    word = struct.Struct(">H").pack
    return {
        **{name: raw_headers(header) for name, (header, _) in ODD.items()},
        b"many": raw_headers(*[(b"n%d" % number, b"V") for number in range(1000)]),
        b"repeated": raw_headers(*[(b"n", b"V")] * 1000),
        b"odd id": RawProperties(word(message_id) + short(b"\xff\x00")),
        b"no id": RawProperties(word(message_id) + short(b"")),
        b"odd type": RawProperties(word(content_type) + short(b"\xff\x00")),
        b"odd time": RawProperties(word(timestamp) + b"\xff" * 8),
        b"later": RawProperties(word(timestamp) + (1772000000000).to_bytes(8, "big")),
    }
