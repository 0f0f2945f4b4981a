"""EventBridge: EventField, and patterns as matchers. The facts are those of Event Ruler's reference and tests."""

from __future__ import annotations

import itertools
import json
import pickle
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive import JSONMessage
from missive import matchers as all_matchers
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
    IsInstance,
    NoneOf,
    Not,
    OneOf,
    Or,
    Prefix,
    Present,
    Range,
    Suffix,
    from_eventbridge,
)
from missive.matchers.events import leaves, leaves_of
from missive.matchers.network import Cidr
from missive.matchers.text import Wildcard
from missive.matchers.values import MISSING
from tests.support import strategies


class Decoded(JSONMessage):
    """A message whose content is given as it is, as a decoder of another format may return it."""

    __slots__ = ("given",)

    def __init__(self, given: object) -> None:
        super().__init__(b"")
        self.given = given

    def decode(self) -> object:
        return self.given


def rebuilt(matcher):
    """Evaluate a matcher's repr."""
    return eval(repr(matcher), dict(vars(all_matchers)))


def answer(matcher, event):
    """Ask a matcher about an event; the answer is known."""
    verdict = matcher.evaluate(Decoded(event))
    assert verdict is not None
    return verdict


def matches(pattern, event):
    """Ask a pattern about an event, both through JSON."""
    verdict = from_eventbridge(json.dumps(pattern)).evaluate(JSONMessage.of(event))
    assert verdict is from_eventbridge(pattern).evaluate(Decoded(event))
    return verdict


class TestEventField:
    """EventField by itself."""

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
    def test_a_path_leads_to_leaves(self, path, event, expected):
        """A path leads through arrays, and through keys that hold several segments, to scalars and null."""
        segments = (path,) if isinstance(path, str) else path
        found = sorted(leaves(event, segments), key=repr)
        assert sorted(expected, key=repr) == found
        assert found == sorted(EventField(path, Present()).extract_all(Decoded(event)), key=repr)
        assert answer(EventField(path, Present()), event) is bool(expected)
        assert answer(EventField(path, Absent()), event) is not bool(expected)
        assert all(answer(EventField(path, leaf), event) for leaf in expected)
        assert not answer(EventField(path, "nowhere"), event)

    def test_the_leaves_of_a_value(self):
        """Of a value at the end of a path the scalars count, in arrays too, and an object is none."""
        assert list(leaves_of([1, [None], {"a": 2}, ("x",)])) == [1, None, "x"]
        assert list(leaves_of(5)) == [5]
        assert list(leaves_of({})) == []

    def test_any_leaf_will_do(self):
        """A test holds where one leaf passes; anything-but as well."""
        event = {"a": ["x", "y"]}
        assert answer(EventField("a", "y"), event)
        assert answer(EventField("a", AnythingBut("x")), event)
        assert not answer(EventField("a", AnythingBut(OneOf("x", "y"))), event)
        assert not answer(EventField("a", AnythingBut("x")), {"b": 1})

    def test_none_of_looks_at_one_leaf(self):
        """NoneOf needs one leaf of which all its tests are false."""
        neither = EventField("a", NoneOf(Prefix("x"), Prefix("y")))
        assert answer(neither, {"a": ["x1", "z"]})
        assert answer(neither, {"a": None})
        assert not answer(neither, {"a": ["x1", "y1"]})
        assert not answer(neither, {})

    def test_two_conditions_are_met_by_one_object(self):
        """What is inside holds of one object of an array, and not of several together."""
        both = EventField("items", EventField("sku", "A") & EventField("count", Range(gt=3)))
        assert answer(both, {"items": [{"sku": "B", "count": 1}, {"sku": "A", "count": 4}]})
        assert not answer(both, {"items": [{"sku": "A", "count": 1}, {"sku": "B", "count": 4}]})
        assert answer(both, {"items": {"sku": "A", "count": 4}})
        assert answer(both, {"items": [[[{"sku": "A", "count": 4}]]]})
        assert not answer(both, {"items": [["sku", "A"], 4]})

    def test_an_object_is_spread_over_keys_with_dots(self):
        """The members of one object may be written in several ways, and are of one object all the same."""
        both = EventField(("d", "e"), EventField("x", 1) & EventField(("y", "z"), 2))
        for event in [
            {"d": {"e": {"x": 1, "y": {"z": 2}}}},
            {"d.e.x": 1, "d.e.y.z": 2},
            {"d": {"e.x": 1}, "d.e": {"y": {"z": 2}}},
            {"d": {"e": {"x": 1}, "e.y": {"z": 2}}},
            {"d.e": {"y.z": 2}, "d.e.x": 1},
            {"d.e.x": [1], "d.e": [5], "d": {"e.y.z": [3, 2]}},
        ]:
            assert answer(both, event)
        assert not answer(both, {"d.e": [{"x": 1}], "d": {"e": [{"y": {"z": 2}}]}})

    def test_the_elements_of_an_array_are_apart_from_what_is_beside_it(self):
        """Where a name is an array in one spelling and an object in another, these are two objects."""
        both = EventField("d", EventField("x", 1) & EventField("y", 2))
        assert not answer(both, {"d": [{"x": 1}], "d.y": 2})
        assert answer(both, {"d": [{"x": 1}], "d.y": 2, "d.x": 1})

    def test_inside_there_may_be_any_composition(self):
        """&, | and ~ hold inside as they do outside, of one object that is there."""
        inner = EventField("a", 1) & (EventField("b", 2) | ~EventField("c", Present()))
        matcher = EventField("d", inner)
        assert answer(matcher, {"d": [{"a": 1}]})
        assert answer(matcher, {"d": [{"a": 1, "c": 1, "b": 2}]})
        assert not answer(matcher, {"d": [{"a": 1, "c": 1}, {"b": 2}]})
        assert not answer(matcher, {"a": 1})

    @pytest.mark.parametrize("event", [{}, {"d": []}, {"d": 1}, {"d": [1, [None]]}, {"e.d": {}}, [], None])
    def test_where_there_is_no_object_nothing_holds_inside(self, event):
        """No object, no match, whatever is inside."""
        assert not answer(EventField("d", ~EventField("a", 1)), event)
        assert not answer(EventField("d", EventField("a", Absent())), event)
        assert answer(~EventField("d", EventField("a", Absent())), event)

    @pytest.mark.parametrize("event", [{"d": {}}, {"d": [{}]}, {"d.b": 1}, {"d": {"b": 1}}, {"d": 1, "d.b": 1}])
    def test_an_object_without_the_field(self, event):
        """An object that is there, without the field, meets Absent inside."""
        assert answer(EventField("d", EventField("a", Absent())), event)

    def test_an_undecodable_body_is_unknown(self):
        """Whether a test or a composition holds is unknown where the body cannot be decoded."""
        for matcher in [EventField("a", 1), EventField("a", Absent()), EventField("a", EventField("b", 1))]:
            assert matcher.evaluate(JSONMessage(b"{")) is None
            assert (~matcher).evaluate(JSONMessage(b"{")) is None
            with pytest.raises(DecodingError):
                matcher(JSONMessage(b"{"))
        with pytest.raises(DecodingError):
            EventField("a", 1).extract_all(JSONMessage(b"{"))

    def test_it_shows_what_it_is(self):
        """Path, test and inside are attributes; walk yields itself and what is inside; a path may be public."""
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
    def test_repr_equality_and_pickle(self, matcher):
        """A repr is an expression; equal by value, and the same after a pickle."""
        for again in (rebuilt(matcher), pickle.loads(pickle.dumps(matcher))):
            assert matcher == again
            assert hash(matcher) == hash(again)
            assert repr(matcher) == repr(again)
        assert matcher != EventField("other", 1)

    def test_what_is_different_is_not_equal(self):
        """Path, kind of condition and literal make the difference; a string is the same as a tuple of one."""
        assert EventField("a", 1) == EventField(("a",), Equals(1.0))
        assert EventField("a.b", 1) != EventField(("a", "b"), 1)
        assert EventField("a", 1) != EventField("a", True)
        assert EventField("a", 1) != Field("a", 1)
        assert EventField("a", EventField("b", 1)) != EventField(("a", "b"), 1)
        assert EventField("a", EventField("b", 1)) != EventField("c", EventField("b", 1))
        assert EventField("a", EventField("b", 1)) != EventField("c", EventField("b", 1))
        assert NoneOf("a", "b") == NoneOf("b", "a", "a")

    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda: EventField("a", "b", "c"), r"EventField\(\('a', 'b'\), …\)"),
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
    def test_what_cannot_work_is_refused(self, make, said):
        """A wrong path or condition is an error when the matcher is made."""
        with pytest.raises(RegistrationError, match=said):
            make()

    def test_nesting_is_bounded(self):
        """A hundred levels of EventField can be made, shown and asked, and one more cannot."""
        matcher = EventField("a", 1)
        event = {"a": 1}
        for _ in range(99):
            matcher, event = EventField("a", matcher), {"a": [event]}
        assert answer(matcher, event)
        assert matcher == rebuilt(matcher)
        with pytest.raises(RegistrationError, match="at most 100 deep"):
            EventField("a", matcher)


