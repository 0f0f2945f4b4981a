"""Selectors: where in a message they look, and what they find there."""

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
def test_a_field_is_found_by_its_path(path, expected):
    """A string is one literal segment, dots and emptiness included, and a tuple is several."""
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
def test_a_path_through_a_wrong_type_finds_nothing(path):
    """A path that is not there, or leads through a list, a scalar or null, is missing and no error."""
    assert Field(path, Absent())(BODY) is True
    assert Field(path, Present())(BODY) is False
    assert Field(path, AnythingBut("x"))(BODY) is False
    assert Field(path, None)(BODY) is False


@pytest.mark.parametrize("body", [b"1", b"null", b"[]", b'"type"', b"true", b"[{}]"])
def test_a_body_that_is_no_object_has_no_fields(body):
    """A scalar, null or list as the whole body has no field, and is readable."""
    assert Field("type", "x").evaluate(JSONMessage(body)) is False
    assert Field("type", Absent()).evaluate(JSONMessage(body)) is True


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"NaN", b'{"type": "x"} x', b"{'type': 'x'}"])
def test_a_field_of_an_undecodable_body_is_unknown(body):
    """Where the body cannot be decoded every test of a field is unknown, Absent included."""
    for test in [Equals("x"), Absent(), Present(), Range(gt=1)]:
        assert Field("type", test).evaluate(JSONMessage(body)) is None
        with pytest.raises(DecodingError, match="cannot be decoded"):
            Field("type", test)(JSONMessage(body))


def test_selectors_outside_the_body_know_an_undecodable_one():
    """Header, Topic, Key, Body and Everything answer whatever the body is."""
    message = JSONMessage(b"{", headers={"h": "1"}, topic="t", key="k")
    for matcher in [Header("h", "1"), Topic("t"), Key("k"), Body(b"{"), Everything()]:
        assert matcher.evaluate(message) is True
        assert (~matcher).evaluate(message) is False


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Field("a", "b", "c"), r"Field\(\('a', 'b'\), …\)"),
        (lambda: Field("a", "b", "c", "d"), r"Field\(\('a', 'b', 'c'\), …\)"),
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
def test_mistakes_are_refused(make, said):
    """A path, name or test that could never work raises and says how to write it."""
    with pytest.raises(RegistrationError, match=said):
        make()


@pytest.mark.parametrize("selector", [lambda t: Field("a", t), lambda t: Header("a", t), Topic, Key, Body])
def test_a_bare_literal_means_equals(selector):
    """A literal in the place of a test is Equals."""
    assert selector("x") == selector(Equals("x"))
    assert Equals("x") == selector("x").test


@pytest.mark.parametrize("name", ["x-github-event", "X-GitHub-Event", "X-GITHUB-EVENT"])
def test_header_names_match_in_any_ascii_case(name):
    """A header is found whatever the case of its name, on either side."""
    for spelled in ("x-github-event", "X-GitHub-Event"):
        assert Header(name, "push")(RawMessage(b"", headers={spelled: "push"})) is True
        assert Header(name, "Push")(RawMessage(b"", headers={spelled: "push"})) is False


def test_header_names_outside_ascii_keep_their_case():
    """Only ASCII case is folded: a Kelvin sign is no k, and É is not é."""
    message = RawMessage(b"", headers={"\u212a": "1", "É": "2"})
    assert Header("k", Present())(message) is False
    assert Header("\u212a", "1")(message) is True
    assert Header("é", Present())(message) is False
    assert Header("É", "2")(message) is True


def test_a_header_that_is_not_there_is_missing():
    """Without the header only Absent is true."""
    message = RawMessage(b"", headers={"other": ""})
    assert Header("h", Absent())(message) is True
    assert Header("h", "")(message) is False
    assert Header("h", None)(message) is False
    assert Header("other", "")(message) is True
    assert Header("other", Absent())(message) is False


