"""Proofs about two matchers are never wrong, whatever the matchers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from missive import JSONMessage
from missive.errors import DecodingError
from missive.matchers import Field, Header, Matcher, Topic
from missive.routing.conflicts import Relation, analyse, contained, relation
from tests.support.strategies import event_matchers, examples, matchers, messages, tests

near = st.one_of(
    matchers,
    event_matchers,
    # Of few places, so that two of them meet.
    st.builds(lambda test: Field("a", test), tests),
    st.builds(lambda one, other: Field("a", one) & ~Field("a", other), tests, tests),
    st.builds(lambda one, other: Field("a", one) | Field(("a", "b"), other), tests, tests),
    st.builds(lambda one, other: Topic(one) & Header("x", other), tests, tests),
)


def matches(matcher: Matcher[JSONMessage], message: JSONMessage) -> bool:
    try:
        return matcher(message)
    except DecodingError:
        return False


@examples(400)
@given(near, near, st.lists(messages(), min_size=1, max_size=6))
def test_what_is_proved_holds(one: Matcher[JSONMessage], other: Matcher[JSONMessage], asked: list[JSONMessage]):
    """Disjoint matchers share no message, a contained one has none of its own, a witness matches both."""
    first, second = analyse(one), analyse(other)
    verdict = relation(first, second, JSONMessage)
    inside, outside = contained(first, second), contained(second, first)
    if verdict.relation is Relation.overlap:
        assert one(verdict.witness)
        assert other(verdict.witness)
    for message in asked:
        a, b = matches(one, message), matches(other, message)
        assert not (verdict.relation is Relation.disjoint and a and b)
        assert not (inside and a and not b)
        assert not (outside and b and not a)
        assert not (a and not first.alternatives)


@examples(200)
@given(near, near)
def test_what_is_made_of_two_is_known(one: Matcher[JSONMessage], other: Matcher[JSONMessage]):
    """`A & B` is inside A, and `B & ~A` shares nothing with A: the way out that an error suggests works."""
    if not any(alternative.opaque_parts for matcher in (one, other) for alternative in analyse(matcher).alternatives):
        both = analyse(one & other)
        if len(both.alternatives) <= 8:
            assert contained(both, analyse(one)) or not both.alternatives
    rest = analyse(other & ~one)
    assert relation(rest, analyse(one), JSONMessage).relation is not Relation.overlap