# Properties


names = st.sampled_from(["a", "b", "ä", ""])
path = st.lists(names, min_size=1, max_size=3).map(tuple)
scalars = st.sampled_from([None, True, False, 0, 1, 1.5, "", "a", "b"])
objects_only = st.dictionaries(names, st.recursive(scalars, lambda inner: st.dictionaries(names, inner, max_size=3)))

# Two names and two values, so that a path leads somewhere, and conditions are met by one object or by several.
few = st.sampled_from(["a", "b"])
event_fields = st.recursive(
    st.builds(
        EventField,
        st.lists(few, min_size=1, max_size=2).map(tuple),
        st.sampled_from([Equals(1), Equals(None), AnythingBut(1), Present(), Absent()]),
    ),
    lambda inner: st.one_of(
        st.builds(EventField, few, inner),
        st.builds(lambda one, other: one & other, inner, inner),
        st.builds(lambda one, other: one | other, inner, inner),
        inner.map(lambda one: ~one),
    ),
    max_leaves=4,
)
few_scalars = st.sampled_from([1, 2, True, None])


def tree(levels):
    """Return a strategy for an object whose members are scalars, objects, and arrays of both."""
    inner = few_scalars if levels == 0 else st.one_of(few_scalars, tree(levels - 1), tree(levels - 1))
    return st.dictionaries(few, inner | st.lists(inner, min_size=1, max_size=3), min_size=1, max_size=2)


events = tree(3)


@strategies.examples(120)
@given(path, strategies.tests, objects_only)
def test_without_arrays_and_dots_it_is_field(at, test, event):
    """Of an event without arrays and dots, EventField is what Field is, but that an object is no value."""
    value = Field(at, test).extract(Decoded(event))
    expected = test.on_missing if value is MISSING or isinstance(value, dict) else test(value)
    assert expected is answer(EventField(at, test), event)


def flattened(draw, value):
    """Return the same event with some of its objects drawn into dotted keys of the ones around them."""
    if isinstance(value, list):
        return [flattened(draw, element) for element in value]
    if not isinstance(value, dict):
        return value
    result = {}
    for key, inner in value.items():
        inside = flattened(draw, inner)
        if isinstance(inside, dict) and inside:
            out = [name for name in inside if draw(st.booleans())]
            result |= {f"{key}.{name}": inside.pop(name) for name in out}
            if inside:
                result[key] = inside
        else:
            result[key] = inside
    return result


@strategies.examples(150)
@given(st.data(), event_fields, events)
def test_flattening_is_no_difference(data, matcher, event):
    """Objects drawn into dotted keys, all of them or some members, change no answer."""
    assert answer(matcher, event) is answer(matcher, flattened(data.draw, event))


def objects_at(value, at):
    """Return the objects at a path of an event without dots, by plain recursion."""
    if isinstance(value, list):
        return [found for element in value for found in objects_at(element, at)]
    if not isinstance(value, dict):
        return []
    return [value] if not at else objects_at(value.get(at[0]), at[1:])


def scalars_at(value, at):
    """Return the scalars at a path of an event without dots, by plain recursion."""
    if isinstance(value, list):
        return [found for element in value for found in scalars_at(element, at)]
    if at:
        return scalars_at(value[at[0]], at[1:]) if isinstance(value, dict) and at[0] in value else []
    return [] if isinstance(value, dict) else [value]


