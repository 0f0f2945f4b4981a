"""Conflicts: proofs about two matchers are correct for generated matchers."""

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
    # Use few places, so that two matchers often share one.
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
def test_proofs_hold_for_messages(one: Matcher[JSONMessage], other: Matcher[JSONMessage], sent: list[JSONMessage]):
    """Disjoint matchers share no message, a contained matcher never matches alone, and a witness matches both."""
    first, second = analyse(one), analyse(other)
    comparison = relation(first, second, JSONMessage)
    inside, outside = contained(first, second), contained(second, first)
    if comparison.relation is Relation.overlap:
        assert one(comparison.witness)
        assert other(comparison.witness)
    for message in sent:
        a, b = matches(one, message), matches(other, message)
        assert not (comparison.relation is Relation.disjoint and a and b)
        assert not (inside and a and not b)
        assert not (outside and b and not a)
        assert not (a and not first.alternatives)


@examples(200)
@given(near, near)
def test_suggested_matchers_are_disjoint(one: Matcher[JSONMessage], other: Matcher[JSONMessage]):
    """`A & B` is contained in A, and `B & ~A` never overlaps with A, so the suggestion of an error works."""
    if not any(alternative.opaque_parts for matcher in (one, other) for alternative in analyse(matcher).alternatives):
        both = analyse(one & other)
        if len(both.alternatives) <= 8:
            assert contained(both, analyse(one)) or not both.alternatives
    rest = analyse(other & ~one)
    assert relation(rest, analyse(one), JSONMessage).relation is not Relation.overlap
