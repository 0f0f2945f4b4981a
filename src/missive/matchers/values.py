"""The base of all matchers and tests: frozen, hashable, equal by value, with `eval(repr(m)) == m`."""

from __future__ import annotations

import math
from typing import Any, TypeAlias, TypeVar, cast

from typing_extensions import Self

from missive.errors import RegistrationError
from missive.fields import MISSING as MISSING  # noqa: PLC0414 - re-exported

Scalar: TypeAlias = str | bytes | int | float | bool | None
"""The types of a literal in a matcher. Null is a value."""

SCALARS = (str, bytes, int, float, type(None))
"""The types whose instances can equal a literal. A custom decoder may return other types, such as `Decimal`."""

MAX_DEPTH = 100
"""Greatest nesting depth of matchers, of tests and of compiled documents. Python's recursion limit is not far above."""

_MAX_INTEGER = 10**4000
"""Integers are smaller than this. Python refuses to print much longer ones, so their repr could not be evaluated."""
_MAX_REPR = 2000
_MAX_EXCERPT = 80

_T = TypeVar("_T")


class Frozen:
    """Base of matchers and tests. `_freeze` sets the attributes once, and stores the identity that `==` compares."""

    __slots__ = ("_hash", "_identity")

    _identity: tuple[Any, ...]
    _hash: int

    def _freeze(self, *identity: Any, **attributes: Any) -> None:
        if hasattr(self, "_hash"):
            raise AttributeError(f"{type(self).__name__} is frozen: create a new one")
        for name, value in attributes.items():
            object.__setattr__(self, name, value)
        whole = (type(self), *identity)
        object.__setattr__(self, "_identity", whole)
        object.__setattr__(self, "_hash", hash(whole))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: create a new one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: create a new one")

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Frozen) or type(other) is not type(self):
            return NotImplemented  # the class may define its own equality, as a dataclass does
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
        object.__setattr__(self, "_hash", hash(self._identity))  # hashes of text differ between processes


def checked_scalar(value: Any, owner: str) -> Scalar:
    """Return `value` as a plain scalar; convert instances of subclasses, such as members of an enumeration.

    Raise `RegistrationError` if `value` has another type, is NaN or is an integer that is too long.
    """
    if value is not None and not isinstance(value, (str, bytes, int, float)):
        raise RegistrationError(f"{owner} takes a str, bytes, number, bool or None, not {type(value).__name__}")
    _refuse_long_integer(value, owner)
    if value != value:  # noqa: PLR0124 - math.isnan overflows on large integers
        raise RegistrationError(f"{owner} got NaN, which equals nothing, so no message could match: use another value")
    literal: Scalar = plain(value)
    return literal


def checked_bound(value: Any, owner: str) -> float:
    """Return `value` as a plain number. Raise `RegistrationError` if it is not a number, is NaN or is too long."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RegistrationError(f"{owner} takes a number, not {type(value).__name__}")
    if value != value:  # noqa: PLR0124 - math.isnan overflows on large integers
        raise RegistrationError(f"{owner} got NaN, so no message could match: use another number")
    _refuse_long_integer(value, owner)
    return plain(value)


def checked_path(owner: str, path: Any, examples: str, surplus: tuple[Any, ...]) -> tuple[str, ...]:
    """Return a path as a tuple of segments of plain text.

    Raise `RegistrationError` if the path is neither a string nor a tuple of strings, or if there are `surplus`
    arguments, which are probably further segments.
    """
    segments = path if isinstance(path, tuple) else (path,)
    if surplus:
        written = tuple(segment for segment in (*segments, *surplus) if isinstance(segment, str))
        raise RegistrationError(
            f"{owner} got too many arguments: write a path of several segments as a tuple, such as {written!r}"
        )
    if not segments or not all(isinstance(segment, str) for segment in segments):
        raise RegistrationError(f"{owner}'s path is a string or a tuple of strings, such as {examples}")
    return tuple(plain(segment) for segment in segments)


def _refuse_long_integer(value: object, owner: str) -> None:
    if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        raise RegistrationError(f"{owner} takes integers of at most 4,000 digits")


def plain(value: _T) -> _T:
    """Return text, bytes or a number as an instance of its plain type, so that its repr is a literal."""
    if isinstance(value, bool):
        return value
    for kind in (str, int, float, bytes):
        if isinstance(value, kind) and type(value) is not kind:
            return cast("_T", str.__str__(value) if isinstance(value, str) else cast("Any", kind)(value))
    return value


def identity_of(value: Scalar) -> tuple[bool, Scalar]:
    """Return a key that differs for `True` and 1, which are equal in Python but not in a matcher."""
    return (isinstance(value, bool), value)


def show(value: Any) -> str:
    """Return an expression for a literal. Infinity has no literal in Python."""
    if isinstance(value, float) and math.isinf(value):
        return "float('inf')" if value > 0 else "float('-inf')"
    return repr(value)


def cut(value: object) -> str:
    """Return the repr of a matcher for an error message; cut a very long one and append its length."""
    written = repr(value)
    return written if len(written) <= _MAX_REPR else f"{written[:_MAX_REPR]}… ({len(written):,} characters)"


def excerpt(text: str) -> str:
    """Return the repr of a text for an error message, of its first 80 characters at most."""
    return repr(text) if len(text) <= _MAX_EXCERPT else f"{text[:_MAX_EXCERPT]!r}…"
