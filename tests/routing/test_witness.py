"""Witnesses: example messages that match two matchers, and the expressions that show them."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import missive
from missive import JSONMessage, Message, RawMessage, StructuredMessage
from missive.matchers import (
    Absent,
    AmqpPattern,
    AnythingBut,
    Body,
    Cidr,
    EventField,
    Every,
    Everything,
    Field,
    Header,
    IsInstance,
    Key,
    MqttFilter,
    NatsPattern,
    OneOf,
    Predicate,
    Prefix,
    Present,
    Range,
    Regex,
    Some,
    Substring,
    Suffix,
    Topic,
    Wildcard,
)
from missive.routing.conflicts import Relation, analyse, relation
from missive.routing.witness import expression_of
from tests.support.routing import (
    Given,
)
from tests.support.strategies import examples, filled, header_names, names, tests

HUGE = 2**70


def made(one, other=None, cls=JSONMessage):
    """Return the example message for two matchers, or None."""
    return relation(analyse(one), analyse(one if other is None else other), cls).witness


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (Field("type", "a"), Field("total", Range(gt=100)), "JSONMessage.of({'total': 101, 'type': 'a'})"),
        (Field("a", OneOf(1, "x")), Field("a", IsInstance(str)), "JSONMessage.of({'a': 'x'})"),
        (Field("a", None), Field("b", True), "JSONMessage.of({'a': None, 'b': True})"),
        (Field("a", Prefix("x")), Field("a", Suffix("y")), "JSONMessage.of({'a': 'xy'})"),
        (Field("a", Prefix("Ab")), Field("a", Suffix("C", ignore_case=True)), "JSONMessage.of({'a': 'Abc'})"),
        (Field("a", Wildcard("a*c*e")), Field("a", Substring("d")), "JSONMessage.of({'a': 'acde'})"),
        (Field("a", Regex("a.?c")), Field("a", Prefix("a")), "JSONMessage.of({'a': 'ac'})"),
        (Field("a", Regex("abc")), Field("a", Prefix("a")), "JSONMessage.of({'a': 'abc'})"),
        (Field("n", Range(gt=2)), Field("n", Range(lt=3)), "JSONMessage.of({'n': 2.5})"),
        (Field("n", Range(gt=HUGE)), Field("n", Range(lt=HUGE + 2)), f"JSONMessage.of({{'n': {HUGE + 1}}})"),
        (Field("n", Range(ge=1)), Field("n", Range(le=1)), "JSONMessage.of({'n': 1})"),
        (Field("n", AnythingBut(1)), Field("n", AnythingBut("x")), "JSONMessage.of({'n': 0})"),
        (Field("a", Some("x")), Field("a", Some("y")), "JSONMessage.of({'a': ['x', 'y']})"),
        (Field("a", Some("x")), Field("a", Every(Prefix("x"))), "JSONMessage.of({'a': ['x']})"),
        (Field("ip", Cidr("10.0.0.0/8")), Field("ip", Suffix(".1")), "JSONMessage.of({'ip': '10.0.0.1'})"),
        (Field(("a", "b"), 1), Field(("a", "c"), 2), "JSONMessage.of({'a': {'b': 1, 'c': 2}})"),
        (Field("a", AnythingBut(1)), Field(("a", "b"), 2), "JSONMessage.of({'a': {'b': 2}})"),
        (EventField("a", 1), EventField("a", 2), "JSONMessage.of({'a': [1, 2]})"),
        (EventField(("a", "b"), 1), Field("c", 1), "JSONMessage.of({'a': {'b': 1}, 'c': 1})"),
        (Topic(NatsPattern("a.*")), Topic(NatsPattern("*.b")), "JSONMessage.of({}, topic='a.b')"),
        (Topic(MqttFilter("a/#")), Topic(Prefix("a/b")), "JSONMessage.of({}, topic='a/b/x')"),
        (Topic(AmqpPattern("#.b")), Topic(NatsPattern("a.>")), "JSONMessage.of({}, topic='a.b')"),
        (Key("k"), Topic("t") & Header("H", "1"), "JSONMessage.of({}, headers={'h': '1'}, topic='t', key='k')"),
        (Header("x", Some("1")), Header("x", Some("2")), "JSONMessage.of({}, headers={'x': ('1', '2')})"),
        (Header("x", Some(1)), Header("y", "b"), None),
        (Header("x", Every(float("inf"))), Header("y", "b"), None),
        (Header("x", b"\xff"), Key(b"k"), r"JSONMessage.of({}, headers={'x': b'\xff'}, key=b'k')"),
        (Body(b"ping"), Header("x", "1"), "JSONMessage(b'ping', headers={'x': '1'})"),
    ],
    ids=range(28),
)
def test_witness_contains_values_of_the_matchers_only(one, other, expected):
    """A witness consists of literals, ends of ranges and fillings of patterns, and contains no other place."""
    message = made(one, other)
    assert expected == (message and expression_of(message))
    assert message is None or (one(message) and other(message))


@pytest.mark.parametrize(
    "matcher",
    [
        Everything(),
        ~Field("a", 1) & ~Header("x", "1") & ~Topic("t") & ~Key("k"),
        Field("a", Absent()) & Header("x", Absent()) & Topic(Absent()) & Key(Absent()),
        Field(("a", "b"), Absent()) & ~Field("a", IsInstance(dict)),
        EventField("a", Absent()) & ~EventField("b", 1),
        ~Body(b"ping"),
    ],
    ids=repr,
)
def test_witness_omits_places_that_are_not_needed(matcher):
    """A witness omits every place that the matcher does not require."""
    message = made(matcher)
    assert (message.content, dict(message.headers), message.topic, message.key) == ({}, {}, None, None)
    assert expression_of(message) == "JSONMessage.of({})"


class Decoded(StructuredMessage):
    """A message with its own decoder, which always fails."""

    def decode(self):
        raise LookupError


class Late(JSONMessage):
    """A subclass of JSONMessage."""


class Made(JSONMessage):
    """A message with its own constructor."""

    def __init__(self, raw_data, tenant, **envelope):
        super().__init__(raw_data, **envelope)


class Enveloped(JSONMessage):
    """A JSON message whose content is inside an envelope."""

    def decode(self):
        return super().decode()["payload"]


@pytest.mark.parametrize(
    ("cls", "matcher", "expected"),
    [
        (RawMessage, Topic("t"), "RawMessage(b'x', topic='t')"),
        (Message, Body(b"ping"), "Message(b'ping')"),
        (Late, Field("a", 1), "Late.of({'a': 1})"),
        (Decoded, Field("a", b"x") & Key("k"), "Decoded.holding({'a': b'x'}, key='k')"),
        # Values that JSON cannot hold, and classes that cannot be constructed from a content.
        (JSONMessage, Field("a", b"x"), None),
        (JSONMessage, Field("a", float("inf")), None),
        (Made, Field("a", 1), None),
        (Made, Topic("t"), None),
        (Enveloped, Field("a", 1), None),
        (Enveloped, Topic("t"), "Enveloped(b'{}', topic='t')"),
    ],
)
def test_witness_has_the_message_class(cls, matcher, expected):
    """A witness is constructed like its class. If that is impossible, there is no witness."""
    message = made(matcher, cls=cls)
    assert expected == (message and expression_of(message))
    if message is not None:
        assert cls is type(message)
        again = eval(expected, {**vars(missive), "Decoded": Decoded, "Late": Late, "Enveloped": Enveloped})
        assert matcher(again)


@pytest.mark.parametrize("matcher", [Predicate(lambda message: 1 / 0), ~Predicate(lambda message: 1 / 0)])
def test_callables_do_not_run_for_a_witness(matcher):
    """A matcher with a callable has no witness, because trying one would run the callable."""
    comparison = relation(analyse(Field("a", 1) & matcher), analyse(Field("b", 1)), JSONMessage)
    assert (comparison.relation, comparison.witness) == (Relation.unknown, None)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (JSONMessage.of({"a": [1, None]}), "JSONMessage.of({'a': [1, None]})"),
        (JSONMessage(b"{"), "JSONMessage(b'{')"),
        (JSONMessage(b"null"), "JSONMessage(b'null')"),
        (JSONMessage(b"[]", topic="it's"), 'JSONMessage.of([], topic="it\'s")'),
        (RawMessage(b"\0", key=b"k"), r"RawMessage(b'\x00', key=b'k')"),
        (
            RawMessage(b"", headers=[("X", "1"), ("y", b"\xff"), ("x", "2")]),
            r"RawMessage(b'', headers={'x': ('1', '2'), 'y': b'\xff'})",
        ),
        (Decoded(b"a"), "Decoded(b'a')"),
        (Decoded.holding({"a": b"x"}), "Decoded.holding({'a': b'x'})"),
    ],
)
def test_message_is_shown_as_an_expression(message, expected):
    """The expression of a message evaluates to a message with the same content and envelope."""
    assert expected == expression_of(message)
    again = eval(expected, {**vars(missive), "Decoded": Decoded})
    assert type(message) is type(again)
    assert (message.headers, message.topic, message.key) == (again.headers, again.topic, again.key)
    # `holding` sets a content and an empty body.
    assert message.raw_data == again.raw_data
    assert not isinstance(message, StructuredMessage) or broken(message) or message.content == again.content


def broken(message):
    """Return whether a message has no content."""
    try:
        return message.content is None
    except missive.DecodingError:
        return True


places = st.one_of(
    st.builds(Field, names | st.tuples(names, names), tests),
    st.builds(Header, header_names, tests),
    st.builds(Topic, st.one_of(filled, filled.map(Prefix), filled.map(AnythingBut))),
)
conditions = st.recursive(
    places, lambda inner: st.builds(lambda one, other: one & other, inner, inner) | inner.map(lambda one: ~one)
)


@given(conditions, conditions)
@examples(150)
def test_shown_witness_matches_both(one, other):
    """The expression of a witness gives a message that matches both matchers and has no other places."""
    message = made(one, other)
    assume(message is not None)
    again = eval(expression_of(message), dict(vars(missive)))
    assert one(again)
    assert other(again)
    places_of_matchers = {
        part.place[:2] for matcher in (one, other) for part in matcher.walk() if hasattr(part, "place")
    }
    there = {("field", name) for name in again.content} | {("header", name) for name in again.headers}
    assert there <= places_of_matchers
    assert again.topic is None or ("topic",) in places_of_matchers


ALONE = [
    *(
        Field("a", test)
        for test in (1, "x", None, True, 1.5, Range(gt=0), Prefix("x"), Substring("x"), Wildcard("x*y"))
    ),
    *(
        Field("a", test)
        for test in (IsInstance(dict), IsInstance(list), Some(1), Every("x"), Present(), AnythingBut(1))
    ),
    *(Field(("a", "b"), test) for test in (OneOf(1, 2), Absent(), Cidr("::/0"), Range(ge=-1, lt=0))),
    *(Header("x", test) for test in ("1", Prefix("x"), b"\xff", Present(), Absent())),
    *(test("t") for test in (Topic, Key)),
    *map(Topic, (NatsPattern("a.>"), MqttFilter("+/a/#"), AmqpPattern("#.a.#.b"), MqttFilter("$a/#"))),
    Body(Present()),
    EventField(("a", "b"), Prefix("x")),
    EventField("a", EventField("b", 1) & EventField("c", 2)),
]


@pytest.mark.parametrize("matcher", ALONE, ids=repr)
def test_each_kind_of_test_has_a_witness(matcher):
    """Every kind of test has a witness, and so has its complement."""
    for one in (matcher, ~matcher):
        if analyse(one).alternatives:
            assert one(made(one))
            assert (one & Header("other", "1"))(made(one, Header("other", "1")))


@pytest.mark.parametrize(
    "message",
    [
        JSONMessage.of({}, topic="", headers={"x": "1"}),
        JSONMessage(b'{"a": 1}', key=""),
        Given.holding({"a": [float("inf"), {"b": -float("inf")}]}),
    ],
    ids=["headers", "key", "infinite"],
)
def test_expression_preserves_unusual_messages(message):
    """The expression of a message preserves empty texts, the exact body and infinities."""
    again = eval(expression_of(message), {"JSONMessage": JSONMessage, "Given": Given})
    assert (again.topic, again.key, again.headers.pairs) == (message.topic, message.key, message.headers.pairs)
    assert again.content == message.content
    assert isinstance(message, Given) or again.raw_data == message.raw_data
