"""Tests: the values that each one is true of."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive import JSONMessage
from missive.errors import RegistrationError
from missive.matchers import (
    Absent,
    AnythingBut,
    Equals,
    Every,
    Field,
    IsInstance,
    NoneOf,
    OneOf,
    Prefix,
    Present,
    Range,
    Some,
    Substring,
    Suffix,
    Test,
)
from tests.support import strategies
from tests.support.matchers import rebuilt

NAN = float("nan")
INFINITY = float("inf")
HUGE = 10**30
EVERY_KIND = [None, True, False, 0, 1, 1.5, "", "a", b"", b"a", [], [1], {}, {"a": 1}, ("a", "b"), HUGE, NAN, INFINITY]


@pytest.mark.parametrize(
    ("literal", "value", "expected"),
    [
        ("a", "a", True),
        ("a", "A", False),
        ("", "", True),
        ("", None, False),
        ("é", "é", True),
        ("é", "e\u0301", False),
        ("1", 1, False),
        (1, "1", False),
        (1, 1.0, True),
        (1.0, 1, True),
        (0, -0.0, True),
        (1, True, False),
        (True, 1, False),
        (True, 1.0, False),
        (0, False, False),
        (False, 0, False),
        (True, True, True),
        (False, False, True),
        (None, None, True),
        (None, False, False),
        (None, 0, False),
        (None, "", False),
        (HUGE, HUGE, True),
        (HUGE, HUGE + 1, False),
        (2**53 + 1, float(2**53), False),
        (b"a", b"a", True),
        (b"a", "a", False),
        ("a", b"a", False),
        ("a", ["a"], False),
        ("a", ("a",), False),
        (1, {"a": 1}, False),
        (INFINITY, INFINITY, True),
        (1, NAN, False),
    ],
)
def test_equals(literal, value, expected):
    """`Equals` distinguishes numbers from booleans and strings. No list or object equals a literal."""
    assert expected is Equals(literal)(value)
    assert expected is OneOf(literal, "another")(value)


@pytest.mark.parametrize("literal", [[], {}, (), {1}, object(), 1j, bytearray(b"a")])
def test_equals_takes_scalars(literal):
    """A literal that is not a scalar is refused, and the error names its type."""
    with pytest.raises(RegistrationError, match=f"Equals takes .* not {type(literal).__name__}"):
        Equals(literal)
    with pytest.raises(RegistrationError, match="OneOf takes"):
        OneOf("a", literal)


@pytest.mark.parametrize("make", [Equals, OneOf, lambda nan: Range(gt=nan), lambda nan: Field("a", nan)])
def test_nan_is_refused(make):
    """NaN could never match as a literal or a bound, and is refused."""
    with pytest.raises(RegistrationError, match="NaN"):
        make(NAN)


def test_one_of_is_a_set():
    """Order, duplicates and the difference between 1 and 1.0 do not affect equality. `True` differs from 1."""
    assert OneOf("a", "b", "a") == OneOf("b", "a")
    assert hash(OneOf("a", "b", "a")) == hash(OneOf("b", "a"))
    assert OneOf(1, 2) == OneOf(2.0, 1.0, 1)
    assert OneOf(1, 2) != OneOf(*[True, 2])
    assert len(OneOf(*[1, True, 1.0, "1", None, b"1"]).values) == 5


def test_empty_one_of_is_refused():
    """`OneOf()` could never match, and is refused."""
    with pytest.raises(RegistrationError, match=r"OneOf\(\) without values"):
        OneOf()


@pytest.mark.parametrize(
    ("test", "inside", "outside"),
    [
        (Range(gt=100), [101, 100.0001, HUGE, INFINITY], [100, 100.0, 99, -HUGE, -INFINITY]),
        (Range(ge=100), [100, 100.0, 101], [99.9]),
        (Range(lt=0), [-1, -0.1, -HUGE], [0, -0.0, 1]),
        (Range(le=0), [0, -0.0, -1], [0.1]),
        (Range(gt=1, le=2), [1.5, 2, 2.0], [1, 2.1]),
        (Range(ge=1, le=1), [1, 1.0], [0.9, 1.1]),
        (Range(ge=2**53 + 1), [2**53 + 1], [2**53, float(2**53)]),
        (Range(lt=INFINITY), [1, HUGE], [INFINITY]),
        (Range(gt=-INFINITY), [-HUGE], [-INFINITY]),
    ],
)
def test_range(test, inside, outside):
    """A range compares numbers exactly. `gt` and `lt` exclude the bound."""
    assert [True] * len(inside) == [test(value) for value in inside]
    assert [False] * len(outside) == [test(value) for value in outside]


@pytest.mark.parametrize("value", [True, False, "5", b"5", None, [5], {"a": 5}, NAN])
def test_range_matches_numbers_only(value):
    """A boolean, a string, null, a list and NaN are in no range."""
    assert Range(ge=-HUGE, le=HUGE)(value) is False
    assert Range(gt=-INFINITY)(value) is False


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ({}, "at least one"),
        ({"gt": 1, "ge": 1}, "one lower bound"),
        ({"lt": 1, "le": 1}, "one upper bound"),
        ({"gt": 2, "lt": 1}, "empty"),
        ({"gt": 1, "lt": 1}, "empty"),
        ({"gt": 1, "le": 1}, "empty"),
        ({"ge": 1, "lt": 1}, "empty"),
        ({"ge": True}, "bool"),
        ({"lt": "5"}, "str"),
    ],
)
def test_invalid_range_is_refused(bounds, text):
    """A range without bounds, with contradictory bounds or with bounds that are not numbers is refused."""
    with pytest.raises(RegistrationError, match=text):
        Range(**bounds)


def test_range_bounds_are_compared_as_numbers():
    """`Range(gt=1)` equals `Range(gt=1.0)`, and differs from `Range(ge=1)` and `Range(lt=1)`."""
    assert Range(gt=1) == Range(gt=1.0)
    assert len({Range(gt=1), Range(ge=1), Range(lt=1), Range(le=1)}) == 4


def test_range_bounds_of_any_size():
    """A bound may be an integer that is too large for a float, like the value of a field."""
    assert Range(ge=10**400)(10**400) is True
    assert Range(gt=10**400)(1.5) is False


@pytest.mark.parametrize(
    ("type_", "matching"),
    [
        (str, ["", "a"]),
        (bytes, [b"", b"a"]),
        (bool, [True, False]),
        (list, [[], [1]]),
        (dict, [{}, {"a": 1}]),
    ],
)
def test_is_instance(type_, matching):
    """`IsInstance` is true of values of its type only."""
    test = IsInstance(type_)
    others = [v for v in EVERY_KIND if not isinstance(v, (type_, tuple))]
    assert [True] * len(matching) == [test(value) for value in matching]
    assert [False] * len(others) == [test(value) for value in others]


def test_boolean_is_not_a_number():
    """`IsInstance(int)` is false of `True`, as `True != 1`."""
    assert IsInstance(int)(1) is True
    assert IsInstance(int)(HUGE) is True
    assert IsInstance(int)(value=True) is False
    assert IsInstance(float)(1.5) is True
    assert IsInstance(float)(value=True) is False
    assert IsInstance(int)("1") is False


@pytest.mark.parametrize("type_", [object, tuple, type(None), "str", None, (int, str), []])
def test_is_instance_takes_the_types_of_values(type_):
    """A type that decoded values do not have is refused."""
    with pytest.raises(RegistrationError, match="one of str, bytes, int"):
        IsInstance(type_)


@pytest.mark.parametrize("value", EVERY_KIND)
def test_every_value_is_present(value):
    """Every value is present and not absent, including null and empty values."""
    assert Present()(value) is True
    assert Absent()(value) is False


@given(strategies.tests)
@strategies.examples(35)
def test_only_absent_is_true_of_a_missing_field(test):
    """All tests except `Absent` are false of a missing field."""
    assert isinstance(test, Absent) is Field("nowhere", test).evaluate(JSONMessage.of({}))


@given(strategies.value_tests, strategies.bodies)
@strategies.examples(45)
def test_anything_but_negates_the_test_of_a_value(test, value):
    """`AnythingBut` negates the verdict on every value, including null."""
    assert AnythingBut(test)(value) is (not test(value))


def test_anything_but_needs_the_field():
    """On a missing field, `~Field(p, X)` is true and `Field(p, AnythingBut(X))` is false."""
    complement, but = ~Field("a", "x"), Field("a", AnythingBut("x"))
    bodies = [{}, {"a": None}, {"a": "x"}, {"a": "y"}, {"a": ["x"]}]
    assert [complement(JSONMessage.of(body)) for body in bodies] == [True, True, False, True, True]
    assert [but(JSONMessage.of(body)) for body in bodies] == [False, True, False, True, True]


@given(strategies.value_tests, st.lists(strategies.scalars, max_size=4))
@strategies.examples(45)
def test_some_and_every_test_the_elements_of_a_list(test, values):
    """`Some` needs one element that passes, `Every` needs all. A tuple, a repeated header, is a list too."""
    for kind in (list, tuple):
        assert Some(test)(kind(values)) is any(test(value) for value in values)
        assert Every(test)(kind(values)) is all(test(value) for value in values)


def test_some_and_every_of_an_empty_list():
    """`Every` is true of an empty list, and `Some` is false."""
    assert Every("a")([]) is True
    assert Some("a")([]) is False


@pytest.mark.parametrize("value", [v for v in EVERY_KIND if not isinstance(v, (list, tuple))])
def test_some_and_every_match_lists_only(value):
    """`Some` and `Every` are false of a scalar and of an object."""
    assert Some(AnythingBut("nothing like it"))(value) is False
    assert Every(AnythingBut("nothing like it"))(value) is False


def test_scalar_tests_are_false_of_lists():
    """A scalar test is false of a list, even if an element would pass."""
    inside = ["ab", 5]
    for test in [Equals("ab"), OneOf("ab", 5), Prefix("a"), Suffix("b"), Substring("a"), Range(gt=1), IsInstance(str)]:
        assert test(inside) is False
        assert Some(test)(inside) is True


def test_tests_nest():
    """Nested tests apply to the elements of elements."""
    assert Some(Every(Range(gt=0)))([[1, -1], [1, 2]]) is True
    assert Some(Every(Range(gt=0)))([[1, -1], [-2]]) is False
    assert AnythingBut(Some("a"))(["b"]) is True
    assert Every(AnythingBut(OneOf("a", "b")))(["c", None]) is True


@pytest.mark.parametrize("kind", [Some, Every, AnythingBut, NoneOf])
def test_nesting_is_bounded(kind):
    """Tests can nest 100 levels deep, far below Python's recursion limit. One more level is refused."""
    test = Equals(1)
    for _ in range(99):
        test = kind(test)
    assert Field("x", test).size == 1
    with pytest.raises(RegistrationError, match="nested at most 100 deep"):
        kind(test)


