"""Messages: envelope, headers, identity, and the decoding of bodies."""

from __future__ import annotations

import json
import re
import time
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive import JSONMessage, Message, RawMessage, StructuredMessage
from missive.engine.intake.factory import message_factory
from missive.errors import DecodingError
from missive.messages import Headers
from missive.transport import Delivery
from tests.support import strategies

CANARY = "canary-4711"
ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


class Upper(RawMessage):
    """A message class that overrides the constructor."""

    def __init__(self, raw_data, **envelope):
        super().__init__(raw_data.upper(), **envelope)


@pytest.mark.parametrize(("message_cls", "body"), [(JSONMessage, b"body"), (RawMessage, b"body"), (Upper, b"BODY")])
def test_the_factory_makes_a_message_from_a_delivery(message_cls, body):
    """The message has the fields of the delivery, and its own constructor runs."""
    given = Delivery(
        b"body", headers={"a": "1"}, topic="t", key=b"k", native_id="n", timestamp=1.5, content_type="text/plain"
    )
    message = message_factory(message_cls)(given)
    assert type(message) is message_cls
    assert (message.raw_data, message.topic, message.key, message.message_id) == (body, "t", b"k", "n")
    assert (message.timestamp, message.content_type, dict(message.headers)) == (1.5, "text/plain", {"a": "1"})
    given.producer_id = "p"
    assert message_factory(message_cls)(given).message_id == "p"


def test_the_envelope_has_the_given_values():
    """Every part of the envelope can be read; missing parts are None."""
    full = RawMessage(
        b"body", headers={"a": "1"}, topic="t", key=b"k", message_id="id", timestamp=1.5, content_type="text/plain"
    )
    assert (
        full.raw_data,
        full.topic,
        full.key,
        full.message_id,
        full.timestamp,
        full.content_type,
    ) == (b"body", "t", b"k", "id", 1.5, "text/plain")
    bare = RawMessage(b"")
    assert (bare.topic, bare.key, bare.timestamp, bare.content_type) == (None, None, None, None)
    assert dict(bare.headers) == {}


def test_only_the_body_is_positional():
    """All arguments except the body are keyword-only."""
    with pytest.raises(TypeError):
        RawMessage(b"", {"a": "1"})


def test_an_id_is_generated_once():
    """Without an id from the transport, an id is generated at the first access and stays the same."""
    message = RawMessage(b"")
    first = message.message_id
    assert ULID.fullmatch(first)
    assert first == message.message_id
    assert first != RawMessage(b"").message_id


def test_a_given_id_is_unchanged():
    """The id of a producer may have any form."""
    for given_id in ["order 1", "", "号", "a\nb"]:
        assert given_id == RawMessage(b"", message_id=given_id).message_id


def test_messages_are_equal_when_their_ids_are():
    """Equality and hash depend on the id only, not on the body or the class."""
    one, other = RawMessage(b"1", message_id="a"), JSONMessage(b"2", message_id="a")
    assert one == other
    assert len({one, other}) == 1
    assert one != RawMessage(b"1", message_id="b")
    assert RawMessage(b"") != RawMessage(b"")
    assert one != "a"


@pytest.mark.parametrize("cls", [RawMessage, JSONMessage, Message])
def test_repr_shows_class_id_digest_and_size(cls):
    """A repr shows no value from the producer: no body, header, topic, key or id."""
    message = cls(
        CANARY.encode(), headers={CANARY: CANARY}, topic=CANARY, key=CANARY, message_id=CANARY, content_type=CANARY
    )
    shown = repr(message)
    assert re.fullmatch(rf"<{cls.__name__} id#[0-9a-f]{{8}}, {len(CANARY)} bytes>", shown)
    assert shown == repr(cls(CANARY.encode(), message_id=CANARY))
    assert shown != repr(cls(CANARY.encode(), message_id="other"))
    assert CANARY not in f"{message.headers!r} {message!s}"


def test_repr_accepts_an_id_with_a_lone_surrogate():
    """A lone surrogate in an id does not break the repr."""
    assert "id#" in repr(RawMessage(b"", message_id="\ud800"))


def test_headers_are_found_in_any_ascii_case():
    """Names match ASCII case-insensitively in index, `in` and `get`."""
    headers = RawMessage(b"", headers={"X-Id": "1"}).headers
    assert headers["x-id"] == headers["X-ID"] == headers.get("x-Id") == "1"
    assert "X-ID" in headers
    assert "y" not in headers
    with pytest.raises(KeyError, match="Y-Id"):
        headers["Y-Id"]


def test_header_names_outside_ascii_are_not_folded():
    """Names that differ in more than ASCII case are different headers."""
    headers = Headers({"\u212aey": "kelvin", "key": "k", "Éa": "upper", "éA": "lower"})
    assert (headers["\u212aEY"], headers["KEY"], headers["ÉA"], headers["éa"]) == ("kelvin", "k", "upper", "lower")
    assert len(headers) == 4


def test_a_repeated_header_is_a_tuple_in_order():
    """The values of a repeated name, in any spelling, are a tuple in order of arrival."""
    headers = Headers([("a", "1"), ("B", "x"), ("A", "2"), ("a", b"\xff")])
    assert headers["a"] == ("1", "2", b"\xff")
    assert headers["b"] == "x"
    assert list(headers) == ["a", "b"]
    assert len(headers) == 2


def test_pairs_are_the_original_headers():
    """`pairs` has duplicates, order and original spelling."""
    pairs = (("a", "1"), ("B", "x"), ("A", "2"))
    assert pairs == Headers(list(pairs)).pairs
    assert pairs == RawMessage(b"", headers=iter(pairs)).headers.pairs