def plainly(matcher, obj):
    """Answer a composition of EventFields by its definition, with none of its shortcuts."""
    if isinstance(matcher, EventField):
        if matcher.inside is not None:
            return any(plainly(matcher.inside, inner) for inner in objects_at(obj, matcher.path))
        found = scalars_at(obj, matcher.path)
        return any(matcher.test(leaf) for leaf in found) if found else matcher.test.on_missing
    if isinstance(matcher, Not):
        return not plainly(matcher.part, obj)
    return (all if isinstance(matcher, And) else any)(plainly(part, obj) for part in matcher.parts)


@strategies.examples(200)
@given(event_fields, events)
def test_the_answer_is_that_of_the_definition(matcher, event):
    """One object or leaf that meets the condition, however the looking is arranged."""
    assert plainly(matcher, event) is answer(matcher, event)


@strategies.examples(60)
@given(event_fields, event_fields)
def test_compositions_rebuild_and_compare(one, other):
    """`eval(repr(m)) == m`, equal ones hash alike, and `m & m` is `m`."""
    assert one == rebuilt(one)
    assert hash(one) == hash(rebuilt(one))
    assert (one & other) == (other & one)


# Hostile events: the work is bounded by the event, and not by the ways in which a path can be read.


def dotted(segments, leaf):
    """Return an event in which a path of one repeated name is written in every way that there is."""
    return {".".join("a" * k): dotted(segments - k, leaf) for k in range(1, segments + 1)} if segments else leaf


def shared(segments):
    """Return the same as a graph, in which equal objects are one: 2 ** (segments - 1) ways, few objects."""
    levels = [{} for _ in range(segments + 1)]
    for start in range(segments):
        for end in range(start + 1, segments + 1):
            levels[start][".".join("a" * (end - start))] = levels[end]
    return levels[0]


def nested(times, value, wrap):
    for _ in range(times):
        value = wrap(value)
    return value


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
def test_a_hostile_event_is_bounded_work(event, segments):
    """Depth, sharing, cycles and ambiguous keys neither recurse nor multiply."""
    at = ("a",) * segments
    assert not answer(EventField(at, "never"), event)
    assert not answer(EventField(at, EventField("x", 1) & EventField("y", 1)), event)
    inside = nested(min(segments, 20), EventField("x", 1), lambda inner: EventField("a", inner & EventField("y", 1)))
    assert not answer(EventField("a", inside), event)


def test_elements_that_share_their_children_are_looked_into_once():
    """Arrays of objects that have the same array inside do not multiply with each level."""
    event = [{"x": 1}] * 50
    for _ in range(6):
        event = [{"a": event, "n": n} for n in range(50)]
    matcher = EventField("x", "never")
    for _ in range(7):
        matcher = EventField("a", matcher & ~EventField("n", "never"))
    assert not answer(matcher, {"a": event})


# What patterns match.


