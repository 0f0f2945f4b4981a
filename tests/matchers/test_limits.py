"""Limits of matchers: integers, nesting and immutability."""

from __future__ import annotations

import pytest

import missive
from missive import RegistrationError
from missive.matchers import (
    AnythingBut,
    Equals,
    Every,
    Field,
    NoneOf,
    OneOf,
    Range,
    Some,
)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Field("x", 10**4001),
        lambda: OneOf(1, -(10**5000)),
        lambda: Range(gt=10**5000),
        lambda: missive.matchers.from_eventbridge({"a": [10**5000]}),
    ],
    ids=["Equals", "OneOf", "Range", "event pattern"],
)
def test_too_long_integers_are_refused(make):
    """An integer with more digits than Python can print is refused."""
    with pytest.raises(RegistrationError, match=r"integers of at most 4,000 digits"):
        make()
    assert eval(repr(Field("x", 10**3999))) == Field("x", 10**3999)


@pytest.mark.parametrize("wrap", [Some, Every, AnythingBut, NoneOf])
def test_tests_nest_a_hundred_levels(wrap):
    """Tests can nest 100 levels deep, far below Python's recursion limit; one more level is refused."""
    test = Equals(1)
    for _ in range(99):
        test = wrap(test)
    assert Field("x", test).size == 1
    with pytest.raises(RegistrationError, match="nested at most 100 deep"):
        wrap(test)


def test_matcher_cannot_be_initialized_again():
    """A second call of `__init__` raises and does not change the matcher."""
    matcher = Field("a", 1)
    with pytest.raises(AttributeError, match="frozen"):
        matcher.__init__("b", 2)
    assert matcher == Field("a", 1)
