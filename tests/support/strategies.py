"""Hypothesis strategies for matchers and messages. They draw from few names and values, so that matches are common."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator

from hypothesis import settings
from hypothesis import strategies as st

from missive import JSONMessage
from missive.matchers import (
    Absent,
    AmqpPattern,
    And,
    AnythingBut,
    Body,
    Cidr,
    Equals,
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
    Or,
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


def examples(count: int) -> settings:
    """Return settings for `count` examples, or for 20 times as many and at least 10,000 with `--deep`."""
    return settings(deadline=None, max_examples=max(10_000, count * 20) if "--deep" in sys.argv else count)


@contextlib.contextmanager
def promptly() -> Iterator[None]:
    """Fail if the block takes 5 seconds or more. It should take well under one second."""
    start = time.perf_counter()
    yield
    assert time.perf_counter() - start < 5


HUGE = 2**70
names = st.sampled_from(["a", "b", "", "a.b", "ä", "号"])
words = st.sampled_from(
    ["", "a", "A", "ab", "b", "1", "ß", "SS", "号外", "a\0b", "a.b", "a/b", "$a/b", "10.0.0.1", "::1"]
)
numbers = st.sampled_from([-1, 0, 1, 1.0, 1.5, 2, -0.0, HUGE, -HUGE, HUGE + 1, float(HUGE), 1e300])
scalars = st.one_of(st.none(), st.booleans(), words, numbers)
bodies = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=6,
)
header_names = st.sampled_from(["x", "X", "y"])


@st.composite
def messages(draw: st.DrawFn) -> JSONMessage:
    """Return a message whose body is usually an object, sometimes another value, and sometimes not JSON."""
    body = draw(
        st.one_of(
            st.dictionaries(names, bodies, max_size=4).map(lambda obj: json.dumps(obj).encode()),
            bodies.map(lambda value: json.dumps(value).encode()),
            st.sampled_from([b"", b"{", b"\xff\xfe", b'{"a": NaN}']),
        )
    )
    return JSONMessage(
        body,
        headers=draw(st.lists(st.tuples(header_names, words), max_size=3)),
        topic=draw(st.none() | words),
        key=draw(st.one_of(st.none(), words, st.just(b"a"))),
    )


filled = words.filter(bool)
literals = st.one_of(scalars, st.sampled_from([b"a", b"", float("inf"), float("-inf")]))
text_tests = st.builds(
    lambda make, ignore_case: make(ignore_case),
    st.one_of(
        st.builds(
            lambda kind, text: lambda ignore_case: kind(text, ignore_case=ignore_case),
            st.sampled_from([Prefix, Suffix, Substring]),
            filled,
        ),
        st.sampled_from(["*", "a*", "*b", "a*b", "A*B", "*a*", "ss*", "ab", r"\*", "*.*"]).map(
            lambda pattern: lambda ignore_case: Wildcard(pattern, ignore_case=ignore_case)
        ),
        st.sampled_from(["a+", "A|b", "[ab]*", "(?s).*b", r"\d*", "ß", "a.b"]).map(
            lambda pattern: lambda ignore_case: Regex(pattern, ignore_case=ignore_case)
        ),
    ),
    st.booleans(),
)
networks = st.sampled_from(["0.0.0.0/0", "10.0.0.0/8", "10.0.0.1/32", "11.0.0.0/8", "::/0", "::1/128", "2001:db8::/32"])
topic_tests = st.one_of(
    st.sampled_from(["a", "*", ">", "a.*", "*.b", "a.>", "a.b", "*.*"]).map(NatsPattern),
    st.sampled_from(["a", "+", "#", "a/+", "+/b", "a/#", "$a/#", "a/b", "+/+", "/#"]).map(MqttFilter),
    st.sampled_from(["a", "*", "#", "a.*", "*.b", "a.#", "#.b", "a.#.b", "#.*", "a.b"]).map(AmqpPattern),
)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    """Return a range with one or two bounds that is not empty."""
    low, high = draw(st.sampled_from(["gt", "ge"])), draw(st.sampled_from(["lt", "le"]))
    bounds = sorted([draw(numbers), draw(numbers)])
    shape = draw(st.sampled_from(["low", "high", "both"]))
    if shape == "low" or bounds[0] == bounds[1]:
        return Range(**{low: bounds[0]})
    return Range(**{high: bounds[1]}) if shape == "high" else Range(**{low: bounds[0], high: bounds[1]})


value_tests = st.recursive(
    st.one_of(
        literals.map(Equals),
        st.lists(literals, min_size=1, max_size=4).map(lambda values: OneOf(*values)),
        text_tests,
        networks.map(Cidr),
        topic_tests,
        ranges(),
        st.sampled_from([str, bytes, int, float, bool, list, dict]).map(IsInstance),
    ),
    lambda inner: st.builds(lambda kind, test: kind(test), st.sampled_from([AnythingBut, Some, Every]), inner),
    max_leaves=3,
)
tests = st.one_of(value_tests, st.sampled_from([Present(), Absent()]))

selectors = st.one_of(
    st.builds(Field, st.one_of(names, st.lists(names, min_size=1, max_size=3).map(tuple)), tests),
    st.builds(Header, header_names, tests),
    tests.map(Topic),
    tests.map(Key),
    tests.map(Body),
    st.just(Everything()),
)
matchers = st.recursive(
    selectors,
    lambda inner: st.one_of(
        st.builds(lambda one, other: one & other, inner, inner),
        st.builds(lambda one, other: one | other, inner, inner),
        inner.map(lambda one: ~one),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: And(*parts)),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: Or(*parts)),
    ),
    max_leaves=6,
)

event_leaves = st.builds(EventField, st.one_of(names, st.lists(names, min_size=1, max_size=3).map(tuple)), tests)
event_fields = st.one_of(
    event_leaves,
    st.builds(lambda path, one, other: EventField(path, one & other), names, event_leaves, event_leaves),
    st.builds(lambda path, one, other: EventField(path, one | ~other), names, event_leaves, event_leaves),
)
event_matchers = st.one_of(
    event_fields,
    st.builds(lambda one, other: one & other, event_fields, matchers),
    st.builds(lambda one, other: ~one | other, event_fields, event_fields),
)
