"""The structure of event patterns: paths, choices, locations of errors, and limits."""

from __future__ import annotations

import pytest

from missive.errors import RegistrationError
from missive.matchers import And, EventField, from_eventbridge
from tests.support.matchers import check_refused, matches, nested, verdict


def test_keys_are_joined_by_dots():
    """A key with dots equals nested keys, in the pattern and in the event."""
    for pattern in ({"a": {"b": {"c": [1]}}}, {"a.b": {"c": [1]}}, {"a": {"b.c": [1]}}, {"a.b.c": [1]}):
        for event in ({"a": {"b": {"c": 1}}}, {"a.b": {"c": 1}}, {"a": {"b.c": 1}}, {"a.b.c": 1}):
            assert matches(pattern, event)
        assert not matches(pattern, {"a": {"b": 1}})
    assert from_eventbridge({"a": {"b": {"c": [1]}}}) == from_eventbridge({"a.b.c": [1]})


@pytest.mark.parametrize(
    ("pattern", "location", "text"),
    [
        ({}, "", "empty.*Everything"),
        ([1, 2], "", "not a list"),
        (b"{}", "", "not bytes"),
        (None, "", "not null"),
        ("[1]", "", "not a list"),
        ("{", "", "not JSON: .* line 1, column 2"),
        ("", "", "not JSON"),
        ('{"a": [1], "b": {"c": [1], "c": [2]}}', " at b.c", "duplicate key: keep one"),
        ('{"a": [{"prefix": "a", "prefix": "b"}]}', r" at a\[0\].prefix", "duplicate key: keep one"),
        ('{"a": [NaN]}', r" at a\[0\]", "nan is not a number"),
        ('{"a": [1e999]}', r" at a\[0\]", "inf is not a number"),
        ('{"a": [' + "1" * 5000 + "]}", "", "too long"),
        ({1: ["x"]}, "", "keys of an object are strings, not int"),
        ({"a": {1: ["x"]}}, " at a", "keys of an object are strings, not int"),
        ({"a": 1}, " at a", r"a list of alternatives: write \[1\]"),
        ({"a": None}, " at a", r"\[null\]"),
        ({"a": {"b": "x" * 100}}, " at a.b", r'\["x{40}…"\]'),
        ({"a": {}}, " at a", "empty object"),
        ({"a": {"b": {}}}, " at a.b", "empty object"),
        ({"a": []}, " at a", "empty list"),
        ({"a b": [{"x": 2}]}, r' at \["a b"\]\[0\]', 'unknown operator "x"'),
        (
            {"detail": {"state": [1, {"prefx": "a"}]}},
            r" at detail.state\[1\]",
            'unknown operator "prefx": did you mean "prefix"',
        ),
        ({"$or": "a"}, r" at \$or", r'takes a list of alternatives: write \["a"\]'),
        ({"$or": []}, r" at \$or", "at least two objects, not 0: add"),
        ({"a": {"$or": [{"b": [1]}]}}, r" at a.\$or", "at least two objects, not 1: add"),
        ({"$or": [{"a": [1]}, "b"]}, r" at \$or\[0\]", 'unknown operator "a"'),
        ({"$or": [{"prefix": ["a"]}, {"suffix": "b"}]}, r" at \$or\[0\].prefix", "not a list"),
        ({"$or": [{"a": [1]}, {}]}, r" at \$or\[1\]", "empty object"),
        ({"$or": [{"a": [1]}, {"b": [{"x": 1}]}]}, r" at \$or\[1\].b\[0\]", 'unknown operator "x"'),
        (
            {"a": {"$or": [{"prefix": ["b"]}, {"c": [1]}]}},
            r" at a.\$or\[0\].prefix",
            r'"prefix" is an operator.*\{FIELD: \[',
        ),
        ({"$or": [{"a": [1]}, {"=": [1]}]}, r' at \$or\[1\]\["="\]', "operator"),
        ({"a.b": [1], "a": {"b": [2]}}, " at a.b", "duplicate field: write all alternatives"),
        ({"a.b.c": [1], "a": {"b.c": [2]}}, " at a.b.c", "duplicate field: write all alternatives"),
        ({"a": [1], "$or": [{"a": [2]}, {"b": [3]}]}, r" at \$or\[0\].a", "duplicate field: write all alternatives"),
        (
            {"x": {"$or": [{"a": [1]}, {"b": [1]}]}, "$or": [{"x.a": [2]}, {"c": [3]}]},
            r" at \$or\[0\].x.a",
            "duplicate field: write all alternatives",
        ),
        ({"a" * 200: [{"x": 1}]}, r' at \["a{40}…"\]\[0\]', "unknown operator"),
        ({"a\nb": [{"x": 1}]}, r' at \["a\\nb"\]\[0\]', "unknown operator"),
    ],
)
def test_invalid_pattern_is_refused(pattern, location, text):
    """An invalid structure is refused; the error names its location and the remedy."""
    check_refused(pattern, location, text)


