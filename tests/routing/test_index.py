"""The index: the results are the same as with a linear scan, for generated matchers and messages."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive import JSONMessage
from missive.matchers import (
    AnythingBut,
    Equals,
    EventField,
    Field,
    Header,
    Matcher,
    OneOf,
    Predicate,
    Prefix,
    Range,
    Some,
)
from missive.routing.index import Index
from missive.routing.places import PlaceIndex
from missive.routing.route import Route
from missive.routing.router import Router
from tests.support.routing import (
    Given,
    routed,
)
from tests.support.strategies import event_matchers, examples, matchers, messages, names, scalars


def handle(message: object, context: object) -> None: ...


def raising(message: JSONMessage) -> bool:
    raise KeyError("a secret")


opaque = st.sampled_from(
    [Predicate(lambda m: len(m.raw_data) % 2 == 0), Predicate(raising), Predicate(lambda m: bool(m.content))]
)
composed = st.one_of(
    matchers,
    event_matchers,
    st.builds(lambda one, other: one & other, matchers, opaque),
    st.builds(lambda one, other, third: (one | other) & third, matchers, opaque, matchers),
    st.builds(lambda one, other, third: ~(one & other) | third, matchers, opaque, event_matchers),
)


def routers(found: list[Matcher[JSONMessage]]) -> tuple[Router, Router]:
    routes = [Route(str(number), matcher, handle, None) for number, matcher in enumerate(found)]
    return Router(routes), Router(routes, indexed=False)


def same_answers(indexed: Router, linear: Router, message: JSONMessage) -> None:
    found, expected = indexed.find(message), linear.find(message)
    if isinstance(expected, Route):
        assert found is expected
    else:
        assert (found.reason, found.candidates) == (expected.reason, expected.candidates)
        assert str(found.exception) == str(expected.exception)


@examples(300)
@given(st.lists(composed, max_size=12), st.lists(messages(), min_size=1, max_size=5))
def test_index_agrees_with_a_linear_scan(found: list[Matcher[JSONMessage]], sent: list[JSONMessage]):
    """The index changes no result: one handler, none, several, unreadable, or a matcher that raises."""
    indexed, linear = routers(found)
    for message in sent:
        same_answers(indexed, linear, message)


LITERALS = ("x", "y", 1, True, 1.0, None, "")


@examples(300)
@given(
    st.lists(
        st.one_of(st.sampled_from(LITERALS), st.lists(st.sampled_from(LITERALS), min_size=1, max_size=3)), max_size=6
    ),
    st.lists(st.sampled_from([*LITERALS, "z", [], {}, ["x"]]), min_size=1, max_size=5),
)
def test_look_up_by_a_single_field(wanted: list[Any], values: list[Any]):
    """The results are the same if one field looks up all matchers and most of them are not evaluated."""
    indexed, linear = routers([Field("a", OneOf(*one) if isinstance(one, list) else one) for one in wanted])
    for value in values:
        same_answers(indexed, linear, JSONMessage.of({"a": value}))
    for other in (b'{"b":1}', b"[]", b"null", b"{"):
        same_answers(indexed, linear, JSONMessage(other))


@examples(100)
@given(st.lists(composed, max_size=12), st.lists(messages(), min_size=1, max_size=5), st.data())
def test_look_up_driven_by_the_message(found: list[Matcher[JSONMessage]], sent: list[JSONMessage], data: st.DataObject):
    """The results are the same when there are many places and the message drives the look-up."""
    paths = st.lists(names, min_size=2, max_size=4).map(tuple)
    many: list[Matcher[JSONMessage]] = [Field(("a", str(number), "b"), 1) for number in range(40)]
    many += [Header(f"x{number}", "1") for number in range(40)]
    many += [Field(path, value) for path, value in data.draw(st.lists(st.tuples(paths, scalars), max_size=10))]
    indexed, linear = routers([*many, *found])
    for message in sent:
        same_answers(indexed, linear, message)


MANY_EVENTS = [EventField(f"p{n}", 1) for n in range(70)]


@pytest.mark.parametrize("others", [[], MANY_EVENTS], ids=["few places", "many places"])
def test_events_are_looked_up_as_matchers_evaluate(others):
    """Names with dots, paths with dots, and tuples find the same handlers, with few places and with many."""
    matchers = [*others, EventField(("a", "b"), 1), EventField("a.b", 1), EventField(("a", "b", "c"), 1)]
    first = len(others)
    assert routed(matchers, JSONMessage.of({"a": {"b": 1}})) == [first]
    assert routed(matchers, JSONMessage.of({"a.b": 1})) == [first, first + 1]
    assert routed(matchers, Given.holding({"a": ({"b": (2, 1)},)})) == [first]
    assert routed(matchers, JSONMessage.of({"a": [[{"b": [{"c": 1}]}]]})) == [first + 2]
    assert routed(matchers, JSONMessage.of({"a": {"b.c": 1}})) == [first + 2]
    assert routed(matchers, JSONMessage.of([{"a.b": 1}])) == []


def test_look_up_in_shared_and_circular_content_ends():
    """A look-up ends for content with exponentially many paths, and for content that contains itself."""
    shared = {"a": 1}
    for _ in range(200):
        shared = {"a": shared, "b": shared}
    circle = {"a": 1}
    circle["b"] = circle
    matchers = [*MANY_EVENTS, EventField(("a",) * 3, 1), EventField(("b", "b", "a"), 1)]
    assert routed(matchers, Given.holding({"d": shared})) == []
    assert routed(matchers, Given.holding(circle)) == [71]


def test_deep_event_needs_little_memory():
    """A look-up does not copy the long names above many leaves for each leaf."""
    content = {f"p{n}": n for n in range(5000)}
    for _ in range(150):
        content = {"k" * 1000: content}
    message = JSONMessage.of({"d": content})
    matchers = [EventField(("d", f"p{n}"), 1) for n in range(70)]
    index = Index(matchers)
    assert message.content is not None
    tracemalloc.start()
    assert index.candidates(message) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_array_finds_each_item_once():
    """Each item is found once, however many elements of an array can pass its test."""
    among = PlaceIndex()
    for item, test in enumerate([AnythingBut("x"), Range(ge=0), Prefix("a"), Equals(1)]):
        among.add(test, item)
    among.seal()
    found = []
    among.find_among([1, 2, "ab", [], 1] * 1000, found)
    assert sorted(found) == [0, 1, 2, 3]
    lists = PlaceIndex()
    lists.add(Some("a"), 7)
    lists.seal()
    found = []
    lists.find(["a", {}, "a", "b"] * 1000, found)
    assert found == [7]
