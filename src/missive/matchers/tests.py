"""Tests, which are true or false of the value that a selector finds.

Only `Absent` is true of a missing value. Scalar tests are false of a list or an object. `Some` and `Every` test the
elements of a list, and the values of a repeated header.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from missive.errors import RegistrationError
from missive.fields import is_object
from missive.matchers.values import MAX_DEPTH, SCALARS, Frozen, Scalar, checked_bound, checked_scalar, identity_of, show

_MAX_SIZE = 10_000
"""Greatest number of tests inside one test."""


class Test(Frozen):
    """Base of all tests. A subclass implements `__call__` and `expectation`, is frozen, and is equal by value."""

    __slots__ = ()
    __test__ = False  # tells pytest that this class contains no test cases

    on_missing = False
    """The result for a missing value."""
    depth = 1
    """Levels of nested tests."""
    size = 1
    """Number of tests in this one, including itself. A test that occurs twice counts twice."""

    @abstractmethod
    def __call__(self, value: Any) -> bool:
        """Return whether the value at the selected place passes."""

    @property
    @abstractmethod
    def expectation(self) -> str:
        """The expected value, as a phrase that follows 'expected' in an explanation."""


class Equals(Test):
    """The value equals a literal: `Field("type", Equals("order.placed"))`. A bare literal has the same meaning.

    `True != 1`, `1 == 1.0` and `"1" != 1`. `Equals(None)` is true of null, and false of a missing field.
    """

    __slots__ = ("value",)
    value: Scalar

    def __init__(self, value: Scalar) -> None:
        literal = checked_scalar(value, "Equals")
        self._freeze(*identity_of(literal), value=literal)

    def __call__(self, value: Any) -> bool:
        expected = self.value
        return (
            isinstance(value, SCALARS)
            and expected == value
            and (expected.__class__ is bool) is (value.__class__ is bool)
        )

    @property
    def expectation(self) -> str:
        """The literal."""
        return show(self.value)

    def __repr__(self) -> str:
        return f"Equals({show(self.value)})"


class OneOf(Test):
    """The value equals one of several literals: `Field("state", OneOf("open", "reopened"))`."""

    __slots__ = ("_identities", "values")
    values: tuple[Scalar, ...]
    _identities: frozenset[tuple[bool, Scalar]]

    def __init__(self, *values: Scalar) -> None:
        if not values:
            raise RegistrationError("OneOf() without values matches no message: add at least one value")
        literals = [checked_scalar(value, "OneOf") for value in values]
        distinct = {identity_of(literal): literal for literal in literals}
        ordered = tuple(sorted(distinct.values(), key=lambda value: (type(value).__name__, repr(value))))
        identities = frozenset(distinct)
        self._freeze(identities, values=ordered, _identities=identities)

    def __call__(self, value: Any) -> bool:
        return isinstance(value, SCALARS) and (value.__class__ is bool, value) in self._identities

    @property
    def expectation(self) -> str:
        """The literals."""
        return "one of {" + ", ".join(show(value) for value in self.values) + "}"

    def __repr__(self) -> str:
        return f"OneOf({', '.join(show(value) for value in self.values)})"


class Range(Test):
    """The value is a number within bounds: `Field("total", Range(gt=100))`. Booleans and strings are not numbers."""

    __slots__ = ("ge", "gt", "le", "lt")
    gt: float | None
    ge: float | None
    lt: float | None
    le: float | None

    def __init__(
        self,
        *,
        gt: float | None = None,
        ge: float | None = None,
        lt: float | None = None,
        le: float | None = None,
    ) -> None:
        bounds = {"gt": gt, "ge": ge, "lt": lt, "le": le}
        for name, bound in bounds.items():
            if bound is not None:
                bounds[name] = checked_bound(bound, f"Range({name}=)")
        gt, ge, lt, le = bounds.values()
        if gt is None and ge is None and lt is None and le is None:
            raise RegistrationError("Range() needs at least one of gt=, ge=, lt=, le=")
        if (gt is not None and ge is not None) or (lt is not None and le is not None):
            raise RegistrationError("Range takes one lower bound (gt= or ge=) and one upper bound (lt= or le=)")
        low = gt if gt is not None else ge
        high = lt if lt is not None else le
        open_ended = gt is not None or lt is not None
        if low is not None and high is not None and (low > high or (low == high and open_ended)):
            raise RegistrationError("this Range is empty, so no message could match: raise the upper bound")
        self._freeze(gt, ge, lt, le, gt=gt, ge=ge, lt=lt, le=le)

    def __call__(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return (
            (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.lt is None or value < self.lt)
            and (self.le is None or value <= self.le)
        )

    def _bounds(self) -> list[tuple[str, float]]:
        named = (("gt", self.gt), ("ge", self.ge), ("lt", self.lt), ("le", self.le))
        return [(name, bound) for name, bound in named if bound is not None]

    @property
    def expectation(self) -> str:
        """The bounds."""
        signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
        return "a number " + " and ".join(f"{signs[name]} {bound}" for name, bound in self._bounds())

    def __repr__(self) -> str:
        return f"Range({', '.join(f'{name}={show(bound)}' for name, bound in self._bounds())})"


class IsInstance(Test):
    """The value has a type: `Field("amount", IsInstance(int))`. A boolean is not an int.

    `IsInstance(dict)` is true of every object: a mapping, struct, dataclass, attrs class or pydantic model.
    """

    __slots__ = ("type_",)
    type_: type

    def __init__(self, type_: type) -> None:
        if type_ not in (str, bytes, int, float, bool, list, dict):
            raise RegistrationError("IsInstance takes one of str, bytes, int, float, bool, list, dict")
        self._freeze(type_, type_=type_)

    def __call__(self, value: Any) -> bool:
        if self.type_ is dict:
            return is_object(value)
        return isinstance(value, self.type_) and (self.type_ is bool or not isinstance(value, bool))

    @property
    def expectation(self) -> str:
        """The name of the type."""
        return f"a {self.type_.__name__}"

    def __repr__(self) -> str:
        return f"IsInstance({self.type_.__name__})"


class Present(Test):
    """The value exists, even if it is null: `Field("refund", Present())`."""

    __slots__ = ()

    def __init__(self) -> None:
        self._freeze()

    def __call__(self, value: Any) -> bool:  # noqa: ARG002 - any value is present
        return True

    @property
    def expectation(self) -> str:
        """Any value."""
        return "something"

    def __repr__(self) -> str:
        return "Present()"


class Absent(Test):
    """The value is missing: `Field("refund", Absent())`. Null is a value, so a null field is not absent."""

    __slots__ = ()
    on_missing = True

    def __init__(self) -> None:
        self._freeze()

    def __call__(self, value: Any) -> bool:  # noqa: ARG002 - no value is absent
        return False

    @property
    def expectation(self) -> str:
        """No value."""
        return "nothing"

    def __repr__(self) -> str:
        return "Absent()"


class _Wrapping(Test):
    """Base of tests that apply one other test."""

    __slots__ = ("depth", "size", "test")
    test: Test

    def __init__(self, test: Test | Scalar) -> None:
        inner = _value_test(test, type(self).__name__)
        self._freeze(inner, test=inner, **_measures(inner))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.test!r})"


class AnythingBut(_Wrapping):
    """The value exists and does not pass a test: `Field("state", AnythingBut("closed"))`.

    In contrast, the complement `~Field("state", "closed")` is also true if the field is missing.
    """

    __slots__ = ()

    def __call__(self, value: Any) -> bool:
        return not self.test(value)

    @property
    def expectation(self) -> str:
        """The opposite of the inner test."""
        return f"anything but {self.test.expectation}"


class Some(_Wrapping):
    """The value is a list, or a repeated header, with an element that passes: `Field("labels", Some("bug"))`."""

    __slots__ = ()

    def __call__(self, value: Any) -> bool:
        return isinstance(value, (list, tuple)) and any(map(self.test, value))

    @property
    def expectation(self) -> str:
        """The inner test, for an element."""
        return f"a list with {self.test.expectation}"


class Every(_Wrapping):
    """The value is a list, or a repeated header, and all its elements pass. True of an empty list."""

    __slots__ = ()

    def __call__(self, value: Any) -> bool:
        return isinstance(value, (list, tuple)) and all(map(self.test, value))

    @property
    def expectation(self) -> str:
        """The inner test, for all elements."""
        return f"a list of only {self.test.expectation}"


class NoneOf(Test):
    """The value exists and passes none of several tests: `Field("sku", NoneOf(Prefix("EU-"), Prefix("US-")))`.

    In an `EventField`, one element of an array must fail all the tests. Two fields with `AnythingBut` could each be
    met by a different element.
    """

    __slots__ = ("depth", "size", "tests")
    tests: tuple[Test, ...]

    def __init__(self, *tests: Test | Scalar) -> None:
        inner = dict.fromkeys(_value_test(test, "NoneOf") for test in tests)
        if not inner:
            raise RegistrationError("NoneOf() without tests is true of every value: use Present()")
        measures = _measures(*inner)  # before the repr, which has the length of the test
        ordered = tuple(sorted(inner, key=repr))
        self._freeze(frozenset(inner), tests=ordered, **measures)

    def __call__(self, value: Any) -> bool:
        return not any(test(value) for test in self.tests)

    @property
    def expectation(self) -> str:
        """The opposites of all inner tests."""
        return f"none of: {', '.join(test.expectation for test in self.tests)}"

    def __repr__(self) -> str:
        return f"NoneOf({', '.join(map(repr, self.tests))})"


def as_test(test: Test | Scalar) -> Test:
    """Return `test` if it is a `Test`, and `Equals` of it if it is a literal."""
    return test if isinstance(test, Test) else Equals(test)


def _value_test(test: Test | Scalar, owner: str) -> Test:
    """Return an inner test of `owner`. Raise `RegistrationError` if it tests whether a value exists."""
    inner = as_test(test)
    if isinstance(inner, (Present, Absent)):
        raise RegistrationError(
            f"{owner} takes a test of a value, but {inner!r} tests whether one exists: use Present() or Absent() alone"
        )
    return inner


def _measures(*tests: Test) -> dict[str, int]:
    """Return the depth and size of a test that applies `tests`. Raise `RegistrationError` if one is too large."""
    depth, size = 1 + max(test.depth for test in tests), 1 + sum(test.size for test in tests)
    if depth > MAX_DEPTH:
        raise RegistrationError(f"tests are nested at most {MAX_DEPTH} deep: use fewer levels")
    if size > _MAX_SIZE:
        raise RegistrationError(
            f"a test consists of at most {_MAX_SIZE:,} tests, and one that occurs twice counts twice: use OneOf(…) for "
            "many literals, or a function"
        )
    return {"depth": depth, "size": size}
