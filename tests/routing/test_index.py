"""The index: the results are the same as with a linear scan, for generated matchers and messages."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from missive import JSONMessage
from missive.matchers import Field, Header, Matcher, OneOf, Predicate
from missive.routing.route import Route
from missive.routing.router import Router
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
    opaque,
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
def test_index_agrees_with_a_linear_scan(found: list[Matcher[JSONMessage]], asked: list[JSONMessage]):
    """The index changes no result: one handler, none, several, unreadable, or a matcher that raises."""
    indexed, linear = routers(found)
    for message in asked:
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
def test_look_up_driven_by_the_message(
    found: list[Matcher[JSONMessage]], asked: list[JSONMessage], data: st.DataObject
):
    """The results are the same with so many places that the message drives the look-up."""
    paths = st.lists(names, min_size=2, max_size=4).map(tuple)
    many: list[Matcher[JSONMessage]] = [Field(("a", str(number), "b"), 1) for number in range(40)]
    many += [Header(f"x{number}", "1") for number in range(40)]
    many += [Field(path, value) for path, value in data.draw(st.lists(st.tuples(paths, scalars), max_size=10))]
    indexed, linear = routers([*many, *found])
    for message in asked:
        same_answers(indexed, linear, message)
