"""Messages: envelope, headers, identity, and bodies that decode once or not at all."""

from __future__ import annotations

import json
import re
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive import JSONMessage, Message, RawMessage, StructuredMessage
from missive.engine.intake.factory import message_factory
from missive.errors import DecodingError
from missive.ids import new_id
from missive.messages import Headers
from missive.transport import Delivery
from tests.support import strategies

CANARY = "canary-4711"
ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


class Upper(RawMessage):
    """A message that is made in a way of its own."""

    def __init__(self, raw_data, **envelope):
        super().__init__(raw_data.upper(), **envelope)


@pytest.mark.parametrize(("message_cls", "body"), [(JSONMessage, b"body"), (RawMessage, b"body"), (Upper, b"BODY")])
def test_a_message_is_made_of_a_delivery(message_cls, body):
    """What a transport delivered is in the message, which is made as its class says."""
    given = Delivery(
        b"body", headers={"a": "1"}, topic="t", key=b"k", native_id="n", timestamp=1.5, content_type="text/plain"
    )
    message = message_factory(message_cls)(given)
    assert type(message) is message_cls
    assert (message.raw_data, message.topic, message.key, message.message_id) == (body, "t", b"k", "n")
    assert (message.timestamp, message.content_type, dict(message.headers)) == (1.5, "text/plain", {"a": "1"})
    given.producer_id = "p"
    assert message_factory(message_cls)(given).message_id == "p"


def test_the_envelope_is_what_was_given():
    """Every part of the envelope can be read back; what was not given is None."""
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
    """Everything but the body is a keyword."""
    with pytest.raises(TypeError):
        RawMessage(b"", {"a": "1"})


def test_an_id_is_generated_once():
    """Without an id from outside, one is generated at first access and stays."""
    message = RawMessage(b"")
    first = message.message_id
    assert ULID.fullmatch(first)
    assert first == message.message_id
    assert first != RawMessage(b"").message_id


def test_the_id_from_outside_is_kept_as_it_is():
    """A producer's id is not changed, whatever it looks like."""
    for given_id in ["order 1", "", "号", "a\nb"]:
        assert given_id == RawMessage(b"", message_id=given_id).message_id


def test_messages_are_equal_when_their_ids_are():
    """Equality and hash are the id's, whatever the body and the class."""
    one, again = RawMessage(b"1", message_id="a"), JSONMessage(b"2", message_id="a")
    assert one == again
    assert len({one, again}) == 1
    assert one != RawMessage(b"1", message_id="b")
    assert RawMessage(b"") != RawMessage(b"")
    assert one != "a"


@pytest.mark.parametrize("cls", [RawMessage, JSONMessage, Message])
def test_repr_shows_class_id_digest_and_size(cls):
    """A repr shows nothing that the producer wrote: neither body, nor header, topic, key or id."""
    message = cls(
        CANARY.encode(), headers={CANARY: CANARY}, topic=CANARY, key=CANARY, message_id=CANARY, content_type=CANARY
    )
    shown = repr(message)
    assert re.fullmatch(rf"<{cls.__name__} id#[0-9a-f]{{8}}, {len(CANARY)} bytes>", shown)
    assert shown == repr(cls(CANARY.encode(), message_id=CANARY))
    assert shown != repr(cls(CANARY.encode(), message_id="other"))
    assert CANARY not in f"{message.headers!r} {message!s}"


def test_the_repr_of_an_id_that_is_no_unicode():
    """A lone surrogate in an id does not break the repr."""
    assert "id#" in repr(RawMessage(b"", message_id="\ud800"))


def test_headers_are_found_in_any_ascii_case():
    """Names match ASCII case-insensitively: by index, `in` and `get`."""
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
    """The values of a repeated name are a tuple, in the order of arrival, whatever its spelling."""
    headers = Headers([("a", "1"), ("B", "x"), ("A", "2"), ("a", b"\xff")])
    assert headers["a"] == ("1", "2", b"\xff")
    assert headers["b"] == "x"
    assert list(headers) == ["a", "b"]
    assert len(headers) == 2


def test_pairs_keep_what_arrived():
    """`pairs` keeps duplicates, order and spelling."""
    pairs = (("a", "1"), ("B", "x"), ("A", "2"))
    assert pairs == Headers(list(pairs)).pairs
    assert pairs == RawMessage(b"", headers=iter(pairs)).headers.pairs


def test_a_header_value_is_text_where_it_is_utf_8():
    """Bytes that are UTF-8 become a str, and others stay bytes."""
    headers = Headers({"utf": "é".encode(), "latin": b"\xe9", "text": "é", "empty": b""})
    assert tuple(headers.values()) == ("é", b"\xe9", "é", "")


