"""Tests: what to find at the place that a selector looks at. Each is true or false of one value.

No test sees a missing value, except `Absent`. Scalar tests are false on a list or an object; `Some` and
`Every` look inside a list, and inside a header that is repeated.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from missive.errors import RegistrationError
from missive.matchers.values import DEEPEST, SCALARS, Frozen, Scalar, checked_bound, checked_scalar, identity_of, show


class Test(Frozen):
    """Base of all tests. A subclass says `__call__`, is frozen, and is equal by value."""

    __slots__ = ()
    __test__ = False  # not a class of tests, whatever pytest thinks of its name

    on_missing = False
    """The answer where the selector found nothing."""
    depth = 1
    """How deep tests are nested in it."""

    @abstractmethod
    def __call__(self, value: Any) -> bool:
        """Tell whether the value at the selected place passes."""

    @property
    @abstractmethod
    def expectation(self) -> str:
        """What is expected, for an explanation: 'expected ' and then this."""


class Equals(Test):
    """The value equals a literal: `Field("type", Equals("order.placed"))`, or the bare literal for short.

    `True != 1`, `1 == 1.0`, `"1" != 1`; `Equals(None)` is true of null and not of a missing field.
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
            raise RegistrationError("OneOf() of nothing: no message could ever match")
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
            raise RegistrationError("this Range is empty: no message could ever match")
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
    """The value is of a type: `Field("amount", IsInstance(int))`. A boolean is not an int here."""

    __slots__ = ("type_",)
    type_: type

    def __init__(self, type_: type) -> None:
        if type_ not in (str, bytes, int, float, bool, list, dict):
            raise RegistrationError("IsInstance takes one of str, bytes, int, float, bool, list, dict")
        self._freeze(type_, type_=type_)

    def __call__(self, value: Any) -> bool:
        return isinstance(value, self.type_) and (self.type_ is bool or not isinstance(value, bool))

    @property
    def expectation(self) -> str:
        """The type's name."""
        return f"a {self.type_.__name__}"

    def __repr__(self) -> str:
        return f"IsInstance({self.type_.__name__})"


class Present(Test):
    """There is a value, null included: `Field("refund", Present())`."""

    __slots__ = ()

    def __init__(self) -> None:
        self._freeze()

    def __call__(self, value: Any) -> bool:  # noqa: ARG002 - any value is one
        return True

    @property
    def expectation(self) -> str:
        """That there is something."""
        return "something"

    def __repr__(self) -> str:
        return "Present()"


class Absent(Test):
    """There is no value: `Field("refund", Absent())`. Null is a value, and so is not absent."""

    __slots__ = ()
    on_missing = True

    def __init__(self) -> None:
        self._freeze()

    def __call__(self, value: Any) -> bool:  # noqa: ARG002 - whatever it is, it is there
        return False

    @property
    def expectation(self) -> str:
        """That there is nothing."""
        return "nothing"

    def __repr__(self) -> str:
        return "Absent()"


class _Wrapping(Test):
    """Base of tests that apply another test."""

    __slots__ = ("depth", "test")
    test: Test

    def __init__(self, test: Test | Scalar) -> None:
        inner = as_test(test)
        if isinstance(inner, (Present, Absent)):
            raise RegistrationError(f"{type(self).__name__} needs a value, and {inner!r} is about whether there is one")
        self._freeze(inner, test=inner, depth=depth_over(inner))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.test!r})"


class AnythingBut(_Wrapping):
    """There is a value, and a test is false of it: `Field("state", AnythingBut("closed"))`.

    The pair of it is `~Field("state", "closed")`, the complement, which is true of a missing field too.
    """

    __slots__ = ()

    def __call__(self, value: Any) -> bool:
        return not self.test(value)

    @property
    def expectation(self) -> str:
        """The opposite of the inner test."""
        return f"anything but {self.test.expectation}"


class Some(_Wrapping):
    """The value is a list (or a repeated header) with an element that passes: `Field("labels", Some("bug"))`."""

    __slots__ = ()

    def __call__(self, value: Any) -> bool:
        return isinstance(value, (list, tuple)) and any(map(self.test, value))

    @property
    def expectation(self) -> str:
        """The inner test, of an element."""
        return f"a list with {self.test.expectation}"


class Every(_Wrapping):
    """The value is a list (or a repeated header) whose elements all pass; true of an empty one."""

    __slots__ = ()

    def __call__(self, value: Any) -> bool:
        return isinstance(value, (list, tuple)) and all(map(self.test, value))

    @property
    def expectation(self) -> str:
        """The inner test, of every element."""
        return f"a list of only {self.test.expectation}"


def depth_over(*tests: Test) -> int:
    """Return the depth of what applies other tests. Raises `RegistrationError` beyond a hundred."""
    depth = 1 + max(test.depth for test in tests)
    if depth > DEEPEST:
        raise RegistrationError(f"tests are nested at most {DEEPEST} deep")
    return depth


def as_test(test: Test | Scalar) -> Test:
    """Return a test; a bare literal means `Equals`."""
    return test if isinstance(test, Test) else Equals(test)
