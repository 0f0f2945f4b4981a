"""User-defined tests, message classes and values: the index and the proofs treat them correctly."""

from __future__ import annotations

from decimal import Decimal

import pytest

from missive import JSONMessage, RawMessage, StructuredMessage
from missive.matchers import (
    Absent,
    AnythingBut,
    Body,
    Cidr,
    Equals,
    EventField,
    Field,
    NatsPattern,
    NoneOf,
    OneOf,
    Prefix,
    Range,
    Some,
    Test,
)
from missive.matchers.topics import TopicPattern
from tests.support.routing import (
    Given,
    numbered,
    routed,
)


class Optional(Test):
    """A user's test that also accepts a missing value."""

    __slots__ = ("inner",)
    on_missing = True

    def __init__(self, inner):
        self._freeze(inner, inner=inner)

    def __call__(self, value):
        """Return the result of the inner test."""
        return self.inner(value)

    @property
    def expectation(self):
        """The inner expectation, or nothing."""
        return f"nothing, or {self.inner.expectation}"

    def __repr__(self):
        return f"Optional({self.inner!r})"


class OptionalRange(Range):
    """A range that also accepts a missing value."""

    on_missing = True


class OptionalCidr(Cidr):
    """A network that also accepts a missing value."""

    on_missing = True


class AnyCase(NatsPattern):
    """A pattern that ignores case."""

    def __call__(self, value):
        """Match in lower case."""
        return isinstance(value, str) and super().__call__(value.lower())


class SomeOrOne(Some):
    """A test of the elements of a list, or of a single value."""

    def __call__(self, value):
        """Test a single value as well."""
        return self.test(value) or super().__call__(value)


class PartWords(TopicPattern):
    """A user's dialect of topic patterns."""

    separator, single, multi = ".", "*", "**"

    def _check(self, pattern, tokens):
        """Accept every pattern."""

    def __call__(self, value):
        """Match any text with the head of the pattern."""
        return isinstance(value, str) and value.startswith(self.pattern.rstrip("*"))


@pytest.mark.parametrize(
    ("matcher", "message"),
    [
        (Field("x", OptionalRange(gt=3)), {}),
        (Field("x", OptionalCidr("10.0.0.0/8")), {}),
        (Field("x", AnyCase("orders.*")), {"x": "ORDERS.x"}),
        (Field("x", PartWords("orders.eu*")), {"x": "orders.europe"}),
        (Field("x", SomeOrOne("a")), {"x": "a"}),
        (Field("x", Optional(Equals(1))), {}),
        (EventField("x", Optional(Equals(1))), {}),
    ],
    ids=repr,
)
def test_derived_test_is_not_looked_up_as_its_base(matcher, message):
    """The index does not look up a user's subclass as if it were the test of the library."""
    assert routed([matcher], JSONMessage.of(message)) == [0]


@pytest.mark.parametrize(
    ("matchers", "message", "chosen"),
    [
        ([Field("a", 1) & Field(("a", "b"), Optional(Equals(2)))], {"a": 1}, "h0"),
        ([EventField("a", Absent()) & EventField("a", Optional(Equals(2)))], {}, "h0"),
        ([Field("x", Optional(Range(gt=3))), Field("x", AnythingBut("a"))], {}, "h0"),
        ([EventField("x", Optional(Range(gt=3))), EventField("x", AnythingBut("a"))], {}, "h0"),
        ([Field("x", Optional(Range(gt=3))), Field("x", AnythingBut(AnythingBut(Optional(Prefix("a")))))], {}, "h0"),
        ([~Field("x", AnythingBut(AnythingBut(Optional(Equals(1)))))], {}, "h0"),
        ([Field("x", Optional(Equals(1))) & ~Field("x", NoneOf(AnythingBut(Optional(Equals(1)))))], {}, "h0"),
    ],
    ids=["below", "event", "contained", "contained event", "two apart", "doubled", "doubled by another"],
)
def test_proofs_respect_tests_that_accept_a_missing_value(matchers, message, chosen):
    """A test that accepts a missing value does not require the value."""
    proc = numbered(*matchers)
    assert proc.explain(JSONMessage.of(message)).handler == chosen


def test_literals_equal_values_of_json_only():
    """A `Decimal` or a `bytearray` from a decoder or an adapter equals no literal and is in no `Range`."""
    money = Given.holding({"total": Decimal("2.5"), "name": bytearray(b"x")})
    for test in (Equals(2.5), OneOf(2.5, 3), Range(gt=1)):
        assert not Field("total", test)(money)
    assert not Field("name", OneOf(b"x", b"y"))(money)
    assert routed([Body(b"ping")], RawMessage(bytearray(b"ping"))) == []
    assert routed([Body(b"ping")], RawMessage(memoryview(bytearray(b"ping")))) == []


def test_exception_of_a_message_class_is_matcher_failed():
    """An exception in the content of a message class leads to matcher_failed, which names the handler."""
    found = numbered(Field("a", 1), message_cls=Broken).router().find(Broken(b"{}"))
    assert (found.reason, found.candidates) == ("matcher_failed", ("h0",))


class Broken(StructuredMessage):
    """A message class whose content raises an exception."""

    @property
    def content(self):
        """Raise an exception that is not a DecodingError."""
        raise RuntimeError("a mistake")

    def decode(self):
        """Do nothing: `content` raises first."""
