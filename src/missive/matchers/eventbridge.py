"""EventBridge's JSON patterns as matchers.

The reference for what a pattern means is Event Ruler (https://github.com/aws/event-ruler), the library behind
EventBridge rules; docs/matchers.md lists where this module differs from it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from missive.errors import RegistrationError
from missive.matchers.algebra import And, Matcher, Or
from missive.matchers.documents import DEEPEST, Spot, parse, shown
from missive.matchers.events import EventField, NoneOf
from missive.matchers.network import Cidr
from missive.matchers.tests import Absent, AnythingBut, Equals, IsInstance, OneOf, Present, Range, Test
from missive.matchers.text import Prefix, Suffix, Wildcard
from missive.matchers.values import Scalar
from missive.messages import StructuredMessage

_MOST_COMBINATIONS = 1000
_T = TypeVar("_T")

# Reading a pattern: from JSON to fields and choices between groups of fields.


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A field of a pattern: what is wanted of any scalar there, and whether there may also be none."""

    path: tuple[str, ...]
    tests: tuple[Test, ...]
    may_be_absent: bool
    spot: Spot

    @property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        return (self.path,)

    @property
    def ways(self) -> int:
        return 1

    def below(self, length: int) -> _Wanted:
        return _Wanted(self.path[length:], self.tests, self.may_be_absent, self.spot)


@dataclass(frozen=True, slots=True)
class _Choice:
    """An `$or`: groups of fields of which one is wanted."""

    branches: tuple[tuple[_Wanted | _Choice, ...], ...]
    spot: Spot
    paths: tuple[tuple[str, ...], ...] = field(init=False)
    ways: int = field(init=False)
    """Into how many groups of fields without an `$or` it unfolds."""

    def __post_init__(self) -> None:
        paths = dict.fromkeys(path for branch in self.branches for item in branch for path in item.paths)
        object.__setattr__(self, "paths", tuple(paths))
        object.__setattr__(self, "ways", sum(math.prod(item.ways for item in branch) for branch in self.branches))

    def below(self, length: int) -> _Choice:
        return _Choice(tuple(tuple(item.below(length) for item in branch) for branch in self.branches), self.spot)


_Item: TypeAlias = _Wanted | _Choice

_NAMED_LIKE_OPERATORS = frozenset(
    [
        "=",
        "<",
        "<=",
        ">",
        ">=",
        "regex",
        "not-wildcard",
        "not-equals-ignore-case",
        "date-after",
        "date-on-or-after",
        "date-before",
        "date-on-or-before",
        "in-date-range",
        "ip-address-in-range",
        "ip-address-not-in-range",
    ]
)
"""What Event Ruler reserves in an `$or` beside its operators."""


def from_eventbridge(pattern: Mapping[str, Any] | str) -> Matcher[StructuredMessage]:
    """Return the matcher for an EventBridge event pattern, given as a mapping or as JSON text.

    Fields of one array element are matched together, as EventBridge does. Raises `RegistrationError` for a pattern
    that EventBridge would refuse, naming the place in it.
    """
    spot = Spot("EventBridge pattern")
    document = parse(pattern, spot) if isinstance(pattern, str) else pattern
    if not isinstance(document, Mapping):
        raise spot.wrong(f"it is a JSON object or its text, and not {shown(document)}")
    if not document:
        raise spot.wrong("it is empty, and would match every event: use Everything()")
    items = _read_fields(document, (), spot, in_choice=False)
    _refuse_twice(items)
    if math.prod(item.ways for item in items) > _MOST_COMBINATIONS:
        raise spot.wrong(f"its $or lists have more than {_MOST_COMBINATIONS} combinations: register several patterns")
    return _made(lambda: _built(items, in_array=False).whole, spot)


def _read_fields(value: Mapping[Any, Any], prefix: tuple[str, ...], spot: Spot, *, in_choice: bool) -> list[_Item]:
    items: list[_Item] = []
    for key, inner, at in spot.members(value):
        if key == "$or":
            items.append(_read_choice(inner, prefix, at))
            continue
        if in_choice and (key in _OPERATORS or key in _NAMED_LIKE_OPERATORS):
            raise at.wrong("in an $or this is not a field but an operator: the field's name goes around it")
        path = (*prefix, *key.split("."))
        if len(path) > DEEPEST:
            raise at.wrong(f"it is nested more than {DEEPEST} levels deep")
        if isinstance(inner, Mapping):
            items += _read_fields(inner, path, at, in_choice=in_choice)
        elif isinstance(inner, (list, tuple)):
            items.append(_read_alternatives(inner, path, at))
        else:
            raise at.wrong(f"alternatives are a list, also where there is one: [{shown(inner)}]")
    if not items:
        raise spot.wrong("an empty object: it takes at least one field")
    return items


