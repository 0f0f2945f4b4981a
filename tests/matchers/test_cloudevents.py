"""The compiler of CloudEvents subscription filters. Source: section 3.2.4 of the draft."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive import JSONMessage, RawMessage
from missive.errors import RegistrationError
from missive.matchers import (
    And,
    Everything,
    Field,
    Header,
    OneOf,
    Or,
    Prefix,
    Suffix,
    from_cloudevents,
)
from tests.support import strategies
from tests.support.matchers import rebuilt

PUSH = {
    "specversion": "1.0",
    "id": "7",
    "type": "com.github.push",
    "source": "/github",
    "subject": "https://github.com/cloudevents/spec",
    "datacontenttype": "application/json",
    "sequence": 5,
    "sampled": True,
    "data": {"type": "com.github.push"},
}


def structured(**attributes):
    """Return the event in structured mode."""
    return JSONMessage.of({**PUSH, **attributes})


def binary(**attributes):
    """Return the event in binary mode, with each attribute as the string in its header."""
    every = {name: value for name, value in {**PUSH, **attributes}.items() if name != "data"}
    text = {name: value if isinstance(value, str) else json.dumps(value) for name, value in every.items()}
    kind = text.pop("datacontenttype")
    headers = {"Content-Type": kind, **{f"CE-{name}": value for name, value in text.items()}}
    return RawMessage(b"\xff", headers=headers)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], True),
        ([{"exact": {"type": "com.github.push"}}], True),
        ([{"exact": {"type": "com.github.pus"}}], False),
        ([{"exact": {"type": "com.github.PUSH"}}], False),
        ([{"exact": {"type": "com.github.push", "subject": "https://github.com/cloudevents/spec"}}], True),
        ([{"exact": {"type": "com.github.push", "subject": "https://github.com"}}], False),
        ([{"exact": {"missing": "x"}}], False),
        ([{"exact": {"datacontenttype": "application/json"}}], True),
        ([{"exact": {"specversion": "1.0"}}], True),
        ([{"prefix": {"type": "com.github.", "subject": "https://github.com/cloudevents"}}], True),
        ([{"prefix": {"type": "com.github.", "subject": "http://"}}], False),
        ([{"prefix": {"type": "com.github.push"}}], True),
        ([{"prefix": {"type": "Com."}}], False),
        ([{"suffix": {"type": ".push", "subject": "/spec"}}], True),
        ([{"suffix": {"type": ".created"}}], False),
        ([{"all": [{"prefix": {"type": "com."}}, {"suffix": {"type": "push"}}]}], True),
        ([{"all": [{"prefix": {"type": "com."}}, {"suffix": {"type": "pull"}}]}], False),
        ([{"any": [{"exact": {"type": "x"}}, {"suffix": {"type": "push"}}]}], True),
        ([{"any": [{"exact": {"type": "x"}}, {"exact": {"id": "8"}}]}], False),
        ([{"not": {"exact": {"type": "com.github.push"}}}], False),
        ([{"not": {"exact": {"type": "x"}}}], True),
        ([{"not": {"exact": {"missing": "x"}}}], True),
        ([{"not": {"not": {"exact": {"type": "com.github.push"}}}}], True),
        ([{"not": {"any": [{"exact": {"type": "x"}}, {"exact": {"id": "8"}}]}}], True),
        ([{"exact": {"type": "com.github.push"}}, {"exact": {"id": "7"}}], True),
        ([{"exact": {"type": "com.github.push"}}, {"exact": {"id": "8"}}], False),
        ({"exact": {"type": "com.github.push"}}, True),
        ({"any": [{"all": [{"exact": {"id": "8"}}]}, {"all": [{"exact": {"id": "7"}}]}]}, True),
        ({"exact": {"sequence": "5"}}, True),
        ({"exact": {"sequence": "05"}}, False),
        ({"exact": {"sequence": "true"}}, False),
        ({"exact": {"sampled": "true"}}, True),
        ({"exact": {"sampled": "1"}}, False),
        ({"exact": {"sampled": "True"}}, False),
    ],
)
def test_filters_match_events(filters, expected):
    """Each dialect gives the same verdict in structured and in binary mode, from objects and from JSON text."""
    assert expected is from_cloudevents(filters)(structured())
    assert expected is from_cloudevents(json.dumps(filters))(structured())
    assert expected is from_cloudevents(filters, binary=True)(binary())


def test_binary_mode_does_not_need_the_body():
    """Filters in binary mode test headers only. In structured mode, an undecodable body is unknown."""
    filters = [{"not": {"exact": {"type": "x"}}}]
    assert from_cloudevents(filters, binary=True).evaluate(JSONMessage(b"{")) is True
    assert from_cloudevents(filters).evaluate(JSONMessage(b"{")) is None


def test_payload_is_not_tested():
    """An attribute is a member of the event and not of its data."""
    event = JSONMessage.of({"data": {"type": "x"}})
    assert not from_cloudevents([{"exact": {"type": "x"}}])(event)


def test_prefix_and_suffix_match_strings_only():
    """In structured mode, `prefix` and `suffix` never match an integer or a boolean."""
    assert not from_cloudevents({"prefix": {"sequence": "5"}})(structured())
    assert not from_cloudevents({"suffix": {"sampled": "true"}})(structured())
    assert from_cloudevents({"prefix": {"sequence": "5"}})(structured(sequence="5"))


@pytest.mark.parametrize(
    ("filters", "structured_mode", "binary_mode"),
    [
        ([], Everything(), Everything()),
        ([{"exact": {"type": "a"}}], Field("type", "a"), Header("ce-type", "a")),
        ([{"exact": {"id": "5"}}], Field("id", "5"), Header("ce-id", "5")),
        ([{"exact": {"datacontenttype": "a/b"}}], Field("datacontenttype", "a/b"), Header("content-type", "a/b")),
        ([{"exact": {"level": "x"}}], Field("level", "x"), Header("ce-level", "x")),
        ([{"exact": {"level": "-5"}}], Field("level", OneOf("-5", -5)), Header("ce-level", "-5")),
        ([{"exact": {"level": "0"}}], Field("level", OneOf("0", 0)), Header("ce-level", "0")),
        ([{"exact": {"level": "-0"}}], Field("level", "-0"), Header("ce-level", "-0")),
        (
            [{"exact": {"level": "2147483647"}}],
            Field("level", OneOf("2147483647", 2**31 - 1)),
            Header("ce-level", "2147483647"),
        ),
        ([{"exact": {"level": "2147483648"}}], Field("level", "2147483648"), Header("ce-level", "2147483648")),
        ([{"exact": {"level": "٥"}}], Field("level", "٥"), Header("ce-level", "٥")),
        ([{"exact": {"level": "false"}}], Field("level", OneOf("false", False)), Header("ce-level", "false")),
        (
            [{"prefix": {"a": "x", "b": "y"}}],
            Field("a", Prefix("x")) & Field("b", Prefix("y")),
            Header("ce-a", Prefix("x")) & Header("ce-b", Prefix("y")),
        ),
        ([{"suffix": {"a": "x"}}], Field("a", Suffix("x")), Header("ce-a", Suffix("x"))),
        (
            {"any": [{"exact": {"type": "a"}}, {"not": {"exact": {"type": "b"}}}]},
            Field("type", "a") | ~Field("type", "b"),
            Header("ce-type", "a") | ~Header("ce-type", "b"),
        ),
    ],
)
def test_compiled_filters(filters, structured_mode, binary_mode):
    """Attributes become fields, or headers of the HTTP binding. Extensions compare with their canonical string."""
    assert structured_mode == from_cloudevents(filters)
    assert binary_mode == from_cloudevents(filters, binary=True)


attributes = st.dictionaries(st.sampled_from(["type", "id", "level"]), st.sampled_from(["a", "ab", "b"]), min_size=1)
expressions = st.recursive(
    st.builds(lambda name, inner: {name: inner}, st.sampled_from(["exact", "prefix", "suffix"]), attributes),
    lambda inner: st.one_of(
        st.builds(
            lambda name, parts: {name: parts},
            st.sampled_from(["all", "any"]),
            st.lists(inner, min_size=1, max_size=3),
        ),
        inner.map(lambda one: {"not": one}),
    ),
    max_leaves=6,
)


def specified(expression, event):
    """Return the verdict of a filter by the definition in the specification."""
    ((dialect, operand),) = expression.items()
    if dialect in ("all", "any"):
        return {"all": all, "any": any}[dialect]([specified(one, event) for one in operand])
    if dialect == "not":
        return not specified(operand, event)
    compare = {"exact": str.__eq__, "prefix": str.startswith, "suffix": str.endswith}[dialect]
    return all(name in event and compare(event[name], text) for name, text in operand.items())


@strategies.examples(120)
@given(st.lists(expressions, max_size=3), attributes)
def test_filters_agree_with_the_specification(filters, event):
    """All filters must match, in both modes. The repr of the matcher is an expression for it."""
    expected = all(specified(one, event) for one in filters)
    matcher = from_cloudevents(filters)
    assert expected is matcher(JSONMessage.of(event))
    headers = {f"ce-{name}": value for name, value in event.items()}
    assert expected is from_cloudevents(filters, binary=True)(RawMessage(b"", headers=headers))
    assert matcher == rebuilt(matcher)


@pytest.mark.parametrize(
    ("filters", "location", "text"),
    [
        (5, "", "use a list of objects, an object, or its JSON text, not 5"),
        (b"[]", "", "not bytes"),
        (None, "", "not null"),
        ("{", "", "not JSON: .*line 1, column 2"),
        ('"exact"', "", 'not "exact"'),
        ({}, "", r"an empty object: add one dialect \(exact, prefix"),
        ([{}], r" at \[0\]", "an empty object"),
        (["exact"], r" at \[0\]", 'a filter is an object, not "exact"'),
        ([[]], r" at \[0\]", "a filter is an object, not a list"),
        ([{"exact": {"id": "1"}}, {"exat": {"id": "1"}}], r" at \[1\]", 'unknown dialect "exat": did you mean "exact"'),
        ([{"regex": {"id": "1"}}], r" at \[0\]", 'unknown dialect "regex": use one of exact, prefix'),
        ([{"sql": "source LIKE '%a%'"}], r" at \[0\].sql", "not supported: use another dialect"),
        ([{"exact": {"id": "1"}, "prefix": {"id": "1"}}], r" at \[0\]", 'more than one dialect .*"exact" and "prefix"'),
        ([{"exact": {}}], r" at \[0\].exact", "at least one attribute"),
        ([{"exact": "type"}], r" at \[0\].exact", 'use an object of attributes and strings, not "type"'),
        ([{"exact": {"type": ""}}], r" at \[0\].exact.type", "the string is empty"),
        ([{"prefix": {"type": ""}}], r" at \[0\].prefix.type", "the string is empty"),
        ([{"suffix": {"type": None}}], r" at \[0\].suffix.type", "use a string.* not null"),
        ([{"exact": {"sequence": 5}}], r" at \[0\].exact.sequence", "use a string.*integers.* not 5"),
        ([{"exact": {"type": ["a", "b"]}}], r" at \[0\].exact.type", "use a string.* not a list"),
        ([{"exact": {"": "x"}}], r' at \[0\].exact\[""\]', "lower-case letters and digits"),
        ([{"exact": {"Type": "x"}}], r" at \[0\].exact.Type", "lower-case letters and digits"),
        ([{"exact": {"data_base64": "x"}}], r" at \[0\].exact.data_base64", "lower-case letters and digits"),
        ([{"exact": {"type\n": "x"}}], r' at \[0\].exact\["type\\n"\]', "lower-case letters and digits"),
        ([{"exact": {"data": "x"}}], r" at \[0\].exact.data", "payload"),
        ([{"exact": {5: "x"}}], r" at \[0\].exact", "keys of an object are strings, not int"),
        ([{"all": []}], r" at \[0\].all", "at least one filter"),
        ([{"any": []}], r" at \[0\].any", "at least one filter"),
        ([{"all": {"exact": {"id": "1"}}}], r" at \[0\].all", "use a list of filters, not an object"),
        ([{"not": [{"exact": {"id": "1"}}]}], r" at \[0\].not", "a filter is an object, not a list"),
        ([{"not": {}}], r" at \[0\].not", "an empty object"),
        ([{"any": [{"all": [{"exact": {"TYPE": "x"}}]}]}], r" at \[0\].any\[0\].all\[0\].exact.TYPE", "lower-case"),
        ({"all": [{"exact": {"type": ""}}]}, r" at all\[0\].exact.type", "empty"),
        ('[{"exact": {"type": "a", "type": "b"}}]', r" at \[0\].exact.type", "duplicate key: keep one"),
        ('[{"exact": {"type": NaN}}]', r" at \[0\].exact.type", "not nan"),
    ],
)
def test_invalid_filters_are_refused(filters, location, text):
    """Forbidden and unsupported filters are refused with an error on one line that names the location."""
    with pytest.raises(RegistrationError, match=f"^the CloudEvents filter is invalid{location}: .*{text}") as caught:
        from_cloudevents(filters)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_depth_is_bounded():
    """Filters nested too deeply are refused without a RecursionError. Filters below the limit can be evaluated."""
    for wrap in (lambda inner: {"not": inner}, lambda inner: {"all": [inner]}, lambda inner: {"any": [{"not": inner}]}):
        deep = {"exact": {"type": "a"}}
        for _ in range(30):
            deep = wrap(deep)
        matcher = from_cloudevents([deep])
        assert matcher.evaluate(JSONMessage.of({"type": "a"})) is True
        assert matcher == rebuilt(matcher)
        for _ in range(5_000):
            deep = wrap(deep)
        with pytest.raises(RegistrationError, match="more than 100 levels deep"):
            from_cloudevents([deep])
    for levels in (200, 100_000):
        with pytest.raises(RegistrationError, match="more than 100 levels deep"):
            from_cloudevents('{"not":' * levels + '{"exact":{"type":"a"}}' + "}" * levels)


def test_deepest_accepted_filters():
    """The deepest accepted alternation of `all` and `any` can be evaluated and has a repr."""
    deep = {"exact": {"type": "a"}}
    for level in range(48):
        name = "any" if level % 2 else "all"
        deep = {name: [deep, {"exact": {"id": str(level)}}]}
    matcher = from_cloudevents([deep])
    assert isinstance(matcher, (And, Or))
    assert matcher.evaluate(JSONMessage.of({"type": "a"})) is False
    assert repr(matcher)