EC2 = {
    "version": "0",
    "detail-type": "EC2 Instance State-change Notification",
    "source": "aws.ec2",
    "time": "2017-10-02T16:24:49Z",
    "resources": ["arn:aws:ec2:us-east-1:123:instance/i-0a"],
    "detail": {
        "c-count": 5,
        "d-count": 3,
        "x-limit": 301.8,
        "source-ip": "10.0.0.33",
        "state": "running",
        "none": None,
        "flag": True,
    },
}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ({"source": ["aws.ec2"]}, True),
        ({"source": ["aws.s3", "aws.ec2"]}, True),
        ({"source": ["aws.s3"]}, False),
        ({"source": ["aws"]}, False),
        ({"resources": ["arn:aws:ec2:us-east-1:123:instance/i-0a", "other"]}, True),
        ({"source": ["aws.ec2"], "detail": {"state": ["initializing", "running"]}}, True),
        ({"source": ["aws.s3"], "detail": {"state": ["running"]}}, False),
        ({"detail.state": ["running"]}, True),
        ({"time": [{"prefix": "2017-10-02"}]}, True),
        ({"time": [{"prefix": "2018"}]}, False),
        ({"source": [{"suffix": "ec2"}]}, True),
        ({"source": [{"equals-ignore-case": "AWS.EC2"}]}, True),
        ({"source": [{"equals-ignore-case": "AWS.EC"}]}, False),
        ({"source": [{"prefix": {"equals-ignore-case": "AWS"}}]}, True),
        ({"source": [{"suffix": {"equals-ignore-case": "EC2"}}]}, True),
        ({"source": [{"wildcard": "a*.*2"}]}, True),
        ({"source": [{"wildcard": "a*.*3"}]}, False),
        ({"source": [{"exactly": "aws.ec2"}]}, True),
        ({"detail": {"state": [{"anything-but": "initializing"}]}}, True),
        ({"detail": {"state": [{"anything-but": ["stopped", "running"]}]}}, False),
        ({"detail": {"x-limit": [{"anything-but": [100, 200, 300]}]}}, True),
        ({"detail": {"x-limit": [{"anything-but": 301.8}]}}, False),
        ({"detail": {"state": [{"anything-but": {"prefix": "init"}}]}}, True),
        ({"detail": {"state": [{"anything-but": {"suffix": ["ed", "ing"]}}]}}, False),
        ({"detail": {"state": [{"anything-but": {"equals-ignore-case": ["Stopped", "RUNNING"]}}]}}, False),
        ({"detail": {"state": [{"anything-but": {"wildcard": ["st*", "r*g"]}}]}}, False),
        ({"detail": {"state": [{"anything-but": {"wildcard": ["st*", "r*"]}}, "running"]}}, True),
        ({"detail": {"c-count": [{"numeric": [">", 0, "<=", 5]}]}}, True),
        ({"detail": {"c-count": [{"numeric": [">", 0, "<", 5]}]}}, False),
        ({"detail": {"d-count": [{"numeric": ["<", 10]}]}}, True),
        ({"detail": {"x-limit": [{"numeric": ["=", 3.018e2]}]}}, True),
        ({"detail": {"x-limit": [{"numeric": [">=", 301.8]}]}}, True),
        ({"detail": {"source-ip": [{"cidr": "10.0.0.0/24"}]}}, True),
        ({"detail": {"source-ip": [{"cidr": "10.0.1.0/24"}]}}, False),
        ({"detail": {"state": [{"cidr": "10.0.0.0/24"}]}}, False),
        ({"detail": {"c-count": [{"exists": True}]}}, True),
        ({"detail": {"c-count": [{"exists": False}]}}, False),
        ({"detail": {"e-count": [{"exists": False}]}}, True),
        ({"detail": [{"exists": True}]}, False),
        ({"detail": [{"exists": False}]}, True),
        ({"detail": {"none": [{"exists": True}]}}, True),
        ({"detail": {"none": [None]}}, True),
        ({"detail": {"none": ["null"]}}, False),
        ({"detail": {"none": [{"anything-but": "x"}]}}, True),
        ({"detail": {"none": [{"anything-but": {"prefix": "x"}}]}}, True),
        ({"detail": {"none": [{"numeric": ["<", 10]}]}}, False),
        ({"detail": {"missing": [{"anything-but": "x"}]}}, False),
        ({"detail": {"missing": [None]}}, False),
        ({"detail": {"flag": [True]}}, True),
        ({"detail": {"flag": [1]}}, False),
        ({"detail": {"flag": ["true"]}}, False),
        ({"detail": {"c-count": [True, "5"]}}, False),
        ({"detail": {"c-count": [5.0]}}, True),
        ({"detail": {"state": [{"numeric": [">", 0]}]}}, False),
        ({"detail": {"state": ["x", {"prefix": "y"}, {"suffix": "ing"}]}}, True),
        ({"detail": {"state": ["x", {"exists": False}]}}, False),
        ({"detail": {"e-count": ["x", {"exists": False}]}}, True),
        ({"$or": [{"source": ["x"]}, {"detail": {"c-count": [5]}}]}, True),
        ({"$or": [{"source": ["x"]}, {"detail": {"c-count": [6]}}]}, False),
        (
            {"version": ["0"], "$or": [{"source": ["x"]}, {"time": [{"prefix": "2017"}], "detail": {"d-count": [3]}}]},
            True,
        ),
        ({"version": ["1"], "$or": [{"source": ["aws.ec2"]}, {"detail": {"d-count": [3]}}]}, False),
        ({"detail": {"$or": [{"c-count": [6]}, {"d-count": [3]}]}}, True),
        ({"$or": [{"source": ["x"]}, {"$or": [{"version": ["0"]}, {"version": ["1"], "time": ["x"]}]}]}, True),
        (
            {
                "$or": [{"source": ["aws.ec2"]}, {"version": ["1"]}],
                "detail": {"$or": [{"state": ["x"]}, {"c-count": [{"numeric": ["<", 5]}]}]},
            },
            False,
        ),
    ],
)
def test_what_a_pattern_matches(pattern, expected):
    """The patterns of the reference, on the event of the reference."""
    assert expected is matches(pattern, EC2)


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ({"a": [300]}, [300, 300.0, 3.0e2, [1, 300]], ["300", 301, None, True, {"a": 300}, []]),
        ({"a": [123456789012]}, [123456789012], [123456789013, "123456789012"]),
        ({"a": [""]}, ["", [""]], [None, "x", 0, []]),
        ({"a": [None]}, [None, [1, None]], ["null", "", 0, False, {}, []]),
        ({"a": [False]}, [False], [0, "false", None]),
        ({"a": ["null", "true", "1"]}, ["null", "true", "1"], [None, True, 1]),
        ({"a": [{"wildcard": "*"}]}, ["", "x", "*"], [None, 1]),
        ({"a": [{"wildcard": ""}]}, [""], ["x", None]),
        ({"a": [{"wildcard": "a\\*b"}]}, ["a*b"], ["axb", "a\\*b"]),
        ({"a": [{"wildcard": "a\\\\*"}]}, ["a\\", "a\\b"], ["a*", "a"]),
        ({"a": [{"wildcard": "*\\**"}]}, ["*", "a*b"], ["ab"]),
        ({"a": [{"wildcard": "a*a"}]}, ["aa", "aba", "a*a"], ["a", "ab"]),
        ({"a": [{"equals-ignore-case": "a*\\b"}]}, ["A*\\B"], ["axxb", "a*b"]),
        ({"a": [{"equals-ignore-case": ""}]}, [""], ["x", None]),
        ({"a": [{"equals-ignore-case": "straße"}]}, ["STRASSE", "Straße"], ["strase"]),
        ({"a": [{"anything-but": ""}]}, ["x", None, 0], ["", []]),
        ({"a": [{"anything-but": 5}]}, [6, "5", None, True], [5, 5.0, [], {}]),
        ({"a": [{"anything-but": ["x"]}]}, [["x", "y"], "y", 1, False], ["x", ["x", "x"], [], {"x": 1}]),
        ({"a": [{"anything-but": {"prefix": ["x", "y"]}}]}, [["x1", "z"], 5, None], ["x1", ["x1", "y1"]]),
        ({"a": [{"anything-but": {"equals-ignore-case": ["yes", ""]}}]}, ["no"], ["YES", ""]),
        ({"a": [{"numeric": ["=", 0]}]}, [0, -0.0, [1, 0]], [False, "0", None, 0.1]),
        ({"a": [{"numeric": [">", 0, "<", 1]}]}, [0.1, [5, 0.5]], [0, 1, [-1, 2], True]),
        ({"a": [{"cidr": "2001:db8::/32"}]}, ["2001:db8::1"], ["2001:db9::1", "10.0.0.1", None]),
        ({"a": [{"exists": True}]}, [None, 0, "", [0]], [{}, [], {"b": 1}, [{}]]),
        ({"a": [{"exists": False}]}, [{}, [], {"b": 1}], [None, 0, [None]]),
        ({"a": [{"exists": True}, {"exists": False}]}, [None, {}, []], []),
        ({"a": ["x", "x", {"prefix": "y"}, {"prefix": "y"}]}, ["x", "yy"], ["xx"]),
    ],
)
def test_what_a_field_matches(pattern, matching, others):
    """Each kind of alternative, on scalars, null, arrays and objects."""
    assert [value for value in matching if not matches(pattern, {"a": value})] == []
    assert [value for value in others if matches(pattern, {"a": value})] == []