def test_headers_are_parsed_once():
    """Reading the headers twice gives the same object, also of an iterator."""
    message = RawMessage(b"", headers=(pair for pair in [("a", "1")]))
    assert message.headers is message.headers
    assert message.headers["a"] == "1"


@given(st.lists(st.tuples(strategies.header_names, strategies.words), max_size=6))
@strategies.examples(30)
def test_headers_lose_nothing(pairs):
    """Every value that arrived under a name is found under it, in order."""
    headers = Headers(pairs)
    for name in {name.lower() for name, _ in pairs}:
        expected = tuple(value for n, value in pairs if n.lower() == name)
        assert (expected if len(expected) > 1 else expected[0]) == headers[name]
    assert len(headers) == len({name.lower() for name, _ in pairs})


@given(strategies.bodies)
@strategies.examples(45)
def test_json_round_trip(value):
    """`JSONMessage.of` and `get_json` are inverse, integers beyond 64 bits included."""
    message = JSONMessage.of(value)
    assert value == message.get_json()
    assert message.get_json() is message.content
    assert value == json.loads(message.raw_data)
    assert message.content_type == "application/json"


@pytest.mark.parametrize("number", [2**63, 2**64, 2**64 + 1, -(2**63) - 1, 10**308, 10**309, 10**4000])
def test_integers_stay_exact(number):
    """An integer of any size is decoded as itself, and never as a float."""
    content = JSONMessage(b'{"n": %d}' % number).get_json()
    assert number == content["n"]
    assert type(content["n"]) is int


def test_integers_beyond_the_interpreters_limit_are_undecodable():
    """An integer of more digits than the interpreter takes is refused, and never rounded."""
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
def test_what_is_not_json_raises_each_time(body):
    """A body that is not JSON raises DecodingError at every reading, and names the class."""
    message = JSONMessage(body)
    for _ in range(2):
        with pytest.raises(DecodingError, match="the body is not a JSONMessage"):
            message.get_json()


def test_a_decoding_error_holds_no_content():
    """Neither text nor chain nor traceback of a DecodingError has a piece of the body."""
    message = JSONMessage(json.dumps(CANARY).encode() + CANARY.encode())
    with pytest.raises(DecodingError) as caught:
        message.get_json()
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_a_decoder_of_ones_own():
    """A StructuredMessage subclass says `decode`, is asked once, and is read as `content`."""
    calls = []

    class Upper(StructuredMessage):
        def decode(self):
            calls.append(self.raw_data)
            return self.raw_data.decode().upper()

    message = Upper(b"a")
    assert (message.content, message.content) == ("A", "A")
    assert calls == [b"a"]


@pytest.mark.parametrize("raised", [ValueError(CANARY), KeyError(CANARY), RecursionError(CANARY), UnicodeError(CANARY)])
def test_whatever_a_decoder_raises_is_a_decoding_error(raised):
    """An exception of `decode` becomes a DecodingError that names its type, and is asked for once."""
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


def test_a_decoder_may_say_why_itself():
    """The text of a DecodingError that `decode` raises is kept."""

    class Picky(StructuredMessage):
        def decode(self):
            raise DecodingError("version 3 is not spoken here")

    with pytest.raises(DecodingError, match="version 3 is not spoken here"):
        _ = Picky(b"").content


def test_a_structured_message_needs_a_decoder():
    """A subclass that does not say `decode` is told so, and its messages are not taken for unreadable."""
    with pytest.raises(NotImplementedError, match="StructuredMessage must override decode"):
        _ = StructuredMessage(b"").content


def test_none_is_a_content():
    """A body that decodes to null is decoded once and is no error."""
    assert JSONMessage(b"null").content is None


def test_an_undecodable_message_keeps_its_envelope():
    """Body, headers and id of a message that cannot be decoded can be read."""
    message = JSONMessage(b"{", headers={"a": "1"}, message_id="id")
    with pytest.raises(DecodingError):
        message.get_json()
    assert (message.raw_data, message.headers["a"], message.message_id) == (b"{", "1", "id")


def test_of_makes_a_message_of_the_subclass():
    """`of` takes the envelope and returns the class it is called on."""

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


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**48 - 1))
@strategies.examples(30)
def test_ids_sort_by_time(one, other):
    """An id is a ULID: 26 characters of Crockford's base 32, in the order of their milliseconds."""
    first, second = new_id(one), new_id(other)
    assert ULID.fullmatch(first)
    if one != other:
        assert (one < other) is (first < second)


def test_ids_of_one_millisecond_differ():
    """Ids of the same millisecond share their time and nothing else."""
    ids = {new_id(1_700_000_000_000) for _ in range(1000)}
    assert len(ids) == 1000
    assert len({one[:10] for one in ids}) == 1