def _read_choice(value: Any, prefix: tuple[str, ...], spot: Spot) -> _Choice:
    if not isinstance(value, (list, tuple)):
        raise spot.wrong(f"it takes a list of at least two objects, and not {shown(value)}")
    for index, branch in enumerate(value):
        if not isinstance(branch, Mapping):
            raise spot.at(index).wrong(f"it takes objects, and not {shown(branch)}")
    if len(value) < 2:  # noqa: PLR2004 - a choice
        raise spot.wrong(f"it takes at least two objects, and there is {'one' if value else 'none'}")
    branches = (_read_fields(branch, prefix, spot.at(i), in_choice=True) for i, branch in enumerate(value))
    return _Choice(tuple(map(tuple, branches)), spot)


def _read_alternatives(values: Collection[Any], path: tuple[str, ...], spot: Spot) -> _Wanted:
    if not values:
        raise spot.wrong("an empty list: nothing could ever match")
    tests = [_read_alternative(value, spot.at(index)) for index, value in enumerate(values)]
    wanted = [test for test in tests if not isinstance(test, Absent)]
    return _Wanted(path, tuple(_united(wanted)), len(wanted) < len(tests), spot)


def _united(tests: Iterable[Test]) -> list[Test]:
    """Return the same alternatives with all the literals as one test."""
    literals: list[Scalar] = []
    others: dict[Test, None] = {}
    for test in tests:
        if isinstance(test, Equals):
            literals.append(test.value)
        else:
            others[test] = None
    if not literals:
        return list(others)
    united = OneOf(*literals)
    return [united if len(united.values) > 1 else Equals(united.values[0]), *others]


def _read_alternative(value: Any, spot: Spot) -> Test:
    if isinstance(value, (list, tuple)):
        raise spot.wrong('a list in a list: an alternative is a scalar, or an object such as {"prefix": "a"}')
    if not isinstance(value, Mapping):
        return Equals(_literal(value, spot))
    name, operand, at = spot.only_member(value, "operator", _OPERATORS)
    return _OPERATORS[name](operand, at)


def _literal(value: Any, spot: Spot) -> Scalar:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number(value, spot)
    if value is not None and not isinstance(value, (bool, str)):
        raise spot.wrong(f"it takes a string, a number, true, false or null, and not a {type(value).__name__}")
    return value


