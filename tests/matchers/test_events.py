"""EventField: paths, conditions, values, and bounded work on hostile events."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive import JSONMessage
from missive.errors import DecodingError, RegistrationError
from missive.matchers import (
    Absent,
    And,
    AnythingBut,
    Equals,
    EventField,
    Everything,
    Field,
    Header,
    NoneOf,
    Not,
    OneOf,
    Prefix,
    Present,
    Range,
)
from missive.matchers.events import leaves, leaves_of
from missive.matchers.values import MISSING
from tests.support import strategies
from tests.support.matchers import Decoded, events, few_names, flattened, nested, rebuilt, verdict


@pytest.mark.parametrize(
    ("path", "event", "expected"),
    [
        ("a", {"a": 1}, [1]),
        (("a",), {"a": 1}, [1]),
        (("a", "b"), {"a": {"b": 1}}, [1]),
        (("a", "b"), {"a.b": 1}, [1]),
        (("a", "b", "c"), {"a.b": {"c": 1}}, [1]),
        (("a", "b", "c"), {"a": {"b.c": 1}}, [1]),
        (("a", "b", "c"), {"a": {"b": {"c": 1}, "b.c": 2}, "a.b": {"c": 3}, "a.b.c": 4}, [1, 2, 3, 4]),
        ("a.b", {"a.b": 1}, [1]),
        ("a.b", {"a": {"b": 1}}, []),
        ("a", {"a": [1, [2, [], [[3]]]]}, [1, 2, 3]),
        ("a", {"a": (1, 2)}, [1, 2]),
        (("a", "b"), {"a": [{"b": 1}, 5, [{"b": [2, 3]}], {"c": 4}]}, [1, 2, 3]),
        ("a", {"a": None}, [None]),
        ("a", {"a": [None, "x", True]}, [None, "x", True]),
        ("a", {"a": {"b": 1}}, []),
        ("a", {"a": []}, []),
        ("a", {"a": [{}]}, []),
        ("a", {"b": 1}, []),
        (("a", "b"), {"a": 1}, []),
        (("a", "b"), {"a": None}, []),
        ("", {"": 1}, [1]),
        (("", ""), {".": 1}, [1]),
        (("a", ""), {"a.": 1, "a": {"": 2}}, [1, 2]),
        ("a", [{"a": 1}], []),
        ("a", "a", []),
        ("a", None, []),
    ],
)
def test_path_leads_to_scalars(path, event, expected):
    """A path leads through arrays, and through keys of several segments, to scalars including null."""
    segments = (path,) if isinstance(path, str) else path
    found = sorted(leaves(event, segments), key=repr)
    assert sorted(expected, key=repr) == found
    assert found == sorted(EventField(path, Present()).extract_all(Decoded(event)), key=repr)
    assert verdict(EventField(path, Present()), event) is bool(expected)
    assert verdict(EventField(path, Absent()), event) is not bool(expected)
    assert all(verdict(EventField(path, leaf), event) for leaf in expected)
    assert not verdict(EventField(path, "nowhere"), event)


def test_leaves_of_a_value():
    """The leaves of a value are its scalars, also those in arrays. An object has no leaves."""
    assert list(leaves_of([1, [None], {"a": 2}, ("x",)])) == [1, None, "x"]
    assert list(leaves_of(5)) == [5]
    assert list(leaves_of({})) == []


def test_one_scalar_must_pass():
    """A test holds if one scalar passes. This includes `AnythingBut`."""
    event = {"a": ["x", "y"]}
    assert verdict(EventField("a", "y"), event)
    assert verdict(EventField("a", AnythingBut("x")), event)
    assert not verdict(EventField("a", AnythingBut(OneOf("x", "y"))), event)
    assert not verdict(EventField("a", AnythingBut("x")), {"b": 1})


def test_none_of_applies_to_one_scalar():
    """`NoneOf` needs one scalar that fails all its tests."""
    neither = EventField("a", NoneOf(Prefix("x"), Prefix("y")))
    assert verdict(neither, {"a": ["x1", "z"]})
    assert verdict(neither, {"a": None})
    assert not verdict(neither, {"a": ["x1", "y1"]})
    assert not verdict(neither, {})


def test_one_object_must_meet_all_conditions():
    """One object of an array must meet the whole condition; several objects together do not."""
    both = EventField("items", EventField("sku", "A") & EventField("count", Range(gt=3)))
    assert verdict(both, {"items": [{"sku": "B", "count": 1}, {"sku": "A", "count": 4}]})
    assert not verdict(both, {"items": [{"sku": "A", "count": 1}, {"sku": "B", "count": 4}]})
    assert verdict(both, {"items": {"sku": "A", "count": 4}})
    assert verdict(both, {"items": [[[{"sku": "A", "count": 4}]]]})
    assert not verdict(both, {"items": [["sku", "A"], 4]})


def test_object_may_be_spread_over_keys_with_dots():
    """Members of one object that are written in several ways belong to the same object."""
    both = EventField(("d", "e"), EventField("x", 1) & EventField(("y", "z"), 2))
    for event in [
        {"d": {"e": {"x": 1, "y": {"z": 2}}}},
        {"d.e.x": 1, "d.e.y.z": 2},
        {"d": {"e.x": 1}, "d.e": {"y": {"z": 2}}},
        {"d": {"e": {"x": 1}, "e.y": {"z": 2}}},
        {"d.e": {"y.z": 2}, "d.e.x": 1},
        {"d.e.x": [1], "d.e": [5], "d": {"e.y.z": [3, 2]}},
    ]:
        assert verdict(both, event)
    assert not verdict(both, {"d.e": [{"x": 1}], "d": {"e": [{"y": {"z": 2}}]}})


def test_array_and_dotted_key_are_different_objects():
    """If a name is an array in one spelling and an object in another, these are different objects."""
    both = EventField("d", EventField("x", 1) & EventField("y", 2))
    assert not verdict(both, {"d": [{"x": 1}], "d.y": 2})
    assert verdict(both, {"d": [{"x": 1}], "d.y": 2, "d.x": 1})


def test_condition_may_be_any_composition():
    """`&`, `|` and `~` in a condition apply to one existing object."""
    inner = EventField("a", 1) & (EventField("b", 2) | ~EventField("c", Present()))
    matcher = EventField("d", inner)
    assert verdict(matcher, {"d": [{"a": 1}]})
    assert verdict(matcher, {"d": [{"a": 1, "c": 1, "b": 2}]})
    assert not verdict(matcher, {"d": [{"a": 1, "c": 1}, {"b": 2}]})
    assert not verdict(matcher, {"a": 1})


@pytest.mark.parametrize("event", [{}, {"d": []}, {"d": 1}, {"d": [1, [None]]}, {"e.d": {}}, [], None])
def test_condition_needs_an_object(event):
    """Without an object, no condition holds."""
    assert not verdict(EventField("d", ~EventField("a", 1)), event)
    assert not verdict(EventField("d", EventField("a", Absent())), event)
    assert verdict(~EventField("d", EventField("a", Absent())), event)


@pytest.mark.parametrize("event", [{"d": {}}, {"d": [{}]}, {"d.b": 1}, {"d": {"b": 1}}, {"d": 1, "d.b": 1}])
def test_absent_field_of_an_object(event):
    """An existing object without the field meets `Absent`."""
    assert verdict(EventField("d", EventField("a", Absent())), event)


def test_undecodable_body_is_unknown():
    """The verdict of a test or a composition is unknown if the body cannot be decoded."""
    for matcher in [EventField("a", 1), EventField("a", Absent()), EventField("a", EventField("b", 1))]:
        assert matcher.evaluate(JSONMessage(b"{")) is None
        assert (~matcher).evaluate(JSONMessage(b"{")) is None
        with pytest.raises(DecodingError):
            matcher(JSONMessage(b"{"))
    with pytest.raises(DecodingError):
        EventField("a", 1).extract_all(JSONMessage(b"{"))


def test_attributes():
    """`path`, `test` and `inside` are attributes. `walk` yields all matchers. A path may be public."""
    inner = EventField("b", 1) & EventField("c", 2)
    outer = EventField(("a", "x"), inner)
    assert (("a", "x"), None, inner) == (outer.path, outer.test, outer.inside)
    assert (("b",), Equals(1), None) == (
        EventField("b", 1).path,
        EventField("b", 1).test,
        EventField("b", 1).inside,
    )
    assert [outer, inner, *inner.parts] == list(outer.walk())
    assert (outer.depth, outer.size) == (3, 4)
    assert not outer.opaque
    assert outer.is_public({("a", "x")})
    assert not outer.is_public({("a",)})


@pytest.mark.parametrize(
    "matcher",
    [
        EventField(("detail", "state"), OneOf("a", "b")),
        EventField("detail", EventField("state", "x") & EventField("code", Range(gt=3))),
        EventField("a", ~EventField("b", Absent()) | EventField(("c", "d"), AnythingBut(None))),
        EventField("a.b", NoneOf(Prefix("x"), 5)),
        EventField("a", EventField("b", EventField("c", 1))),
    ],
)
def test_event_fields_are_values(matcher):
    """An EventField evaluated from its repr, or unpickled, is equal and has the same hash."""
    for again in (rebuilt(matcher), pickle.loads(pickle.dumps(matcher))):
        assert matcher == again
        assert hash(matcher) == hash(again)
        assert repr(matcher) == repr(again)
    assert matcher != EventField("other", 1)


def test_equality():
    """Path, kind of condition and literal affect equality. A string equals a tuple of one segment."""
    assert EventField("a", 1) == EventField(("a",), Equals(1.0))
    assert EventField("a.b", 1) != EventField(("a", "b"), 1)
    assert EventField("a", 1) != EventField("a", True)
    assert EventField("a", 1) != Field("a", 1)
    assert EventField("a", EventField("b", 1)) != EventField(("a", "b"), 1)
    assert EventField("a", EventField("b", 1)) != EventField("c", EventField("b", 1))
    assert NoneOf("a", "b") == NoneOf("b", "a", "a")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: EventField("a", "b", "c"), r"EventField got too many arguments: .* such as \('a', 'b'\)$"),
        (lambda: EventField((), 1), "string or a tuple of strings"),
        (lambda: EventField(("a", 1), 1), "string or a tuple of strings"),
        (lambda: EventField(["a"], 1), "string or a tuple of strings"),
        (lambda: EventField(("a",) * 101, 1), "at most 100 segments"),
        (lambda: EventField("a", Field("b", 1)), r"only EventFields.*not Field\('b', Equals\(1\)\)"),
        (lambda: EventField("a", EventField("b", 1) & Header("h", "1")), "only EventFields.*Header"),
        (lambda: EventField("a", ~Everything()), "only EventFields.*Everything"),
        (lambda: EventField("a", EventField("b", 1) & (lambda message: True)), "only EventFields.*lambda"),
        (lambda: EventField("a", []), "takes a str"),
        (lambda: EventField("a", float("nan")), "NaN"),
        (NoneOf, r"NoneOf\(\) without tests .* use Present\(\)"),
        (lambda: NoneOf(Present()), r"Present\(\) tests whether one exists"),
        (lambda: NoneOf("a", Absent()), r"Absent\(\) tests whether one exists"),
    ],
)
def test_invalid_arguments_are_refused(make, text):
    """An invalid path or condition raises an error at once."""
    with pytest.raises(RegistrationError, match=text):
        make()


def test_nesting_is_bounded():
    """A hundred nested EventFields can be created and evaluated. One more is refused."""
    matcher = EventField("a", 1)
    event = {"a": 1}
    for _ in range(99):
        matcher, event = EventField("a", matcher), {"a": [event]}
    assert verdict(matcher, event)
    assert matcher == rebuilt(matcher)
    with pytest.raises(RegistrationError, match="at most 100 deep"):
        EventField("a", matcher)


names = st.sampled_from(["a", "b", "ä", ""])
path = st.lists(names, min_size=1, max_size=3).map(tuple)
scalars = st.sampled_from([None, True, False, 0, 1, 1.5, "", "a", "b"])
objects_only = st.dictionaries(names, st.recursive(scalars, lambda inner: st.dictionaries(names, inner, max_size=3)))


event_fields = st.recursive(
    st.builds(
        EventField,
        st.lists(few_names, min_size=1, max_size=2).map(tuple),
        st.sampled_from([Equals(1), Equals(None), AnythingBut(1), Present(), Absent()]),
    ),
    lambda inner: st.one_of(
        st.builds(EventField, few_names, inner),
        st.builds(lambda one, other: one & other, inner, inner),
        st.builds(lambda one, other: one | other, inner, inner),
        inner.map(lambda one: ~one),
    ),
    max_leaves=4,
)


@strategies.examples(120)
@given(path, strategies.tests, objects_only)
def test_agrees_with_field_without_arrays_and_dots(at, test, event):
    """For an event without arrays and dots, EventField agrees with Field, except that objects are not values."""
    value = Field(at, test).extract(Decoded(event))
    expected = test.on_missing if value is MISSING or isinstance(value, dict) else test(value)
    assert expected is verdict(EventField(at, test), event)


@strategies.examples(150)
@given(st.data(), event_fields, events)
def test_flattened_event_has_the_same_verdict(data, matcher, event):
    """Moving members of objects under keys that contain dots does not change a verdict."""
    assert verdict(matcher, event) is verdict(matcher, flattened(data.draw, event))


def objects_at(value, at):
    """Return the objects at a path in an event without dots, by plain recursion."""
    if isinstance(value, list):
        return [found for element in value for found in objects_at(element, at)]
    if not isinstance(value, dict):
        return []
    return [value] if not at else objects_at(value.get(at[0]), at[1:])


def scalars_at(value, at):
    """Return the scalars at a path in an event without dots, by plain recursion."""
    if isinstance(value, list):
        return [found for element in value for found in scalars_at(element, at)]
    if at:
        return scalars_at(value[at[0]], at[1:]) if isinstance(value, dict) and at[0] in value else []
    return [] if isinstance(value, dict) else [value]


def defined(matcher, obj):
    """Return the verdict of a composition of EventFields by their definition, without shortcuts."""
    if isinstance(matcher, EventField):
        if matcher.inside is not None:
            return any(defined(matcher.inside, inner) for inner in objects_at(obj, matcher.path))
        found = scalars_at(obj, matcher.path)
        return any(matcher.test(leaf) for leaf in found) if found else matcher.test.on_missing
    if isinstance(matcher, Not):
        return not defined(matcher.part, obj)
    return (all if isinstance(matcher, And) else any)(defined(part, obj) for part in matcher.parts)


@strategies.examples(200)
@given(event_fields, events)
def test_verdict_agrees_with_the_definition(matcher, event):
    """The verdict agrees with a plain search for one object or scalar that meets the condition."""
    assert defined(matcher, event) is verdict(matcher, event)


@strategies.examples(60)
@given(event_fields, event_fields)
def test_repr_and_order_of_compositions(one, other):
    """`eval(repr(m)) == m`, with equal hashes. The order of operands does not matter."""
    assert one == rebuilt(one)
    assert hash(one) == hash(rebuilt(one))
    assert (one & other) == (other & one)


# Hostile events


def dotted(segments, leaf):
    """Return an event that spells a path of one repeated name in all possible ways."""
    return {".".join("a" * k): dotted(segments - k, leaf) for k in range(1, segments + 1)} if segments else leaf


def shared(segments):
    """Return the same event as a graph with shared objects: 2 ** (segments - 1) ways, but few objects."""
    levels = [{} for _ in range(segments + 1)]
    for start in range(segments):
        for end in range(start + 1, segments + 1):
            levels[start][".".join("a" * (end - start))] = levels[end]
    return levels[0]


CYCLE: dict[str, object] = {}
CYCLE["a"] = [CYCLE, [CYCLE]]
TWICE = nested(200, 1, lambda inner: [inner, inner])


@pytest.mark.parametrize(
    "event",
    [
        pytest.param({"a": nested(100_000, 1, lambda inner: [inner])}, id="lists"),
        pytest.param(nested(100_000, 1, lambda inner: {"a": inner}), id="objects"),
        pytest.param(nested(50_000, 1, lambda inner: {"a": [inner]}), id="both"),
        pytest.param({"a": TWICE}, id="shared lists"),
        pytest.param(nested(100, 1, lambda inner: {"a": [inner, inner, {"a.a": inner}]}), id="shared objects"),
        pytest.param(dotted(10, {}), id="every spelling"),
        pytest.param(shared(60), id="every spelling, shared"),
        pytest.param({".".join("a" * k): [{} for _ in range(200)] for k in range(1, 30)}, id="lists everywhere"),
        pytest.param(CYCLE, id="cycle"),
    ],
)
@pytest.mark.parametrize("segments", [1, 2, 10, 60])
def test_hostile_event_takes_bounded_work(event, segments):
    """Depth, sharing, cycles and ambiguous keys cause no recursion and do not multiply the work."""
    at = ("a",) * segments
    assert not verdict(EventField(at, "never"), event)
    assert not verdict(EventField(at, EventField("x", 1) & EventField("y", 1)), event)
    inside = nested(min(segments, 20), EventField("x", 1), lambda inner: EventField("a", inner & EventField("y", 1)))
    assert not verdict(EventField("a", inside), event)


def test_shared_elements_are_evaluated_once():
    """Objects that share an array do not multiply the work with each level."""
    event = [{"x": 1}] * 50
    for _ in range(6):
        event = [{"a": event, "n": n} for n in range(50)]
    matcher = EventField("x", "never")
    for _ in range(7):
        matcher = EventField("a", matcher & ~EventField("n", "never"))
    assert not verdict(matcher, {"a": event})