def test_keys_are_joined_by_dots():
    """A key with dots is the same as nesting, in the pattern and in the event."""
    for pattern in ({"a": {"b": {"c": [1]}}}, {"a.b": {"c": [1]}}, {"a": {"b.c": [1]}}, {"a.b.c": [1]}):
        for event in ({"a": {"b": {"c": 1}}}, {"a.b": {"c": 1}}, {"a": {"b.c": 1}}, {"a.b.c": 1}):
            assert matches(pattern, event)
        assert not matches(pattern, {"a": {"b": 1}})
    assert from_eventbridge({"a": {"b": {"c": [1]}}}) == from_eventbridge({"a.b.c": [1]})


SONGS = {
    "Year": 1966,
    "Genres": [{"Pop": True}, {"Classical": False}],
    "Songs": [
        {
            "Name": "Paperback Writer",
            "Writers": [{"First": "John", "Last": "Lennon"}, {"First": "Paul", "Last": "McCartney"}],
        },
        {
            "Name": "Paint It Black",
            "Writers": [{"First": "Mick", "Last": "Jagger"}, {"First": "Keith", "Last": "Richards"}],
        },
    ],
}
STAFF = {
    "employees": [
        [{"first": "John", "last": "Doe", "ids": [1234, 1000]}, {"first": "Anna", "last": "Smith"}],
        [{"first": "Peter", "last": "Jones", "ids": []}],
    ]
}


@pytest.mark.parametrize(
    ("pattern", "event", "expected"),
    [
        ({"Songs": {"Name": ["Paperback Writer"], "Writers": {"First": ["Paul"], "Last": ["McCartney"]}}}, SONGS, True),
        ({"Songs": {"Name": ["Paperback Writer"], "Writers": {"First": ["Paul"], "Last": ["Lennon"]}}}, SONGS, False),
        ({"Songs": {"Name": ["Paperback Writer"], "Writers": {"First": ["Mick"]}}}, SONGS, False),
        ({"Songs": {"Writers": {"First": ["Mick"], "Last": ["McCartney"]}}}, SONGS, False),
        ({"Genres": {"Pop": [True]}, "Songs": {"Name": ["Paint It Black"]}, "Year": [1966]}, SONGS, True),
        ({"Genres": {"Pop": [True], "Classical": [False]}}, SONGS, False),
        ({"Songs": {"Name": ["Paint It Black"]}, "Songs.Writers.First": ["Paul"]}, SONGS, False),
        (
            {
                "Songs": {"Name": ["Paint It Black"]},
                "$or": [{"Songs": {"Writers": {"First": ["Paul"]}}}, {"Year": [1]}],
            },
            SONGS,
            False,
        ),
        (
            {
                "Songs": {"Name": ["Paint It Black"]},
                "$or": [{"Songs": {"Writers": {"First": ["Mick"]}}}, {"Year": [1]}],
            },
            SONGS,
            True,
        ),
        ({"employees": {"first": ["Anna"]}}, STAFF, True),
        ({"employees": {"first": ["John"], "ids": [1000]}}, STAFF, True),
        ({"employees": {"first": ["Anna"], "ids": [{"exists": False}]}}, STAFF, True),
        ({"employees": {"first": ["Peter"], "ids": [{"exists": False}]}}, STAFF, True),
        ({"employees": {"first": ["John"], "ids": [{"exists": False}]}}, STAFF, False),
        ({"employees": {"ids": [{"exists": False}]}}, STAFF, False),
        ({"employees": {"ids": [{"exists": False}], "age": [{"exists": False}]}}, STAFF, False),
        ({"employees": {"age": [{"exists": False}], "size": [{"exists": False}]}}, STAFF, True),
        ({"staff": {"age": [{"exists": False}], "size": [{"exists": False}]}}, STAFF, True),
        ({"employees": {"first": ["Anna"], "last": ["Jones"]}}, STAFF, False),
        ({"employees": ["Anna"]}, STAFF, False),
        ({"employees": {"first": ["Anna"], "ids": [{"exists": True}]}}, STAFF, False),
        ({"d": {"a": [1, {"exists": False}], "b": [2, {"exists": False}]}}, {"d": [{"a": 1}]}, True),
        ({"d": {"a": [1, {"exists": False}], "b": [2, {"exists": False}]}}, {}, True),
        ({"d": {"a": [1, {"exists": False}], "b": [2, {"exists": False}]}}, {"d": [{"a": 3}, {}]}, False),
        ({"d": {"a": [1, {"exists": False}], "b": [2, {"exists": False}]}}, {"d": [{"a": 3}, {"b": 2}]}, True),
        ({"d": {"s": [{"anything-but": "x"}], "n": ["a"]}}, {"d": [{"n": "a", "s": "x"}, {"n": "b", "s": "y"}]}, False),
        ({"d": {"s": [{"anything-but": "x"}], "n": ["b"]}}, {"d": [{"n": "a", "s": "x"}, {"n": "b", "s": "y"}]}, True),
        ({"d": {"a": [1], "b": [2]}}, {"d": [{"a": [3, 1], "b": [2, 4]}]}, True),
        ({"d": [1], "d.x": [2]}, {"d": [1, {"x": 2}]}, True),
        ({"d": {"e": [1]}, "d.e.x": [2]}, {"d": [{"e": [1, {"x": 2}]}]}, True),
        ({"d": {"e": [1]}, "d.e.x": [2]}, {"d": [{"e": 1}, {"e": {"x": 2}}]}, False),
    ],
)
def test_fields_of_one_element_are_matched_together(pattern, event, expected):
    """Two fields never match in different elements of one array; where none chooses one, absence is of all."""
    assert expected is matches(pattern, event)


# The reference's own way of matching, as an oracle: an event is a list of leaves, each with the array elements it
# is in; a pattern unfolds to lists of fields; a match is a choice of leaves that are in the same elements.


def event_leaves(value, at=(), elements=(), count=None):
    """Yield (path, scalar, {array: index}) for each leaf of an event."""
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


