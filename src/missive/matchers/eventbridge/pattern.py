"""The structure of an event pattern: fields, and choices between groups of fields."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from missive.matchers.documents import Location, describe, parse
from missive.matchers.eventbridge.operators import OPERATORS, read_alternative, united
from missive.matchers.tests import Absent, Test
from missive.matchers.values import MAX_DEPTH

_MAX_COMBINATIONS = 1000
"""Greatest number of groups that the `$or` lists of a pattern expand to."""

_RESERVED = frozenset(
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
"""Names that Event Ruler reserves in an `$or`, in addition to its operators."""


@dataclass(frozen=True, slots=True)
class FieldPattern:
    """A field of a pattern: one test must hold for a scalar there, or the field may be absent."""

    path: tuple[str, ...]
    tests: tuple[Test, ...]
    may_be_absent: bool
    location: Location

    @property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        """The path, as a tuple of one."""
        return (self.path,)

    @property
    def combinations(self) -> int:
        """Always 1, as a field contains no `$or`."""
        return 1

    def below(self, length: int) -> FieldPattern:
        """Return this field without the first `length` segments of its path."""
        return FieldPattern(self.path[length:], self.tests, self.may_be_absent, self.location)


@dataclass(frozen=True, slots=True)
class Choice:
    """An `$or`: groups of fields. At least one group must match."""

    branches: tuple[tuple[FieldPattern | Choice, ...], ...]
    location: Location
    paths: tuple[tuple[str, ...], ...] = field(init=False)
    """The paths of all fields in all branches."""
    combinations: int = field(init=False)
    """Number of groups without an `$or` that the choice expands to."""

    def __post_init__(self) -> None:
        paths = dict.fromkeys(path for branch in self.branches for item in branch for path in item.paths)
        combinations = sum(math.prod(item.combinations for item in branch) for branch in self.branches)
        object.__setattr__(self, "paths", tuple(paths))
        object.__setattr__(self, "combinations", combinations)

    def below(self, length: int) -> Choice:
        """Return this choice without the first `length` segments of all paths."""
        return Choice(tuple(tuple(item.below(length) for item in branch) for branch in self.branches), self.location)


Item: TypeAlias = FieldPattern | Choice


def read_pattern(pattern: Mapping[str, Any] | str, location: Location) -> list[Item]:
    """Return the fields and choices of a pattern. Raise `RegistrationError` if the pattern is invalid."""
    document = parse(pattern, location) if isinstance(pattern, str) else pattern
    if not isinstance(document, Mapping):
        raise location.error(f"use an object or its JSON text, not {describe(document)}")
    if not document:
        raise location.error("an empty pattern would match every event: use Everything()")
    items = _read_fields(document, (), location, in_choice=False)
    _refuse_duplicates(items)
    if math.prod(item.combinations for item in items) > _MAX_COMBINATIONS:
        raise location.error(
            f"its $or lists have more than {_MAX_COMBINATIONS} combinations: register several patterns"
        )
    return items


def _read_fields(
    value: Mapping[Any, Any], prefix: tuple[str, ...], location: Location, *, in_choice: bool
) -> list[Item]:
    items: list[Item] = []
    for key, inner, at in location.members(value):
        if key == "$or" and _is_choice(inner):
            items.append(_read_choice(inner, prefix, at))
            continue
        if in_choice and (key in OPERATORS or key in _RESERVED):
            raise at.error(f'"{key}" is an operator; $or takes fields: write for example {{FIELD: [{{"prefix": …}}]}}')
        path = (*prefix, *key.split("."))
        if len(path) > MAX_DEPTH:
            raise at.too_deep()
        if isinstance(inner, Mapping):
            items += _read_fields(inner, path, at, in_choice=in_choice)
        elif isinstance(inner, (list, tuple)):
            items.append(_read_field(inner, path, at))
        else:
            raise at.error(f"a field takes a list of alternatives: write [{describe(inner)}]")
    if not items:
        raise location.error("an empty object: add at least one field")
    return items


def _is_choice(value: Any) -> bool:
    """Return whether `$or` stands before a choice. Otherwise it is the name of a field, as in Event Ruler."""
    return (
        isinstance(value, (list, tuple))
        and all(isinstance(branch, Mapping) for branch in value)
        and not (value and all(len(branch) == 1 and next(iter(branch)) in OPERATORS for branch in value))
    )


def _read_choice(value: Collection[Mapping[Any, Any]], prefix: tuple[str, ...], location: Location) -> Choice:
    if len(value) < 2:  # noqa: PLR2004 - a choice
        raise location.error(f"$or takes at least two objects, not {len(value)}: add another object")
    branches = (_read_fields(branch, prefix, location.at(i), in_choice=True) for i, branch in enumerate(value))
    return Choice(tuple(map(tuple, branches)), location)


def _read_field(values: Collection[Any], path: tuple[str, ...], location: Location) -> FieldPattern:
    if not values:
        raise location.error("an empty list matches no event: add at least one alternative")
    tests = [read_alternative(value, location.at(index)) for index, value in enumerate(values)]
    wanted = [test for test in tests if not isinstance(test, Absent)]
    return FieldPattern(path, tuple(united(wanted)), len(wanted) < len(tests), location)


def _refuse_duplicates(items: Iterable[Item]) -> dict[tuple[str, ...], Location]:
    """Return the fields with their locations.

    Raise `RegistrationError` for a duplicate, also when it is spelled with dots.
    """
    everywhere: dict[tuple[str, ...], Location] = {}
    for item in items:
        if isinstance(item, FieldPattern):
            found = {item.path: item.location}
        else:
            found = {path: at for branch in item.branches for path, at in _refuse_duplicates(branch).items()}
        for path, location in found.items():
            if path in everywhere:
                raise location.error("duplicate field: write all alternatives of a field in one list")
        everywhere |= found
    return everywhere