@pytest.mark.parametrize("levels", [101, 900, 1_000, 100_000])
def test_too_deep_pattern_is_refused(levels):
    """A pattern that is too deep is refused without a RecursionError, as a mapping and as JSON text."""
    nest = nested(levels, [1], lambda inner: {"a": inner})
    choice = nested(levels, {"a": [1]}, lambda inner: {"$or": [inner, {"b": [1]}]})
    for pattern in (nest, choice, {".".join("a" * levels): [1]}, '{"a":' * levels + "[1]" + "}" * levels):
        with pytest.raises(RegistrationError, match="more than 100 levels deep") as caught:
            from_eventbridge(pattern)
        assert len(str(caught.value)) < 300
    endless = {}
    endless["a"] = endless
    with pytest.raises(RegistrationError, match="more than 100 levels deep"):
        from_eventbridge(endless)


def test_deep_pattern_is_accepted():
    """A hundred nested names become one path. Forty levels of nested groups can be evaluated."""
    chain = from_eventbridge(nested(100, [1], lambda inner: {"a": inner}))
    assert chain == EventField(("a",) * 100, 1)
    groups = nested(40, {"a": [1], "b": [2]}, lambda inner: {"a": inner, "b": [2]})
    event = nested(40, {"a": 1, "b": 2}, lambda inner: {"a": [inner, {}], "b": 2})
    assert verdict(from_eventbridge(groups), event)
    too_deep = nested(90, {"a": [1], "b": [2]}, lambda inner: {"a": inner, "b": [2]})
    with pytest.raises(RegistrationError, match=r"^the EventBridge pattern is invalid: .*nested at most 100 deep"):
        from_eventbridge(too_deep)


def test_combinations_are_bounded():
    """A thousand combinations of choices are accepted, and more are refused."""
    choices = [{"$or": [{f"x{n}.y.{k}": [1]} for k in range(10)]} for n in range(4)]
    at_most = from_eventbridge({f"p{n}": choice for n, choice in enumerate(choices[:3])})
    assert isinstance(at_most, And)
    with pytest.raises(RegistrationError, match="more than 1000 combinations: register several"):
        from_eventbridge({f"p{n}": choice for n, choice in enumerate(choices)})


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ({"$or": ["a", 1]}, [{"$or": "a"}, {"$or": [2, 1]}], [{"$or": "b"}, {"a": "a"}, {}]),
        ({"$or": {"a": [1], "b": [2]}}, [{"$or": {"a": 1, "b": 2}}, {"$or.a": 1, "$or.b": 2}], [{"a": 1, "b": 2}]),
        ({"$or": [{"prefix": "a"}, {"numeric": [">", 1]}]}, [{"$or": "ab"}, {"$or": 2}], [{"$or": "b"}, {"$or": 1}]),
        ({"$or": [{"exists": False}]}, [{}, {"a": 1}], [{"$or": 1}]),
        ({"x": {"$or": [None, {"suffix": "b"}]}}, [{"x": {"$or": None}}, {"x.$or": "ab"}], [{"x": None}]),
        ({"$or": [{"a": [1]}, {"$or": ["b"]}]}, [{"a": 1}, {"$or": "b"}], [{"a": "b"}, {"b": 1}]),
        ({"$or": [{"a": [1]}, {"b": {"$or": {"c": [2]}}}]}, [{"a": 1}, {"b": {"$or": {"c": 2}}}], [{"b": {"c": 2}}]),
    ],
)
def test_or_without_objects_of_fields_is_a_field(pattern, matching, others):
    """As in Event Ruler, `$or` is the name of a field unless it has a list of objects of fields."""
    assert [event for event in matching if not matches(pattern, event)] == []
    assert [event for event in others if matches(pattern, event)] == []