def unfolded(pattern, prefix=()):
    """Return the lists of (path, alternatives) that a pattern stands for, without its `$or`."""
    rules = [[]]
    for key, inner in pattern.items():
        if key == "$or":
            more = [rule for branch in inner for rule in unfolded(branch, prefix)]
        elif isinstance(inner, dict):
            more = unfolded(inner, (*prefix, *key.split(".")))
        else:
            more = [[((*prefix, *key.split(".")), inner)]]
        rules = [one + other for one in rules for other in more]
    return rules


def together(one, other):
    return all(other.get(array, index) == index for array, index in one.items())


def passes(alternative, value):
    if isinstance(alternative, dict):
        ((name, operand),) = alternative.items()
        return operand is True if name == "exists" else (type(value), value) != (type(operand), operand)
    return (type(value), value) == (type(alternative), alternative)


def rule_matches(rule, event):
    """Choose a leaf for each field, or that there is none, and compare: every choice is tried."""
    found = list(event_leaves(event))
    choices = []
    for at, alternatives in rule:
        good = [leaf for leaf in found if leaf[0] == at and any(passes(one, leaf[1]) for one in alternatives)]
        choices.append([*good, *([at] if {"exists": False} in alternatives else [])])
    for choice in itertools.product(*choices):
        chosen = [leaf[2] for leaf in choice if isinstance(leaf[-1], dict)]
        absent = [at for at in choice if not (at and isinstance(at[-1], dict))]
        if all(together(one, other) for one, other in itertools.combinations(chosen, 2)) and not any(
            leaf[0] == at and all(together(one, leaf[2]) for one in chosen) for at in absent for leaf in found
        ):
            return True
    return False


alternative = st.sampled_from([1, 1, 2, 2, True, None, {"exists": True}, {"exists": False}, {"anything-but": 1}])
alternatives = st.lists(alternative, min_size=1, max_size=2)


@st.composite
def patterns(draw):
    """Return a pattern of few names, in which no field is there twice nor inside of another."""
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
        return {**make(always), "$or": [make(branch) for branch in branches]}
    return make(fields)


def make(fields):
    pattern = {}
    for at, values in fields:
        put(pattern, at, values)
    return pattern


def put(pattern, at, values):
    for segment in at[:-1]:
        pattern = pattern.setdefault(segment, {})
    pattern[at[-1]] = values


@st.composite
def questions(draw):
    """Return a pattern and an event that has scalars at its paths, scattered over the elements of arrays."""
    pattern = draw(patterns())
    event, arrays = {}, {}
    paths = list(dict.fromkeys(at for rule in unfolded(pattern) for at, _ in rule))
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
def test_a_pattern_matches_as_the_reference_does(question):
    """The compiled matcher answers what trying every choice of leaves does."""
    pattern, event = question
    expected = any(rule_matches(rule, event) for rule in unfolded(pattern))
    assert expected is answer(from_eventbridge(pattern), event)


@strategies.examples(150)
@given(st.data(), patterns(), events)
def test_a_flattened_event_matches_the_same_patterns(data, pattern, event):
    """What is written with dots in an event is no difference to any pattern."""
    matcher = from_eventbridge(pattern)
    assert answer(matcher, event) is answer(matcher, flattened(data.draw, event))


@strategies.examples(60)
@given(patterns())
def test_a_compiled_pattern_is_an_expression(pattern):
    """`eval(repr(m)) == m`, and the JSON text makes the same matcher."""
    matcher = from_eventbridge(pattern)
    assert matcher == rebuilt(matcher)
    assert matcher == from_eventbridge(json.dumps(pattern))
    assert matcher == from_eventbridge(types.MappingProxyType(pattern))


# What patterns become.


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ({"a": ["x"]}, EventField("a", "x")),
        ({"a": ["x", 1, None, "x"]}, EventField("a", OneOf("x", 1, None))),
        ({"a": [1, {"numeric": ["=", 2]}, {"exactly": "x"}]}, EventField("a", OneOf(1, 2, "x"))),
        ({"a": {"b": {"c": ["x"]}}}, EventField(("a", "b", "c"), "x")),
        ({"a": ["x"], "b": ["y"]}, EventField("a", "x") & EventField("b", "y")),
        ({"a": {"b": ["x"], "c": ["y"]}}, EventField("a", EventField("b", "x") & EventField("c", "y"))),
        (
            {"a": {"b": {"c": ["x"], "d": ["y"]}}},
            EventField(("a", "b"), EventField("c", "x") & EventField("d", "y")),
        ),
        (
            {"a": {"b": {"c": ["x"], "d": ["y"]}, "e": ["z"]}},
            EventField("a", EventField("b", EventField("c", "x") & EventField("d", "y")) & EventField("e", "z")),
        ),
        ({"a": ["x", {"prefix": "y"}]}, EventField("a", "x") | EventField("a", Prefix("y"))),
        ({"a": [{"suffix": {"equals-ignore-case": "Y"}}]}, EventField("a", Suffix("Y", ignore_case=True))),
        ({"a": [{"wildcard": "y*"}]}, EventField("a", Wildcard("y*"))),
        ({"a": [{"wildcard": "*"}]}, EventField("a", IsInstance(str))),
        ({"a": [{"wildcard": "y\\*"}]}, EventField("a", "y*")),
        ({"a": [{"equals-ignore-case": "*"}]}, EventField("a", Wildcard("\\*", ignore_case=True))),
        ({"a": [{"anything-but": ["x", "y"]}]}, EventField("a", AnythingBut(OneOf("x", "y")))),
        ({"a": [{"anything-but": {"prefix": "x"}}]}, EventField("a", AnythingBut(Prefix("x")))),
        ({"a": [{"anything-but": {"prefix": ["x", "y"]}}]}, EventField("a", NoneOf(Prefix("x"), Prefix("y")))),
        ({"a": [{"numeric": [">", 1, "<=", 2]}]}, EventField("a", Range(gt=1, le=2))),
        ({"a": [{"cidr": "10.0.0.0/8"}]}, EventField("a", Cidr("10.0.0.0/8"))),
        ({"a": [{"exists": True}]}, EventField("a", Present())),
        ({"a": [{"exists": False}]}, EventField("a", Absent())),
        ({"$or": [{"a": [1]}, {"b": [2]}]}, EventField("a", 1) | EventField("b", 2)),
        (
            {"c": [3], "$or": [{"a": [1]}, {"b": [2]}]},
            EventField("c", 3) & (EventField("a", 1) | EventField("b", 2)),
        ),
        (
            {"a": {"x": [3], "$or": [{"y": [1]}, {"z": [2]}]}},
            EventField("a", EventField("x", 3) & (EventField("y", 1) | EventField("z", 2))),
        ),
        (
            {"a": {"x": [3]}, "$or": [{"a": {"y": [1]}}, {"b": [2]}]},
            EventField("a", EventField("x", 3) & EventField("y", 1)) | (EventField(("a", "x"), 3) & EventField("b", 2)),
        ),
        (
            {"a": {"x": [{"exists": False}], "y": [{"exists": False}]}},
            EventField(("a", "x"), Absent()) & EventField(("a", "y"), Absent()),
        ),
        ({"a": {"x": [{"exists": False}], "y": [1]}}, EventField("a", EventField("x", Absent()) & EventField("y", 1))),
    ],
)
def test_what_a_pattern_becomes(pattern, expected):
    """Literals are one test, a chain is one path, and fields that share a name are inside of one EventField."""
    assert expected == from_eventbridge(pattern)
    assert isinstance(from_eventbridge(pattern), (EventField, And, Or))


