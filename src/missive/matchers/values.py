"""Value semantics that every matcher and test shares: frozen, hashable, equal by value, `eval(repr(m)) == m`."""

from __future__ import annotations

import math
from typing import Any, TypeAlias, TypeVar, cast

from typing_extensions import Self

from missive.errors import RegistrationError

Scalar: TypeAlias = str | bytes | int | float | bool | None
"""What a literal in a matcher may be; null is a value like any other."""


_T = TypeVar("_T")

_MOST_SHOWN = 2000
_TOO_LARGE = 10**4000
"""Python writes no integer of much more digits, and so the repr of a matcher could not be read back."""
DEEPEST = 100
"""How deep matchers are nested, and tests in a test: Python's own limit is not far beyond."""


class Missing:
    """The type of `MISSING`: what a selector found where there is nothing."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


MISSING = Missing()
"""What a selector found where there is nothing; no test but `Absent` is ever true of it."""


class Frozen:
    """Base of matchers and tests: set once by `_freeze`, compared by what `_freeze` was given."""

    __slots__ = ("_hash", "_identity")

    _identity: tuple[Any, ...]
    _hash: int

    def _freeze(self, *identity: Any, **attributes: Any) -> None:
        if hasattr(self, "_hash"):
            raise AttributeError(f"{type(self).__name__} is frozen: make a new one")
        for name, value in attributes.items():
            object.__setattr__(self, name, value)
        whole = (type(self), *identity)
        object.__setattr__(self, "_identity", whole)
        object.__setattr__(self, "_hash", hash(whole))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: make a new one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: make a new one")

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Frozen):
            return NotImplemented
        return self._hash == other._hash and self._identity == other._identity

    def __hash__(self) -> int:
        return self._hash

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __getstate__(self) -> dict[str, Any]:
        slots = (name for cls in type(self).__mro__ for name in getattr(cls, "__slots__", ()))
        return {name: getattr(self, name) for name in slots if name != "_hash"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_hash", hash(self._identity))  # of text, a hash is of one process only


def checked_scalar(value: Any, owner: str) -> Scalar:
    """Return `value`, of a subclass such as an enum's as its plain type.

    Raises `RegistrationError` for what has no equal: another type, or NaN.
    """
    if value is not None and not isinstance(value, (str, bytes, int, float)):
        raise RegistrationError(f"{owner} takes a str, bytes, number, bool or None, and not a {type(value).__name__}")
    _refuse_huge(value, owner)
    if value != value:  # noqa: PLR0124 - math.isnan overflows on large integers
        raise RegistrationError(f"{owner} was given NaN, which equals nothing: no message could ever match")
    literal: Scalar = plain(value)
    return literal


def _refuse_huge(value: object, owner: str) -> None:
    if isinstance(value, int) and abs(value) >= _TOO_LARGE:
        raise RegistrationError(f"{owner} takes integers of at most 4,000 digits")


def checked_bound(value: Any, owner: str) -> float:
    """Return a number. Raises `RegistrationError` for what is none, or NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RegistrationError(f"{owner} takes a number, and not a {type(value).__name__}")
    if value != value:  # noqa: PLR0124 - math.isnan overflows on large integers
        raise RegistrationError(f"{owner} was given NaN: no message could ever match")
    _refuse_huge(value, owner)
    return plain(value)


def plain(value: _T) -> _T:
    """Return text, bytes or a number of a subclass as its plain type, so that its repr is a literal."""
    if isinstance(value, bool):
        return value
    for kind in (str, int, float, bytes):
        if isinstance(value, kind) and type(value) is not kind:
            return cast("_T", str.__str__(value) if isinstance(value, str) else cast("Any", kind)(value))
    return value


def identity_of(value: Scalar) -> tuple[bool, Scalar]:
    """Return what makes a literal itself: Python says `True == 1`, a matcher does not."""
    return (isinstance(value, bool), value)


SCALARS = (str, bytes, int, float, type(None))
"""What equals a literal: not a `Decimal`, say, that a decoder of one's own may return."""


def show(value: Any) -> str:
    """Return an expression for a literal; infinity has no literal of its own."""
    if isinstance(value, float) and math.isinf(value):
        return "float('inf')" if value > 0 else "float('-inf')"
    return repr(value)


def cut(value: object) -> str:
    """Return what a matcher is written as, without the end of a very long one: an error is to be read."""
    written = repr(value)
    return written if len(written) <= _MOST_SHOWN else f"{written[:_MOST_SHOWN]}… ({len(written):,} characters)"
