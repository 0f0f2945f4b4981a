"""Value semantics of matchers and tests: literals of any size, and immutability."""

from __future__ import annotations

import pytest

from missive.errors import RegistrationError
from missive.matchers import Field, OneOf, Range, from_eventbridge
from tests.support.matchers import rebuilt


@pytest.mark.parametrize(
    "make",
    [
        lambda: Field("x", 10**4001),
        lambda: OneOf(1, -(10**5000)),
        lambda: Range(gt=10**5000),
        lambda: from_eventbridge({"a": [10**5000]}),
    ],
    ids=["Equals", "OneOf", "Range", "event pattern"],
)
def test_too_long_integers_are_refused(make):
    """An integer with more digits than Python can print is refused."""
    with pytest.raises(RegistrationError, match=r"integers of at most 4,000 digits"):
        make()
    assert Field("x", 10**3999) == rebuilt(Field("x", 10**3999))


def test_matcher_cannot_be_initialized_again():
    """A second call of `__init__` raises `AttributeError` and does not change the matcher."""
    matcher = Field("a", 1)
    with pytest.raises(AttributeError, match="frozen"):
        matcher.__init__("b", 2)
    assert matcher == Field("a", 1)