@pytest.mark.parametrize("kind", [AnythingBut, Some, Every])
@pytest.mark.parametrize("inner", [Present(), Absent()])
def test_tests_of_presence_cannot_be_nested(kind, inner):
    """`Present` and `Absent` inside another test are refused, because they do not test a value."""
    with pytest.raises(RegistrationError, match=r"tests whether one exists: use Present\(\) or Absent\(\)"):
        kind(inner)


@pytest.mark.parametrize("kind", [AnythingBut, Some, Every])
def test_bare_literal_inside_means_equals(kind):
    """`Some("a")` equals `Some(Equals("a"))`."""
    assert kind("a") == kind(Equals("a"))
    assert kind("a") != kind(Equals("b"))


@given(strategies.tests)
@strategies.examples(90)
def test_repr_is_an_expression_for_the_test(test):
    """`eval(repr(test)) == test`, with the same hash."""
    again = rebuilt(test)
    assert test == again
    assert hash(test) == hash(again)


@given(strategies.tests, strategies.bodies)
@strategies.examples(60)
def test_result_of_a_test_is_a_bool(test, value):
    """A test returns True or False for every value, and never raises."""
    assert type(test(value)) is bool


@pytest.mark.parametrize(
    ("test", "text"),
    [
        (Equals("a"), "'a'"),
        (OneOf("b", "a"), "one of {'a', 'b'}"),
        (Prefix("a"), "a prefix 'a'"),
        (Range(gt=1, le=2), "a number > 1 and <= 2"),
        (IsInstance(str), "a str"),
        (Present(), "something"),
        (Absent(), "nothing"),
        (AnythingBut("a"), "anything but 'a'"),
        (Some("a"), "a list with 'a'"),
        (Every("a"), "a list of only 'a'"),
    ],
)
def test_expectations(test, text):
    """An expectation continues 'expected …' in an explanation."""
    assert text == test.expectation


