"""The compiler from the fields and choices of an event pattern to a matcher."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from missive.matchers.algebra import And, Matcher, Or
from missive.matchers.documents import Location
from missive.matchers.eventbridge.operators import at_location
from missive.matchers.eventbridge.pattern import Choice, FieldPattern, Item, read_pattern
from missive.matchers.events import EventField
from missive.matchers.tests import Absent
from missive.messages import StructuredMessage


def from_eventbridge(pattern: Mapping[str, Any] | str) -> Matcher[StructuredMessage]:
    """Return the matcher for an EventBridge event pattern, which is a mapping or JSON text.

    As in EventBridge, fields inside an array must match in the same element. Raise `RegistrationError` if the pattern
    is invalid; the error names the location in it.
    """
    location = Location("EventBridge pattern")
    items = read_pattern(pattern, location)
    return at_location(lambda: _compile(items, in_array=False).whole, location)


@dataclass(frozen=True, slots=True)
class _Alternatives:
    """The meaning of a part of a pattern: one of two matchers must hold. None means that it never holds.

    In an array, `exists: false` applies to the element that other fields match. If no field matches an element, it
    applies to all elements. Therefore the compiler separates the case in which some value matches from the case in
    which all fields are absent.
    """

    met: Matcher[StructuredMessage] | None
    absent: Matcher[StructuredMessage] | None

    @property
    def whole(self) -> Matcher[StructuredMessage]:
        return _any(self.met, self.absent)


def _compile(items: Iterable[Item], *, in_array: bool) -> _Alternatives:
    """Compile items that must all match. `in_array` means that they may belong to one of several objects."""
    compiled = [_compile_group(group, in_array=in_array) for group in _groups(items)]
    if len(compiled) == 1:
        return compiled[0]
    whole = _all(*(group.whole for group in compiled))
    absences = [group.absent for group in compiled]
    if not in_array or None in absences:
        return _Alternatives(whole, None)
    met = [group.met for group in compiled if group.met is not None]
    return _Alternatives(_all(whole, _any(*met)) if met else None, _all(*absences))


def _compile_group(group: list[Item], *, in_array: bool) -> _Alternatives:
    """Compile items that must match in the same object."""
    first = group[0]
    if len(group) == 1 and isinstance(first, FieldPattern):
        tests = [EventField(first.path, test) for test in first.tests]
        return _Alternatives(
            _any(*tests) if tests else None, EventField(first.path, Absent()) if first.may_be_absent else None
        )
    paths = [path for item in group for path in item.paths]
    shared = _shared_prefix(paths) if len(group) > 1 else ()
    if shared:
        inner = _compile([item.below(len(shared)) for item in group], in_array=True)
        return _Alternatives(
            None if inner.met is None else EventField(shared, inner.met),
            None if inner.absent is None else _prefixed(shared, inner.absent),
        )
    choice = next(item for item in group if isinstance(item, Choice))
    others = [item for item in group if item is not choice]
    branches = [_compile([*others, *branch], in_array=in_array) for branch in choice.branches]
    met = [branch.met for branch in branches if branch.met is not None]
    absent = [branch.absent for branch in branches if branch.absent is not None]
    return _Alternatives(_any(*met) if met else None, _any(*absent) if absent else None)


def _groups(items: Iterable[Item]) -> list[list[Item]]:
    """Divide items into groups. Items with fields under the same first segment belong to the same group."""
    groups: list[tuple[set[str], list[Item]]] = []
    for item in items:
        # A path of one segment names a field, not a member of an object.
        names, members = {path[0] for path in item.paths if len(path) > 1}, [item]
        for group in [group for group in groups if group[0] & names]:
            groups.remove(group)
            names, members = group[0] | names, group[1] + members
        groups.append((names, members))
    return [members for _, members in groups]


def _shared_prefix(paths: list[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the first segments that all paths share, without the last segment of any path."""
    low, high = min(paths), max(paths)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(low, high, strict=False))
    return tuple(segment for segment, _ in same)[: min(map(len, paths)) - 1]


def _prefixed(prefix: tuple[str, ...], absence: Matcher[StructuredMessage]) -> Matcher[StructuredMessage]:
    """Return a composition of absent fields with the prefix before each path."""
    if isinstance(absence, And):
        return _all(*(_prefixed(prefix, part) for part in absence.parts))
    if isinstance(absence, Or):
        return _any(*(_prefixed(prefix, part) for part in absence.parts))
    return EventField((*prefix, *absence.path), Absent()) if isinstance(absence, EventField) else absence


def _all(*matchers: Matcher[StructuredMessage] | None) -> Matcher[StructuredMessage]:
    return And(*(matcher for matcher in matchers if matcher is not None)).simplified()


def _any(*matchers: Matcher[StructuredMessage] | None) -> Matcher[StructuredMessage]:
    return Or(*(matcher for matcher in matchers if matcher is not None)).simplified()
