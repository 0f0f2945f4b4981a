"""Compiled patterns against a reference implementation that follows Event Ruler.

The reference represents an event as a list of leaves, each with the array elements that contain it. It expands a
pattern to lists of fields. A pattern matches if there is a choice of one leaf per field, all in the same elements.
"""

from __future__ import annotations

import itertools
import json
import types

from hypothesis import given
from hypothesis import strategies as st

from missive.matchers import from_eventbridge
from tests.support import strategies
from tests.support.matchers import events, flattened, rebuilt, verdict


def event_leaves(value, at=(), elements=(), count=None):
    """Yield the path, the scalar and the elements ({array: index}) of each leaf of an event."""
    count = itertools.count() if count is None else count
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from event_leaves(inner, (*at, *key.split(".")), elements, count)
    elif isinstance(value, list):
        array = next(count)
        for index, element in enumerate(value):
            within = (*elements, (array, index)) if isinstance(element, (dict, list)) else elements
            yield from event_leaves(element, at, within, count)
    else:
        yield at, value, dict(elements)


def expanded(pattern, prefix=()):
    """Return the lists of (path, alternatives) that a pattern expands to, without `$or`."""
    rules = [[]]
    for key, inner in pattern.items():
        if key == "$or":
            more = [rule for branch in inner for rule in expanded(branch, prefix)]
        elif isinstance(inner, dict):
            more = expanded(inner, (*prefix, *key.split(".")))
        else:
            more = [[((*prefix, *key.split(".")), inner)]]
        rules = [one + other for one in rules for other in more]
    return rules


def compatible(one, other):
    """Return whether two leaves are in the same element of every array that contains both."""
    return all(other.get(array, index) == index for array, index in one.items())


def passes(alternative, value):
    """Return whether a value passes an alternative."""
    if isinstance(alternative, dict):
        ((name, operand),) = alternative.items()
        return operand is True if name == "exists" else (type(value), value) != (type(operand), operand)
    return (type(value), value) == (type(alternative), alternative)


def rule_matches(rule, event):
    """Return whether some choice of one leaf, or of absence, for each field is compatible."""
    found = list(event_leaves(event))
    choices = []
    for at, alternatives in rule:
        good = [leaf for leaf in found if leaf[0] == at and any(passes(one, leaf[1]) for one in alternatives)]
        choices.append([*good, *([at] if {"exists": False} in alternatives else [])])
    for choice in itertools.product(*choices):
        chosen = [leaf[2] for leaf in choice if isinstance(leaf[-1], dict)]
        absent = [at for at in choice if not (at and isinstance(at[-1], dict))]
        if all(compatible(one, other) for one, other in itertools.combinations(chosen, 2)) and not any(
            leaf[0] == at and all(compatible(one, leaf[2]) for one in chosen) for at in absent for leaf in found
        ):
            return True
    return False


alternative = st.sampled_from([1, 1, 2, 2, True, None, {"exists": True}, {"exists": False}, {"anything-but": 1}])
alternatives = st.lists(alternative, min_size=1, max_size=2)


@st.composite
def patterns(draw):
    """Return a pattern of few names, in which no field is duplicated or inside another."""
    below = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=2)
    at = st.builds(lambda first, rest: (first, *rest), st.sampled_from(["a", "a", "a", "b"]), below)
    drawn = draw(st.lists(at, min_size=2, max_size=4, unique=True))
    paths = [one for one in drawn if not any(other[: len(one)] == one for other in drawn if other != one)]
    fields = [(at, draw(alternatives)) for at in paths]
    groups = [[], [], []]
    for one in fields:
        groups[draw(st.sampled_from([0, 0, 0, 1, 2]))].append(one)
    always, *branches = groups
    if all(branches):
        return {**pattern_of(always), "$or": [pattern_of(branch) for branch in branches]}
    return pattern_of(fields)


def pattern_of(fields):
    """Return the pattern with the given fields."""
    pattern = {}
    for at, values in fields:
        put(pattern, at, values)
    return pattern


def put(pattern, at, values):
    """Add a field to a pattern."""
    for segment in at[:-1]:
        pattern = pattern.setdefault(segment, {})
    pattern[at[-1]] = values


@st.composite
def questions(draw):
    """Return a pattern, and an event with scalars at its paths, distributed over elements of arrays."""
    pattern = draw(patterns())
    event, arrays = {}, {}
    paths = list(dict.fromkeys(at for rule in expanded(pattern) for at, _ in rule))
    for at in [*paths, *draw(st.lists(st.sampled_from(paths), max_size=3))]:
        holder = event
        for length, segment in enumerate(at, 1):
            if at[:length] not in arrays:
                arrays[at[:length]] = draw(st.sampled_from([True, True, False]))
            if length == len(at):
                value = draw(st.sampled_from([1, 1, 2, 2, True, None]))
                holder[segment] = [*holder.get(segment, []), value] if arrays[at] else value
            elif arrays[at[:length]]:
                holder = holder.setdefault(segment, [{}, {}])[draw(st.integers(0, 1))]
            else:
                holder = holder.setdefault(segment, {})
    return pattern, event


@strategies.examples(250)
@given(questions() | st.tuples(patterns(), events))
def test_pattern_agrees_with_the_reference(question):
    """A compiled pattern agrees with the reference, which tries all choices of leaves."""
    pattern, event = question
    expected = any(rule_matches(rule, event) for rule in expanded(pattern))
    assert expected is verdict(from_eventbridge(pattern), event)


@strategies.examples(150)
@given(st.data(), patterns(), events)
def test_flattened_event_matches_the_same_patterns(data, pattern, event):
    """Keys with dots in an event do not change the verdict of a pattern."""
    matcher = from_eventbridge(pattern)
    assert verdict(matcher, event) is verdict(matcher, flattened(data.draw, event))


@strategies.examples(60)
@given(patterns())
def test_repr_of_a_compiled_pattern_is_an_expression(pattern):
    """`eval(repr(m)) == m`. The JSON text and other mappings compile to an equal matcher."""
    matcher = from_eventbridge(pattern)
    assert matcher == rebuilt(matcher)
    assert matcher == from_eventbridge(json.dumps(pattern))
    assert matcher == from_eventbridge(types.MappingProxyType(pattern))
