"""Read the alternatives of a field (literals and operators) as tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from missive.errors import RegistrationError
from missive.matchers.documents import Location, describe, is_exact
from missive.matchers.network import Cidr, network_of
from missive.matchers.tests import Absent, AnythingBut, Equals, IsInstance, NoneOf, OneOf, Present, Range, Test
from missive.matchers.text import Prefix, Suffix, Wildcard
from missive.matchers.values import Scalar

_T = TypeVar("_T")

_BOUNDS = {">": "gt", ">=": "ge", "<": "lt", "<=": "le"}
_NUMERIC_FORM = 'such as [">", 0] or [">=", 0, "<", 10]'


def read_alternative(value: Any, location: Location) -> Test:
    """Return the test for one alternative. Raise `RegistrationError` if it is invalid."""
    if isinstance(value, (list, tuple)):
        raise location.error('a list in a list: use a scalar, or an object such as {"prefix": "a"}')
    if not isinstance(value, Mapping):
        return Equals(_literal(value, location))
    name, operand, at = location.only_member(value, "operator", OPERATORS)
    return OPERATORS[name](operand, at)


def united(tests: Iterable[Test]) -> list[Test]:
    """Return the same alternatives, with all literals in one test."""
    literals: list[Scalar] = []
    others: dict[Test, None] = {}
    for test in tests:
        if isinstance(test, Equals):
            literals.append(test.value)
        else:
            others[test] = None
    if not literals:
        return list(others)
    union = OneOf(*literals)
    return [union if len(union.values) > 1 else Equals(union.values[0]), *others]


def at_location(create: Callable[[], _T], location: Location) -> _T:
    """Call `create`, and add the location to a `RegistrationError` that it raises."""
    try:
        return create()
    except RegistrationError as error:
        raise location.error(str(error)) from None


# Operands.


def _literal(value: Any, location: Location) -> Scalar:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number(value, location)
    if value is not None and not isinstance(value, (bool, str)):
        raise location.error(f"use a string, a number, true, false or null, not {type(value).__name__}")
    return value


def _number(value: Any, location: Location) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise location.error(f"use a number, not {describe(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise location.error(f"{describe(value)} is not a number in JSON: use a finite number")
    return value


def _text(value: Any, location: Location) -> str:
    if not isinstance(value, str):
        raise location.error(f"use a string, not {describe(value)}")
    return value


def _comparable(value: Any, location: Location) -> float:
    number = _number(value, location)
    if not is_exact(number):
        raise location.error(
            "this number is not exactly a double-precision number, which EventBridge compares: use one of at most 15 "
            "significant digits"
        )
    return number


def _cased(value: Any, location: Location) -> tuple[str, bool]:
    """Return a text, and whether to ignore its case."""
    if not isinstance(value, Mapping):
        return _text(value, location), False
    _, text, at = location.only_member(value, "operator", ("equals-ignore-case",))
    return _text(text, at), True


# Operators.


def _exactly(value: Any, location: Location) -> Test:
    return Equals(_text(value, location))


def _prefix(value: Any, location: Location) -> Test:
    text, ignore_case = _cased(value, location)
    return Prefix(text, ignore_case=ignore_case) if text else IsInstance(str)


def _suffix(value: Any, location: Location) -> Test:
    text, ignore_case = _cased(value, location)
    return Suffix(text, ignore_case=ignore_case) if text else IsInstance(str)


def _equals_ignore_case(value: Any, location: Location) -> Test:
    text = _text(value, location)
    if not text:
        return Equals("")
    return Wildcard(text.replace("\\", "\\\\").replace("*", "\\*"), ignore_case=True)


def _wildcard(value: Any, location: Location) -> Test:
    pattern = _text(value, location)
    if not pattern:
        return Equals("")
    wildcard = at_location(lambda: Wildcard(pattern), location)
    if len(wildcard.chunks) == 1:
        return Equals(wildcard.chunks[0])
    return wildcard if any(wildcard.chunks) else IsInstance(str)


def _anything_but(value: Any, location: Location) -> Test:
    if isinstance(value, Mapping):
        name, operand, at = location.only_member(value, "operator", tuple(_EXCLUDABLE))
        read = _EXCLUDABLE[name]
        if not isinstance(operand, (list, tuple)):
            return _none_of([read(operand, at)])
        if not operand:
            raise at.error("an empty list excludes nothing: add at least one text")
        return _none_of([read(one, at.at(index)) for index, one in enumerate(operand)])
    values = value if isinstance(value, (list, tuple)) else (value,)
    if not values:
        raise location.error("an empty list excludes nothing: add at least one value")
    for index, one in enumerate(values):
        at = location.at(index) if value is values else location
        if one is None or isinstance(one, bool):
            raise at.error(f"use strings or numbers, not {describe(one)}: to exclude it, list the values that you want")
        if isinstance(one, str) or not isinstance(one, (int, float)):
            _literal(one, at)
        else:
            _comparable(one, at)
        if isinstance(one, str) is not isinstance(values[0], str):
            raise at.error("use a list of strings or of numbers, not of both")
    return _none_of(map(Equals, values))


def _only_text(read: Callable[[Any, Location], Test]) -> Callable[[Any, Location], Test]:
    def read_text(value: Any, location: Location) -> Test:
        if not _text(value, location):
            raise location.error("the text is empty, so no string would match: use a text of at least one character")
        return read(value, location)

    return read_text


_EXCLUDABLE: dict[str, Callable[[Any, Location], Test]] = {
    "prefix": _only_text(_prefix),
    "suffix": _only_text(_suffix),
    "equals-ignore-case": _equals_ignore_case,
    "wildcard": _wildcard,
}
"""The operators inside `anything-but`."""


def _none_of(tests: Iterable[Test]) -> Test:
    union = united(tests)
    return AnythingBut(union[0]) if len(union) == 1 else NoneOf(*union)


def _numeric(value: Any, location: Location) -> Test:
    if not isinstance(value, (list, tuple)):
        raise location.error(f"use a list {_NUMERIC_FORM}, not {describe(value)}")
    if len(value) not in (2, 4):
        raise location.error(f"use an operator and a number, once or twice, {_NUMERIC_FORM}")
    pairs = [(value[0], value[1]), *([(value[2], value[3])] if value[2:] else [])]
    for index, (sign, _) in enumerate(pairs):
        if not isinstance(sign, str) or sign not in (*_BOUNDS, "="):
            raise location.at(2 * index).error(f"use one of =, <, <=, >, >=, not {describe(sign)}")
    numbers = [_comparable(number, location.at(2 * index + 1)) for index, (_, number) in enumerate(pairs)]
    signs = [sign for sign, _ in pairs]
    if len(signs) == 1:
        return Equals(numbers[0]) if signs == ["="] else Range(**{_BOUNDS[signs[0]]: numbers[0]})
    if signs[0] not in (">", ">=") or signs[1] not in ("<", "<="):
        raise location.error('write the lower bound (">" or ">=") first, then the upper bound ("<" or "<=")')
    bounds = {_BOUNDS[sign]: number for sign, number in zip(signs, numbers, strict=True)}
    return at_location(lambda: Range(**bounds), location)


def _cidr(value: Any, location: Location) -> Test:
    text = _text(value, location)
    if "/" not in text:
        raise location.error("use a network such as 10.0.0.0/8; write a single address as a string")
    return at_location(lambda: Cidr(network_of(text)), location)


def _exists(value: Any, location: Location) -> Test:
    if not isinstance(value, bool):
        raise location.error(f"use true or false, not {describe(value)}")
    return Present() if value else Absent()


OPERATORS: dict[str, Callable[[Any, Location], Test]] = {
    "prefix": _prefix,
    "suffix": _suffix,
    "equals-ignore-case": _equals_ignore_case,
    "wildcard": _wildcard,
    "anything-but": _anything_but,
    "numeric": _numeric,
    "cidr": _cidr,
    "exists": _exists,
    "exactly": _exactly,
}
"""The operators, by name. Each function takes the operand and its location, and returns a test."""
