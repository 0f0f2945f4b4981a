"""Tables of any bytes are decoded; their values arrive as text that reads back to the same values."""

from __future__ import annotations

import decimal
import json
import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec

from missive.adapters.headers import to_json
from missive.adapters.rabbitmq.reader import Reader
from missive.adapters.rabbitmq.tables import Raw, decode_table, to_headers, to_pika
from missive.transport import Delivery
from tests.support import amqp
from tests.support.amqp import nested, packed, sized, table

FLOATS = st.floats(allow_nan=False)
SCALARS = st.one_of(
    st.booleans().map(lambda value: (value, packed(b"t", "?", value))),
    st.integers(-(1 << 63), (1 << 63) - 1).map(lambda value: (value, packed(b"l", "q", value))),
    st.integers(-(1 << 15), (1 << 15) - 1).map(lambda value: (value, packed(b"s", "h", value))),
    st.integers(0, (1 << 32) - 1).map(lambda value: (value, packed(b"i", "I", value))),
    FLOATS.map(lambda value: (value, packed(b"d", "d", value))),
    st.floats(allow_nan=False, width=32).map(lambda value: (value, packed(b"f", "f", value))),
    st.integers(-(1 << 63), (1 << 63) - 1).map(lambda value: (value, packed(b"T", "q", value))),
    st.none().map(lambda value: (value, b"V")),
    st.text(max_size=9).map(lambda value: (value, sized(b"S", value.encode()))),
)


def nest(inner: st.SearchStrategy[tuple[Any, bytes]]) -> st.SearchStrategy[tuple[Any, bytes]]:
    names = st.text(max_size=9)
    return st.one_of(
        st.lists(inner, max_size=3).map(
            lambda items: ([value for value, _ in items], sized(b"A", b"".join(encoded for _, encoded in items)))
        ),
        st.dictionaries(names, inner, max_size=3).map(
            lambda items: (
                {name: value for name, (value, _) in items.items()},
                sized(b"F", amqp.pairs((name.encode(), encoded) for name, (_, encoded) in items.items())),
            )
        ),
    )


def headers(*named: tuple[bytes, bytes]) -> list[tuple[str, str | bytes]]:
    encoded = table(*named)
    decoded, end, _ = decode_table(encoded, 0)
    assert end == len(encoded)
    return to_headers(decoded)


def header(encoded: bytes) -> str | bytes:
    ((_, value),) = headers((b"h", encoded))
    return value


@given(st.recursive(SCALARS, nest, max_leaves=10))
def test_a_value_reads_back_to_the_same_value(given_value: tuple[Any, bytes]):
    """A text arrives as it is, and any other value as JSON of the same value and type."""
    value, encoded = given_value
    found = header(encoded)
    assert isinstance(found, str)
    read = found if isinstance(value, str) else json.loads(found)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("encoded", "text"),
    [
        (packed(b"d", "d", 0.75), "0.75"),
        (packed(b"d", "d", 1e300), "1e+300"),
        (packed(b"d", "d", math.inf), "Infinity"),
        (packed(b"f", "f", 0.1), "0.10000000149011612"),
        (packed(b"D", "Bi", 2, 314), "3.14"),
        (packed(b"D", "Bi", 2, -(1 << 31)), "-21474836.48"),
        (packed(b"D", "Bi", 255, 1), "1E-255"),
        (packed(b"T", "q", 1772000000000), "1772000000000"),
        (packed(b"T", "q", -1), "-1"),
        (packed(b"t", "B", 2), "true"),
        (sized(b"x", b"text"), "text"),
    ],
)
def test_numbers_are_exact(encoded: bytes, text: str):
    """Floats, decimals and timestamps keep their digits, and nested values are written alike."""
    with decimal.localcontext() as context:
        context.prec = 3
        found = header(encoded)
        assert (found.decode() if isinstance(found, bytes) else found) == text
        if encoded[:1] != b"x":
            assert header(sized(b"A", encoded)) == f"[{text}]"


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_nested_bytes_read_back_to_the_same_bytes(name: bytes, value: bytes):
    """Names and values of nested tables that are not UTF-8 keep their bytes, in lone surrogates."""
    found = header(sized(b"F", amqp.pairs([(name, sized(b"x", value))])))
    ((read_name, read_value),) = json.loads(found).items()
    assert read_name.encode("utf-8", "surrogateescape") == name
    assert read_value.encode("utf-8", "surrogateescape") == value