def test_a_frozen_dataclass_is_a_test():
    """A frozen dataclass that derives from `Test` has equality by value, also next to tests of the library."""

    @dataclass(frozen=True, slots=True)
    class MultipleOf(Test):
        base: int

        def __call__(self, value):
            return value % self.base == 0

        @property
        def expectation(self):
            return f"a multiple of {self.base}"

    two, other = Field("n", MultipleOf(2)), Field("n", MultipleOf(3))
    assert two(JSONMessage.of({"n": 4})) is True
    assert two == Field("n", MultipleOf(2)) != other
    assert len({two, Field("n", MultipleOf(2)), other}) == 2
    assert Equals(2) != MultipleOf(2) != Equals(2)
    assert two & other == other & two


def test_user_defined_test():
    """A subclass of `Test` with `__call__` works like a test of the library."""

    class Even(Test):
        __slots__ = ()

        def __init__(self):
            self._freeze()

        def __call__(self, value):
            return isinstance(value, int) and value % 2 == 0

        @property
        def expectation(self):
            return "an even number"

    assert Field("n", Even())(JSONMessage.of({"n": 4})) is True
    assert Field("n", Some(Even()))(JSONMessage.of({"n": [1, 3]})) is False
    assert Field("n", Even()) == Field("n", Even())