def test_a_repeated_header_is_a_list():
    """Scalar tests are false on a repeated header; Some looks inside, and sees no single one."""
    twice = RawMessage(b"", headers=[("h", "a"), ("H", "b")])
    once = RawMessage(b"", headers=[("h", "a")])
    assert Header("h", "a")(twice) is False
    assert Header("h", Prefix("a"))(twice) is False
    assert Header("h", Some("a"))(twice) is True
    assert Header("h", Some("b"))(twice) is True
    assert Header("h", Some("c"))(twice) is False
    assert Header("h", Some("a"))(once) is False
    assert Header("h", AnythingBut("a"))(twice) is True


def test_a_header_of_no_utf_8_is_bytes():
    """A header's value that is not UTF-8 is matched as bytes, and one that is as a string."""
    message = RawMessage(b"", headers={"latin": "é".encode("latin-1"), "utf": "é".encode()})
    assert Header("latin", b"\xe9")(message) is True
    assert Header("latin", IsInstance(bytes))(message) is True
    assert Header("utf", "é")(message) is True


@pytest.mark.parametrize(("selector", "attribute"), [(Topic, "topic"), (Key, "key")])
def test_topic_and_key(selector, attribute):
    """Topic and Key look at what the transport said; where it said nothing they are missing."""
    there, nothing = RawMessage(b"", **{attribute: "orders.new"}), RawMessage(b"")
    assert selector("orders.new")(there) is True
    assert selector(Prefix("orders."))(there) is True
    assert selector("orders")(there) is False
    assert selector(Absent())(nothing) is True
    assert selector(None)(nothing) is False
    assert selector("")(RawMessage(b"", **{attribute: ""})) is True


def test_a_key_of_bytes_is_bytes():
    """A binary key is matched as bytes only."""
    assert Key(b"k")(RawMessage(b"", key=b"k")) is True
    assert Key("k")(RawMessage(b"", key=b"k")) is False


def test_body_is_the_raw_bytes():
    """Body looks at the bytes, of any class of messages, and is never missing."""
    assert Body(b"ping")(RawMessage(b"ping")) is True
    assert Body(b'"ping"')(JSONMessage.of("ping")) is True
    assert Body("ping")(RawMessage(b"ping")) is False
    assert Body(b"")(RawMessage(b"")) is True
    assert Body(Absent())(RawMessage(b"")) is False


def test_everything():
    """Everything matches any message, and its complement none."""
    assert Everything()(RawMessage(b"")) is True
    assert (~Everything())(RawMessage(b"")) is False
    assert Everything() == Everything()


def test_only_a_field_needs_a_body_with_fields():
    """`requires` says which class of messages a selector can be asked about."""
    assert StructuredMessage is Field.requires
    assert {Message} == {kind.requires for kind in (Header, Topic, Key, Body, Everything)}


@given(strategies.selectors.filter(lambda matcher: isinstance(matcher, Selector)), strategies.messages())
@strategies.examples(100)
def test_look_finds_what_evaluate_judges(selector, message):
    """`look`, which explanations ask, finds the very value that `evaluate` applies the test to."""
    try:
        value = selector.extract(message)
    except DecodingError:
        assert selector.evaluate(message) is None
    else:
        expected = selector.test.on_missing if value is MISSING else selector.test(value)
        assert expected is selector.evaluate(message)


@pytest.mark.parametrize("path", ["missing", ("type", "x"), ("a", "list", "b"), ("a", "null", "x")])
def test_look_tells_missing_from_null(path):
    """Where there is nothing `look` finds MISSING, and where there is null, null."""
    assert Field(path, 1).extract(BODY) is MISSING
    assert Field(("a", "null"), 1).extract(BODY) is None


def test_a_field_decodes_a_body_once():
    """However many fields are asked for, `decode` is called once a message."""
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
        (Header("X-A", 1), {("x-a",)}, True),
        (Header("x-a", 1), {("X-A",)}, True),
        (Header("a", 1), {("a", "b")}, False),
        (Topic("a"), {("topic",), ("a",)}, False),
        (Key("a"), {("key",), ("a",)}, False),
        (Body("a"), {("body",), ("a",)}, False),
    ],
)
def test_what_is_public_is_said_by_path_or_name(matcher, public, shown):
    """A value may be shown where its very path or header name is public; a topic, key or body never is."""
    assert shown is matcher.is_public(frozenset(public))
