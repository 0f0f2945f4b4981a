"""Selectors: the values that they find in a message."""

from __future__ import annotations

import pytest
from hypothesis import given

from missive import JSONMessage, Message, RawMessage, StructuredMessage
from missive.errors import DecodingError, RegistrationError
from missive.matchers import (
    Absent,
    AnythingBut,
    Body,
    Equals,
    Everything,
    Field,
    Header,
    IsInstance,
    Key,
    Prefix,
    Present,
    Range,
    Selector,
    Some,
    Topic,
)
from missive.matchers.values import MISSING
from missive.public import Public
from tests.support import strategies

BODY = JSONMessage.of(
    {
        "type": "order.placed",
        "a.b": "dotted",
        "a": {"b": "nested", "list": [{"b": 1}], "null": None, "": "empty name", "text": "b"},
        "": 0,
        "号": {"外": True},
    }
)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("type", "order.placed"),
        (("type",), "order.placed"),
        ("a.b", "dotted"),
        (("a", "b"), "nested"),
        (("a", ""), "empty name"),
        ("", 0),
        (("号", "外"), True),
        (("a", "null"), None),
    ],
)
def test_field_is_found_by_its_path(path, expected):
    """A string is one literal segment, also with dots or empty. A tuple is several segments."""
    assert Field(path, Equals(expected))(BODY) is True
    assert Field(path, Present())(BODY) is True
    assert Field(path, "something else")(BODY) is False


@pytest.mark.parametrize(
    "path",
    [
        "missing",
        ("a", "missing"),
        ("a", "b", "c"),
        ("a", "text", "b"),
        ("a", "list", "b"),
        ("a", "list", "0"),
        ("a", "null", "x"),
        ("a", "", "x"),
        ("", "x"),
        "TYPE",
        ("a.b", "b"),
    ],
)
def test_path_through_a_wrong_type_finds_nothing(path):
    """A path that does not exist, or leads through a list, a scalar or null, is missing and not an error."""
    assert Field(path, Absent())(BODY) is True
    assert Field(path, Present())(BODY) is False
    assert Field(path, AnythingBut("x"))(BODY) is False
    assert Field(path, None)(BODY) is False


@pytest.mark.parametrize("body", [b"1", b"null", b"[]", b'"type"', b"true", b"[{}]"])
def test_body_that_is_not_an_object_has_no_fields(body):
    """A body that is a scalar, null or a list is readable and has no fields."""
    assert Field("type", "x").evaluate(JSONMessage(body)) is False
    assert Field("type", Absent()).evaluate(JSONMessage(body)) is True


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"NaN", b'{"type": "x"} x', b"{'type': 'x'}"])
def test_field_of_an_undecodable_body_is_unknown(body):
    """If the body cannot be decoded, every test of a field is unknown, including `Absent`."""
    for test in [Equals("x"), Absent(), Present(), Range(gt=1)]:
        assert Field("type", test).evaluate(JSONMessage(body)) is None
        with pytest.raises(DecodingError, match="cannot be decoded"):
            Field("type", test)(JSONMessage(body))


def test_other_selectors_do_not_need_the_body():
    """`Header`, `Topic`, `Key`, `Body` and `Everything` have a verdict for an undecodable body."""
    message = JSONMessage(b"{", headers={"h": "1"}, topic="t", key="k")
    for matcher in [Header("h", "1"), Topic("t"), Key("k"), Body(b"{"), Everything()]:
        assert matcher.evaluate(message) is True
        assert (~matcher).evaluate(message) is False


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Field("a", "b", "c"), r"Field got too many arguments: .* such as \('a', 'b'\)$"),
        (lambda: Field("a", "b", "c", "d"), r"such as \('a', 'b', 'c'\)$"),
        (lambda: Field((), "x"), "string or a tuple of strings"),
        (lambda: Field(("a", 1), "x"), "string or a tuple of strings"),
        (lambda: Field(["a"], "x"), "string or a tuple of strings"),
        (lambda: Field(1, "x"), "string or a tuple of strings"),
        (lambda: Field(None, "x"), "string or a tuple of strings"),
        (lambda: Field(b"a", "x"), "string or a tuple of strings"),
        (lambda: Field("a", []), "Equals takes"),
        (lambda: Field("a", {"b": 1}), "Equals takes"),
        (lambda: Header("", "x"), "non-empty string"),
        (lambda: Header(1, "x"), "non-empty string"),
        (lambda: Topic(["a"]), "Equals takes"),
    ],
)
def test_invalid_arguments_are_refused(make, text):
    """An invalid path, name or test raises an error that shows the correct form."""
    with pytest.raises(RegistrationError, match=text):
        make()


@pytest.mark.parametrize("selector", [lambda t: Field("a", t), lambda t: Header("a", t), Topic, Key, Body])
def test_bare_literal_means_equals(selector):
    """A literal in place of a test means `Equals`."""
    assert selector("x") == selector(Equals("x"))
    assert Equals("x") == selector("x").test


@pytest.mark.parametrize("name", ["x-github-event", "X-GitHub-Event", "X-GITHUB-EVENT"])
def test_header_names_match_in_any_ascii_case(name):
    """A header is found in any ASCII case of its name, in the matcher and in the message."""
    for spelled in ("x-github-event", "X-GitHub-Event"):
        assert Header(name, "push")(RawMessage(b"", headers={spelled: "push"})) is True
        assert Header(name, "Push")(RawMessage(b"", headers={spelled: "push"})) is False