def _number(value: Any, spot: Spot) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise spot.wrong(f"it takes a number, and not {shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise spot.wrong(f"{shown(value)} is no number in JSON")
    return value


def _text(value: Any, spot: Spot) -> str:
    if not isinstance(value, str):
        raise spot.wrong(f"it takes a string, and not {shown(value)}")
    return value


def _filled(value: Any, spot: Spot) -> str:
    text = _text(value, spot)
    if not text:
        raise spot.wrong('it is empty, and so true of every string: use {"wildcard": "*"}')
    return text


def _made(make: Callable[[], _T], spot: Spot) -> _T:
    """Make a test or a matcher; what it refuses, such as a composition that is too deep, is refused here."""
    try:
        return make()
    except RegistrationError as error:
        raise spot.wrong(str(error)) from None


def _exactly(value: Any, spot: Spot) -> Test:
    return Equals(_text(value, spot))


def _prefix(value: Any, spot: Spot) -> Test:
    text, ignore_case = _cased(value, spot)
    return Prefix(text, ignore_case=ignore_case)


def _suffix(value: Any, spot: Spot) -> Test:
    text, ignore_case = _cased(value, spot)
    return Suffix(text, ignore_case=ignore_case)


def _cased(value: Any, spot: Spot) -> tuple[str, bool]:
    if not isinstance(value, Mapping):
        return _filled(value, spot), False
    _, text, at = spot.only_member(value, "operator", ("equals-ignore-case",))
    return _filled(text, at), True


def _equals_ignore_case(value: Any, spot: Spot) -> Test:
    text = _text(value, spot)
    if not text:
        return Equals("")
    return Wildcard(text.replace("\\", "\\\\").replace("*", "\\*"), ignore_case=True)


def _wildcard(value: Any, spot: Spot) -> Test:
    pattern = _text(value, spot)
    if not pattern:
        return Equals("")
    wildcard = _made(lambda: Wildcard(pattern), spot)
    if len(wildcard.chunks) == 1:
        return Equals(wildcard.chunks[0])
    return wildcard if any(wildcard.chunks) else IsInstance(str)


def _anything_but(value: Any, spot: Spot) -> Test:
    if isinstance(value, Mapping):
        name, operand, at = spot.only_member(value, "operator", tuple(_EXCLUDABLE))
        read = _EXCLUDABLE[name]
        if not isinstance(operand, (list, tuple)):
            return _none_of([read(operand, at)])
        if not operand:
            raise at.wrong("an empty list: nothing is excluded")
        return _none_of([read(one, at.at(index)) for index, one in enumerate(operand)])
    values = value if isinstance(value, (list, tuple)) else (value,)
    if not values:
        raise spot.wrong("an empty list: nothing is excluded")
    for index, one in enumerate(values):
        at = spot.at(index) if value is values else spot
        if one is None or isinstance(one, bool):
            raise at.wrong(f"it takes strings or numbers, and not {shown(one)}: list the values that are wanted")
        _literal(one, at)
        if isinstance(one, str) is not isinstance(values[0], str):
            raise at.wrong("its list is of strings or of numbers, and not of both")
    return _none_of(map(Equals, values))


def _only_text(read: Callable[[Any, Spot], Test]) -> Callable[[Any, Spot], Test]:
    return lambda value, spot: read(_text(value, spot), spot)


_EXCLUDABLE: dict[str, Callable[[Any, Spot], Test]] = {
    "prefix": _only_text(_prefix),
    "suffix": _only_text(_suffix),
    "equals-ignore-case": _equals_ignore_case,
    "wildcard": _wildcard,
}


def _none_of(tests: Iterable[Test]) -> Test:
    united = _united(tests)
    return AnythingBut(united[0]) if len(united) == 1 else NoneOf(*united)


def _numeric(value: Any, spot: Spot) -> Test:
    way_out = 'such as [">", 0] or [">=", 0, "<", 10]'
    if not isinstance(value, (list, tuple)):
        raise spot.wrong(f"it takes a list {way_out}, and not {shown(value)}")
    if len(value) not in (2, 4):
        raise spot.wrong(f"it takes an operator and a number, once or twice, {way_out}")
    pairs = [(value[0], value[1]), *([(value[2], value[3])] if value[2:] else [])]
    for index, (sign, _) in enumerate(pairs):
        if not isinstance(sign, str) or sign not in (*_BOUNDS, "="):
            raise spot.at(2 * index).wrong(f"it takes one of =, <, <=, >, >=, and not {shown(sign)}")
    numbers = [_number(number, spot.at(2 * index + 1)) for index, (_, number) in enumerate(pairs)]
    signs = [sign for sign, _ in pairs]
    if len(signs) == 1:
        return Equals(numbers[0]) if signs == ["="] else Range(**{_BOUNDS[signs[0]]: numbers[0]})
    if signs[0] not in (">", ">=") or signs[1] not in ("<", "<="):
        raise spot.wrong('of two bounds the first is lower (">" or ">=") and the second upper ("<" or "<=")')
    return _made(lambda: Range(**{_BOUNDS[sign]: number for sign, number in zip(signs, numbers, strict=True)}), spot)


_BOUNDS = {">": "gt", ">=": "ge", "<": "lt", "<=": "le"}


def _cidr(value: Any, spot: Spot) -> Test:
    text = _text(value, spot)
    if "/" not in text:
        raise spot.wrong("it takes a network such as 10.0.0.0/8; an address by itself is written as a string")
    return _made(lambda: Cidr(text), spot)


def _existence(value: Any, spot: Spot) -> Test:
    if not isinstance(value, bool):
        raise spot.wrong(f"it takes true or false, and not {shown(value)}")
    return Present() if value else Absent()


_OPERATORS: dict[str, Callable[[Any, Spot], Test]] = {
    "prefix": _prefix,
    "suffix": _suffix,
    "equals-ignore-case": _equals_ignore_case,
    "wildcard": _wildcard,
    "anything-but": _anything_but,
    "numeric": _numeric,
    "cidr": _cidr,
    "exists": _existence,
    "exactly": _exactly,
}


def _refuse_twice(items: Iterable[_Item]) -> dict[tuple[str, ...], Spot]:
    """Refuse a field that is there twice, be it through dots or in an `$or` as well; return the fields."""
    everywhere: dict[tuple[str, ...], Spot] = {}
    for item in items:
        if isinstance(item, _Wanted):
            found = {item.path: item.spot}
        else:
            found = {path: spot for branch in item.branches for path, spot in _refuse_twice(branch).items()}
        for path, spot in found.items():
            if path in everywhere:
                raise spot.wrong("the field is there twice: alternatives of one field are one list")
        everywhere |= found
    return everywhere


# Building: from fields and choices to matchers.


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What a part of a pattern means, in two matchers of which one holds.

    In an array, `exists: false` is of the element that other fields have chosen, and of all elements where none has.
    So the part that some value meets, and the part that nothing but absence meets, go different ways.
    """

    met: Matcher[StructuredMessage] | None
    absent: Matcher[StructuredMessage] | None

    @property
    def whole(self) -> Matcher[StructuredMessage]:
        return _any(self.met, self.absent)


def _built(items: Iterable[_Item], *, in_array: bool) -> _Meaning:
    """Return what fields mean together; `in_array` where they are of an object that may be one of several."""
    meanings = [_built_together(group, in_array=in_array) for group in _groups(items)]
    if len(meanings) == 1:
        return meanings[0]
    whole = _all(*(meaning.whole for meaning in meanings))
    absences = [meaning.absent for meaning in meanings]
    if not in_array or None in absences:
        return _Meaning(whole, None)
    met = [meaning.met for meaning in meanings if meaning.met is not None]
    return _Meaning(_all(whole, _any(*met)) if met else None, _all(*absences))


def _built_together(group: list[_Item], *, in_array: bool) -> _Meaning:
    """Return the meaning of fields that are looked for in the same object."""
    first = group[0]
    if len(group) == 1 and isinstance(first, _Wanted):
        tests = [EventField(first.path, test) for test in first.tests]
        return _Meaning(
            _any(*tests) if tests else None, EventField(first.path, Absent()) if first.may_be_absent else None
        )
    paths = [path for item in group for path in item.paths]
    shared = _shared(paths) if len(group) > 1 else ()
    if shared:
        inner = _built([item.below(len(shared)) for item in group], in_array=True)
        return _Meaning(
            None if inner.met is None else EventField(shared, inner.met),
            None if inner.absent is None else _below(shared, inner.absent),
        )
    choice = next(item for item in group if isinstance(item, _Choice))
    others = [item for item in group if item is not choice]
    branches = [_built([*others, *branch], in_array=in_array) for branch in choice.branches]
    met = [branch.met for branch in branches if branch.met is not None]
    absent = [branch.absent for branch in branches if branch.absent is not None]
    return _Meaning(_any(*met) if met else None, _any(*absent) if absent else None)


def _groups(items: Iterable[_Item]) -> list[list[_Item]]:
    """Part the fields into groups, so that no two groups have a field under the same first segment."""
    groups: list[tuple[set[str], list[_Item]]] = []
    for item in items:
        # A field that is itself the first segment is no member of the objects there.
        names, members = {path[0] for path in item.paths if len(path) > 1}, [item]
        for group in [group for group in groups if group[0] & names]:
            groups.remove(group)
            names, members = group[0] | names, group[1] + members
        groups.append((names, members))
    return [members for _, members in groups]


def _shared(paths: list[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the segments that all paths start with, and none ends with."""
    low, high = min(paths), max(paths)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(low, high, strict=False))
    return tuple(segment for segment, _ in same)[: min(map(len, paths)) - 1]


def _below(prefix: tuple[str, ...], absence: Matcher[StructuredMessage]) -> Matcher[StructuredMessage]:
    if isinstance(absence, And):
        return _all(*(_below(prefix, part) for part in absence.parts))
    if isinstance(absence, Or):
        return _any(*(_below(prefix, part) for part in absence.parts))
    return EventField((*prefix, *absence.path), Absent()) if isinstance(absence, EventField) else absence


def _all(*matchers: Matcher[StructuredMessage] | None) -> Matcher[StructuredMessage]:
    return And(*(matcher for matcher in matchers if matcher is not None)).simplified()


def _any(*matchers: Matcher[StructuredMessage] | None) -> Matcher[StructuredMessage]:
    return Or(*(matcher for matcher in matchers if matcher is not None)).simplified()