def test_a_header_value_in_utf_8_is_text():
    """Valid UTF-8 becomes a str; other bytes stay bytes."""
    headers = Headers({"utf": "é".encode(), "latin": b"\xe9", "text": "é", "empty": b""})
    assert tuple(headers.values()) == ("é", b"\xe9", "é", "")


def test_headers_are_parsed_once():
    """Reading the headers twice returns the same object, even if they were given as an iterator."""
    message = RawMessage(b"", headers=(pair for pair in [("a", "1")]))
    assert message.headers is message.headers
    assert message.headers["a"] == "1"


@given(st.lists(st.tuples(strategies.header_names, strategies.words), max_size=6))
@strategies.examples(30)
def test_headers_lose_nothing(pairs):
    """Every value of a name is found under the name, in order."""
    headers = Headers(pairs)
    for name in {name.lower() for name, _ in pairs}:
        expected = tuple(value for n, value in pairs if n.lower() == name)
        assert (expected if len(expected) > 1 else expected[0]) == headers[name]
    assert len(headers) == len({name.lower() for name, _ in pairs})


@given(strategies.bodies)
@strategies.examples(45)
def test_json_round_trip(value):
    """`JSONMessage.of` and `get_json` are inverse, including integers beyond 64 bits."""
    message = JSONMessage.of(value)
    assert value == message.get_json()
    assert message.get_json() is message.content
    assert value == json.loads(message.raw_data)
    assert message.content_type == "application/json"


@pytest.mark.parametrize("number", [2**63, 2**64, 2**64 + 1, -(2**63) - 1, 10**308, 10**309, 10**4000])
def test_integers_stay_exact(number):
    """An integer of any size is decoded exactly, never as a float."""
    content = JSONMessage(b'{"n": %d}' % number).get_json()
    assert number == content["n"]
    assert type(content["n"]) is int


def test_integers_beyond_the_interpreters_limit_are_undecodable():
    """An integer with more digits than the interpreter's limit raises DecodingError and is never rounded."""
    with pytest.raises(DecodingError):
        JSONMessage(b"1" + b"0" * 5000).get_json()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"\xff",
        b"{'a': 1}",
        b"[1,]",
        b"1 2",
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
    ],
)
def test_invalid_json_raises_each_time(body):
    """An invalid body raises DecodingError at every access, and the error names the class."""
    message = JSONMessage(body)
    for _ in range(2):
        with pytest.raises(DecodingError, match="the body is not a JSONMessage"):
            message.get_json()


def test_a_decoding_error_holds_no_content():
    """The text, the chain and the traceback of a DecodingError contain no part of the body."""
    message = JSONMessage(json.dumps(CANARY).encode() + CANARY.encode())
    with pytest.raises(DecodingError) as caught:
        message.get_json()
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_a_subclass_can_decode():
    """The `decode` of a subclass runs once, and its result is `content`."""
    calls = []

    class Upper(StructuredMessage):
        def decode(self):
            calls.append(self.raw_data)
            return self.raw_data.decode().upper()

    message = Upper(b"a")
    assert (message.content, message.content) == ("A", "A")
    assert calls == [b"a"]


@pytest.mark.parametrize("raised", [ValueError(CANARY), KeyError(CANARY), RecursionError(CANARY), UnicodeError(CANARY)])
def test_any_exception_of_a_decoder_becomes_a_decoding_error(raised):
    """The DecodingError names the type of the exception, and `decode` runs once."""
    calls = []

    class Broken(StructuredMessage):
        def decode(self):
            calls.append(1)
            raise raised

    message = Broken(b"")
    for _ in range(2):
        with pytest.raises(DecodingError, match=f"not a Broken .{type(raised).__name__} while decoding.") as caught:
            _ = message.content
        assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert calls == [1]


def test_a_decoder_may_raise_decoding_error():
    """The text of a DecodingError from `decode` is unchanged."""

    class Picky(StructuredMessage):
        def decode(self):
            raise DecodingError("version 3 is not supported")

    with pytest.raises(DecodingError, match="version 3 is not supported"):
        _ = Picky(b"").content


def test_a_structured_message_needs_a_decoder():
    """A subclass without `decode` raises NotImplementedError, so its messages do not count as unreadable."""
    with pytest.raises(NotImplementedError, match="StructuredMessage must override decode"):
        _ = StructuredMessage(b"").content


def test_content_may_be_none():
    """The content of the body `null` is None."""
    assert JSONMessage(b"null").content is None


def test_an_undecodable_message_keeps_its_envelope():
    """The body, headers and id of an undecodable message can be read."""
    message = JSONMessage(b"{", headers={"a": "1"}, message_id="id")
    with pytest.raises(DecodingError):
        message.get_json()
    assert (message.raw_data, message.headers["a"], message.message_id) == (b"{", "1", "id")


def test_of_makes_a_message_of_the_subclass():
    """`of` returns an instance of the class on which it is called, with the given envelope."""

    class Order(JSONMessage):
        pass

    order = Order.of({"a": 1}, headers={"h": "1"}, topic="t", key="k", message_id="i", timestamp=2.0, content_type=None)
    assert type(order) is Order
    assert (
        order.headers["h"],
        order.topic,
        order.key,
        order.message_id,
        order.timestamp,
        order.content_type,
    ) == ("1", "t", "k", "i", 2.0, None)


def test_a_repeated_header_is_collected_in_linear_time():
    """160,000 values of one header are collected in about a second; their number does not count twice."""
    began = time.perf_counter()
    headers = Headers([("a", "b"), ("A", b"c")] * 80_000)
    assert headers["a"][:2] == ("b", "c")
    assert len(headers["a"]) == 160_000
    assert time.perf_counter() - began < 10