def test_repeated_names_are_kept():
    """Headers and nested tables keep repeated names."""
    one, two = packed(b"b", "b", 1), packed(b"b", "b", 2)
    assert headers((b"a", one), (b"\xff", two), (b"a", two)) == [("a", "1"), ("\\xff", "2"), ("a", "2")]
    assert header(sized(b"F", amqp.pairs([(b"a", one), (b"a", two)]))) == '{"a": 1, "a": 2}'


@pytest.mark.parametrize(
    "odd",
    [
        b"Z123",
        b"",
        b"S",
        b"S\xff\xff\xff\xff",
        b"l\x00",
        sized(b"A", b"Z"),
        sized(b"F", b"\x09ab"),
        sized(b"F", amqp.pairs([(b"a", b"Z")])),
        nested(5000),
        nested(5000, b"F"),
    ],
    ids=lambda odd: repr(odd[:12]),
)
def test_an_undecodable_value_keeps_its_bytes(odd: bytes):
    """The header has the encoded value as bytes, and the headers before it are decoded.

    The headers behind it are decoded where its length is known.
    """
    sized_value = odd[:1] in (b"A", b"F")
    last = [(b"last", sized(b"S", b"2"))] if sized_value else []
    encoded = table((b"first", sized(b"S", b"1")), (b"odd", odd), *last)
    decoded, end, complete = decode_table(encoded, 0)
    assert (end, complete) == (len(encoded), False)
    assert decoded == [("first", "1"), ("odd", odd), *([("last", "2")] if sized_value else [])]
    assert isinstance(decoded[1][1], Raw)


@given(st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(lambda table: b"\x20\x00\x00\x00\x00\x28" + table)))
def test_any_bytes_become_a_delivery(encoded: bytes):
    """Whatever the properties are, the message arrives, and pika's form of the properties can be read."""
    taken: list[Delivery] = []
    passed: list[bytes] = []
    reader = Reader(1, taken.extend, passed.append)
    reader.queues[b"t"] = "q"
    deliver = frame.Method(1, spec.Basic.Deliver("t", 7, False, "", "q")).marshal()
    header_frame = frame.Header(1, 1, amqp.RawProperties(encoded)).marshal()
    reader.read(deliver + header_frame + frame.Body(1, b"x").marshal())
    (one,) = taken
    assert (one.body, one.token, passed) == (b"x", 7, [])
    assert isinstance(one.native.properties, pika.BasicProperties)
    if one.unreadable is not None:
        assert one.headers == [("properties", encoded)]
        assert one.native.undecoded == ("properties",)
    assert one.native.undecoded or not reader.incomplete


def test_pika_gets_exact_values():
    """`context.native.properties` has the types of pika; a timestamp out of range is a number."""
    named = [
        (b"f", packed(b"d", "d", 0.75)),
        (b"t", packed(b"T", "q", 1772000000)),
        (b"ms", packed(b"T", "q", 1772000000000)),
        (b"in", sized(b"F", amqp.pairs([(b"\xff", sized(b"A", packed(b"D", "Bi", 1, 5)))]))),
    ]
    decoded, _, _ = decode_table(table(*named), 0)
    assert to_pika(decoded) == {
        "f": 0.75,
        "t": datetime.fromtimestamp(1772000000, UTC),
        "ms": 1772000000000,
        "in": {b"\xff": [Decimal("0.5")]},
    }
    assert to_json(decoded) == '{"f": 0.75, "t": 1772000000, "ms": 1772000000000, "in": {"\\udcff": [0.5]}}'