def test_header_names_outside_ascii_are_case_sensitive():
    """Only ASCII case is folded: a Kelvin sign differs from k, and É from é."""
    message = RawMessage(b"", headers={"\u212a": "1", "É": "2"})
    assert Header("k", Present())(message) is False
    assert Header("\u212a", "1")(message) is True
    assert Header("é", Present())(message) is False
    assert Header("É", "2")(message) is True


def test_missing_header():
    """Only `Absent` is true of a missing header."""
    message = RawMessage(b"", headers={"other": ""})
    assert Header("h", Absent())(message) is True
    assert Header("h", "")(message) is False
    assert Header("h", None)(message) is False
    assert Header("other", "")(message) is True
    assert Header("other", Absent())(message) is False


def test_repeated_header_is_a_list():
    """Scalar tests are false on a repeated header. `Some` tests its values, and is false on a single header."""
    twice = RawMessage(b"", headers=[("h", "a"), ("H", "b")])
    once = RawMessage(b"", headers=[("h", "a")])
    assert Header("h", "a")(twice) is False
    assert Header("h", Prefix("a"))(twice) is False
    assert Header("h", Some("a"))(twice) is True
    assert Header("h", Some("b"))(twice) is True
    assert Header("h", Some("c"))(twice) is False
    assert Header("h", Some("a"))(once) is False
    assert Header("h", AnythingBut("a"))(twice) is True


def test_header_that_is_not_utf_8_is_bytes():
    """A header value that is not UTF-8 matches as bytes. Other values match as strings."""
    message = RawMessage(b"", headers={"latin": "é".encode("latin-1"), "utf": "é".encode()})
    assert Header("latin", b"\xe9")(message) is True
    assert Header("latin", IsInstance(bytes))(message) is True
    assert Header("utf", "é")(message) is True


@pytest.mark.parametrize(("selector", "attribute"), [(Topic, "topic"), (Key, "key")])
def test_topic_and_key(selector, attribute):
    """`Topic` and `Key` test attributes from the transport, which may be missing."""
    there, nothing = RawMessage(b"", **{attribute: "orders.new"}), RawMessage(b"")
    assert selector("orders.new")(there) is True
    assert selector(Prefix("orders."))(there) is True
    assert selector("orders")(there) is False
    assert selector(Absent())(nothing) is True
    assert selector(None)(nothing) is False
    assert selector("")(RawMessage(b"", **{attribute: ""})) is True


def test_binary_key_matches_as_bytes():
    """A binary key matches as bytes only."""
    assert Key(b"k")(RawMessage(b"", key=b"k")) is True
    assert Key("k")(RawMessage(b"", key=b"k")) is False


def test_body_is_the_raw_bytes():
    """`Body` tests the raw bytes of messages of any class, and is never missing."""
    assert Body(b"ping")(RawMessage(b"ping")) is True
    assert Body(b'"ping"')(JSONMessage.of("ping")) is True
    assert Body("ping")(RawMessage(b"ping")) is False
    assert Body(b"")(RawMessage(b"")) is True
    assert Body(Absent())(RawMessage(b"")) is False


def test_everything():
    """`Everything` matches every message, and its complement matches none."""
    assert Everything()(RawMessage(b"")) is True
    assert (~Everything())(RawMessage(b"")) is False
    assert Everything() == Everything()


def test_required_message_class():
    """Only `Field` requires messages with fields."""
    assert StructuredMessage is Field.requires
    assert {Message} == {kind.requires for kind in (Header, Topic, Key, Body, Everything)}


@given(strategies.selectors.filter(lambda matcher: isinstance(matcher, Selector)), strategies.messages())
@strategies.examples(100)
def test_extract_agrees_with_evaluate(selector, message):
    """`extract`, which explanations call, returns the value that `evaluate` applies the test to."""
    try:
        value = selector.extract(message)
    except DecodingError:
        assert selector.evaluate(message) is None
    else:
        expected = selector.test.on_missing if value is MISSING else selector.test(value)
        assert expected is selector.evaluate(message)


@pytest.mark.parametrize("path", ["missing", ("type", "x"), ("a", "list", "b"), ("a", "null", "x")])
def test_extract_distinguishes_missing_from_null(path):
    """`extract` returns MISSING for a missing field, and None for null."""
    assert Field(path, 1).extract(BODY) is MISSING
    assert Field(("a", "null"), 1).extract(BODY) is None


def test_body_is_decoded_once():
    """`decode` is called once per message, for any number of fields."""
    calls = []

    class Counting(StructuredMessage):
        def decode(self):
            calls.append(1)
            return {"a": 1}

    message = Counting(b"")
    assert (Field("a", 1) & Field("b", Absent()) & ~Field("c", 1))(message) is True
    assert calls == [1]


@pytest.mark.parametrize(
    ("matcher", "public", "shown"),
    [
        (Field("a", 1), {("a",)}, True),
        (Field("a", 1), {("b",)}, False),
        (Field("A", 1), {("a",)}, False),
        (Field(("a", "b"), 1), {("a", "b")}, True),
        (Field(("a", "b"), 1), {("a",)}, False),
        (Field("a.b", 1), {("a", "b")}, False),
        (Header("X-A", 1), {Public.header("x-a")}, True),
        (Header("x-a", 1), {Public.header("X-A")}, True),
        (Header("a", 1), {Public.header("b")}, False),
        (Header("a", 1), {("a",)}, False),
        (Field("a", 1), {Public.header("a")}, False),
        (Topic("a"), {("topic",), ("a",)}, False),
        (Key("a"), {("key",), ("a",)}, False),
        (Body("a"), {("body",), ("a",)}, False),
    ],
)
def test_public_paths_and_names(matcher, public, shown):
    """A field is public by its whole path, and a header by its declaration. Topics, keys and bodies never are."""
    assert shown is matcher.is_public(frozenset(public))