def test_many_literals_are_one_test():
    """A list of ten thousand literals is one OneOf."""
    matcher = from_eventbridge({"detail": {"id": list(range(10_000))}})
    assert isinstance(matcher, EventField)
    assert isinstance(matcher.test, OneOf)


# Which patterns are refused.


@pytest.mark.parametrize(
    ("pattern", "place", "said"),
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
        ({"a": [float("nan")]}, r" at a\[0\]", "nan is not a number"),
        ({"a": [{"numeric": ["<", float("inf")]}]}, r" at a\[0\].numeric\[1\]", "inf is not a number"),
        ({1: ["x"]}, "", "keys of an object are strings, not int"),
        ({"a": {1: ["x"]}}, " at a", "keys of an object are strings, not int"),
        ({"a": 1}, " at a", r"a list of alternatives: write \[1\]"),
        ({"a": None}, " at a", r"\[null\]"),
        ({"a": {"b": "x" * 100}}, " at a.b", r'\["x{40}…"\]'),
        ({"a": {}}, " at a", "empty object"),
        ({"a": {"b": {}}}, " at a.b", "empty object"),
        ({"a": []}, " at a", "empty list"),
        ({"a": [[1]]}, r" at a\[0\]", "list in a list"),
        ({"a": [b"x"]}, r" at a\[0\]", "not bytes"),
        ({"a": [{}]}, r" at a\[0\]", "empty object"),
        ({"a b": [{"x": 2}]}, r' at \["a b"\]\[0\]', 'unknown operator "x"'),
        (
            {"detail": {"state": [1, {"prefx": "a"}]}},
            r" at detail.state\[1\]",
            'unknown operator "prefx": did you mean "prefix"',
        ),
        ({"a": [{"anything_but": "a"}]}, r" at a\[0\]", 'did you mean "anything-but"'),
        ({"a": [{"foo": "a"}]}, r" at a\[0\]", "use one of prefix, suffix"),
        ({"a": [{"prefix": "a", "foo": []}]}, r" at a\[0\]", r'more than one operator .*"prefix" and "foo"'),
        ({"a": [{"prefix": ""}]}, r" at a\[0\].prefix", 'empty.*use {"wildcard": "\\*"}'),
        ({"a": [{"prefix": None}]}, r" at a\[0\].prefix", "not null"),
        ({"a": [{"prefix": 3}]}, r" at a\[0\].prefix", "not 3"),
        ({"a": [{"suffix": ["a"]}]}, r" at a\[0\].suffix", "not a list"),
        ({"a": [{"prefix": {"wildcard": "a"}}]}, r" at a\[0\].prefix", 'unknown operator "wildcard"'),
        ({"a": [{"prefix": {"equals-ignore-case": "a", "b": 1}}]}, r" at a\[0\].prefix", "more than one operator"),
        ({"a": [{"suffix": {"equals-ignore-case": ["a"]}}]}, r" at a\[0\].suffix.equals-ignore-case", "not a list"),
        ({"a": [{"suffix": {"equals-ignore-case": ""}}]}, r" at a\[0\].suffix.equals-ignore-case", "empty"),
        ({"a": [{"equals-ignore-case": 5}]}, r" at a\[0\].equals-ignore-case", "not 5"),
        ({"a": [{"equals-ignore-case": ["x"]}]}, r" at a\[0\].equals-ignore-case", "not a list"),
        ({"a": [{"exactly": 33}]}, r" at a\[0\].exactly", "not 33"),
        ({"a": [{"wildcard": 5}]}, r" at a\[0\].wildcard", "not 5"),
        ({"a": [{"wildcard": "a**b"}]}, r" at a\[0\].wildcard", r"contains \*\*.*write one"),
        ({"a": [{"wildcard": "a\\\\**"}]}, r" at a\[0\].wildcard", r"\*\*"),
        ({"a": [{"wildcard": "a\\b"}]}, r" at a\[0\].wildcard", "backslash"),
        ({"a": [{"wildcard": "a*\\"}]}, r" at a\[0\].wildcard", "backslash"),
        ({"a": [{"anything-but": None}]}, r" at a\[0\].anything-but", "not null"),
        ({"a": [{"anything-but": True}]}, r" at a\[0\].anything-but", "not true"),
        ({"a": [{"anything-but": []}]}, r" at a\[0\].anything-but", "empty list"),
        ({"a": [{"anything-but": {}}]}, r" at a\[0\].anything-but", "empty object"),
        ({"a": [{"anything-but": ["x", None]}]}, r" at a\[0\].anything-but\[1\]", "not null"),
        ({"a": [{"anything-but": ["x", 1]}]}, r" at a\[0\].anything-but\[1\]", "not of both"),
        ({"a": [{"anything-but": [1, float("nan")]}]}, r" at a\[0\].anything-but\[1\]", "nan"),
        ({"a": [{"anything-but": [{"prefix": "x"}]}]}, r" at a\[0\].anything-but\[0\]", "dict|object"),
        ({"a": [{"anything-but": {"prefix": ""}}]}, r" at a\[0\].anything-but.prefix", "empty"),
        ({"a": [{"anything-but": {"prefix": ["x", ""]}}]}, r" at a\[0\].anything-but.prefix\[1\]", "empty"),
        ({"a": [{"anything-but": {"prefix": []}}]}, r" at a\[0\].anything-but.prefix", "empty list"),
        ({"a": [{"anything-but": {"suffix": 27}}]}, r" at a\[0\].anything-but.suffix", "not 27"),
        (
            {"a": [{"anything-but": {"suffix": {"equals-ignore-case": "x"}}}]},
            r" at a\[0\].anything-but.suffix",
            "not an object",
        ),
        ({"a": [{"anything-but": {"wildcard": ["x", "a**"]}}]}, r" at a\[0\].anything-but.wildcard\[1\]", r"\*\*"),
        ({"a": [{"anything-but": {"numeric": ["<", 1]}}]}, r" at a\[0\].anything-but", 'unknown operator "numeric"'),
        ({"a": [{"numeric": 5}]}, r" at a\[0\].numeric", r'use a list such as \[">", 0\] .*, not 5'),
        ({"a": [{"numeric": []}]}, r" at a\[0\].numeric", "once or twice"),
        ({"a": [{"numeric": [">"]}]}, r" at a\[0\].numeric", "once or twice"),
        ({"a": [{"numeric": [">", 1, "<", 30, False]}]}, r" at a\[0\].numeric", "once or twice"),
        ({"a": [{"numeric": ["<>", 1]}]}, r" at a\[0\].numeric\[0\]", 'not "<>"'),
        ({"a": [{"numeric": [5, 1]}]}, r" at a\[0\].numeric\[0\]", "not 5"),
        ({"a": [{"numeric": ["=", "5"]}]}, r" at a\[0\].numeric\[1\]", 'not "5"'),
        ({"a": [{"numeric": ["<", True]}]}, r" at a\[0\].numeric\[1\]", "not true"),
        ({"a": [{"numeric": [">", 0, "<", None]}]}, r" at a\[0\].numeric\[3\]", "not null"),
        ({"a": [{"numeric": [">", 0, ">=", 5]}]}, r" at a\[0\].numeric", "write the lower bound .* first"),
        ({"a": [{"numeric": ["<", 5, ">", 0]}]}, r" at a\[0\].numeric", "write the lower bound .* first"),
        ({"a": [{"numeric": ["=", 5, "<", 9]}]}, r" at a\[0\].numeric", "write the lower bound .* first"),
        ({"a": [{"numeric": [">", 30, "<", 1]}]}, r" at a\[0\].numeric", "empty"),
        ({"a": [{"numeric": [">", 1, "<", 1]}]}, r" at a\[0\].numeric", "empty"),
        ({"a": [{"cidr": "foo"}]}, r" at a\[0\].cidr", "network such as"),
        ({"a": [{"cidr": "10.0.0.1"}]}, r" at a\[0\].cidr", "network such as"),
        ({"a": [{"cidr": "10.0.0.0/33"}]}, r" at a\[0\].cidr", "10.0.0.0/33"),
        ({"a": [{"cidr": "foo/8"}]}, r" at a\[0\].cidr", "foo/8"),
        ({"a": [{"cidr": 10}]}, r" at a\[0\].cidr", "not 10"),
        ({"a": [{"exists": "true"}]}, r" at a\[0\].exists", 'not "true"'),
        ({"a": [{"exists": 1}]}, r" at a\[0\].exists", "not 1"),
        ({"$or": {"a": [1]}}, r" at \$or", "at least two objects, not an object"),
        ({"$or": []}, r" at \$or", "at least two objects, not 0: add"),
        ({"a": {"$or": [{"b": [1]}]}}, r" at a.\$or", "at least two objects, not 1: add"),
        ({"$or": ["a", "b"]}, r" at \$or\[0\]", 'not "a"'),
        ({"$or": [{"a": [1]}, {}]}, r" at \$or\[1\]", "empty object"),
        ({"$or": [{"a": [1]}, {"b": [{"x": 1}]}]}, r" at \$or\[1\].b\[0\]", 'unknown operator "x"'),
        ({"a": {"$or": [{"prefix": ["b"]}, {"c": [1]}]}}, r" at a.\$or\[0\].prefix", "operator"),
        ({"$or": [{"a": [1]}, {"=": [1]}]}, r" at \$or\[1\].=|\[\"=\"\]", "operator"),
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
def test_an_invalid_pattern_is_refused(pattern, place, said):
    """What EventBridge would refuse is refused on one short line that names the place and the way out."""
    with pytest.raises(RegistrationError, match=f"^the EventBridge pattern is invalid{place}: .*{said}") as caught:
        from_eventbridge(pattern)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("levels", [101, 900, 1_000, 100_000])
def test_a_pattern_that_is_too_deep_is_refused(levels):
    """Depth is refused with a message, and with no RecursionError, in a mapping and in a text."""
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


def test_a_pattern_may_be_rather_deep():
    """A chain of a hundred names is one path; of groups within groups, forty levels can be made and asked."""
    chain = from_eventbridge(nested(100, [1], lambda inner: {"a": inner}))
    assert chain == EventField(("a",) * 100, 1)
    groups = nested(40, {"a": [1], "b": [2]}, lambda inner: {"a": inner, "b": [2]})
    event = nested(40, {"a": 1, "b": 2}, lambda inner: {"a": [inner, {}], "b": 2})
    assert answer(from_eventbridge(groups), event)
    too_deep = nested(90, {"a": [1], "b": [2]}, lambda inner: {"a": inner, "b": [2]})
    with pytest.raises(RegistrationError, match=r"^the EventBridge pattern is invalid: .*nested at most 100 deep"):
        from_eventbridge(too_deep)


def test_combinations_are_bounded():
    """Choices that unfold to a thousand combinations can be made, and more cannot."""
    choices = [{"$or": [{f"x{n}.y.{k}": [1]} for k in range(10)]} for n in range(4)]
    at_most = from_eventbridge({f"p{n}": choice for n, choice in enumerate(choices[:3])})
    assert isinstance(at_most, And)
    with pytest.raises(RegistrationError, match="more than 1000 combinations: register several"):
        from_eventbridge({f"p{n}": choice for n, choice in enumerate(choices)})
