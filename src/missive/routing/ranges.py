"""Ranges: the part of each axis (numbers, texts, addresses) that a constraint allows, to find overlapping ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from missive.matchers.network import Cidr
from missive.matchers.selectors import Place
from missive.matchers.tests import Range, Test
from missive.routing.bounds import bounds_of
from missive.routing.globs import glob_of
from missive.routing.intervals import GrowingIntervals
from missive.routing.kinds import NUMBERS, TEXT, possible_kinds
from missive.routing.normal import Constraint, literals_of

AxisRange: TypeAlias = tuple[Any, Any]

_AXES = ("number", "text", "reversed text", "address")
_KINDS_ON = {"number": NUMBERS, "text": TEXT, "reversed text": TEXT, "address": TEXT}
_LAST = "\U0010ffff"


class Projection:
    """Constraints at one place, indexed by their ranges on each axis.

    A constraint that allows values on an axis without bounding them is loose on this axis.
    """

    __slots__ = ("_bound", "_loose")

    def __init__(self) -> None:
        self._bound: dict[str, GrowingIntervals[int]] = {axis: GrowingIntervals() for axis in _AXES}
        self._loose: dict[str, list[int]] = {axis: [] for axis in _AXES}

    def add(self, place: Place, constraint: Constraint, number: int) -> None:
        """Add the constraint of a matcher, under the number of the matcher."""
        ranges = ranges_of(place, constraint)
        possible = _possible(place, constraint)
        for axis in _AXES:
            if (axis_range := ranges.get(axis)) is not None:
                self._bound[axis].add(*axis_range, number)
            elif possible & _KINDS_ON[axis]:
                self._loose[axis].append(number)

    def candidates(self, place: Place, constraint: Constraint) -> Iterable[int] | None:
        """Return the matchers whose constraints can meet another constraint, or None where all of them can."""
        ranges, possible = ranges_of(place, constraint), _possible(place, constraint)
        # An axis excludes matchers only where the constraint allows no values outside the axis.
        axes = [axis for axis in ranges if possible <= _KINDS_ON[axis]]
        if not axes:
            return None
        axis = min(axes, key=lambda axis: len(self._loose[axis]))
        return self._on(axis, ranges[axis])

    def _on(self, axis: str, axis_range: AxisRange) -> Iterator[int]:
        yield from self._bound[axis].overlapping(*axis_range)
        yield from self._loose[axis]


def _possible(place: Place, constraint: Constraint) -> frozenset[str]:
    if place[0] == "event" or not constraint.positives:
        return frozenset({"anything"}) | NUMBERS | TEXT
    return possible_kinds(place, constraint.positives)


def ranges_of(place: Place, constraint: Constraint) -> dict[str, AxisRange]:
    """Return the range of a constraint on each axis that the constraint bounds."""
    if place[0] == "event":
        return {}
    ranges: dict[str, AxisRange] = {}
    for test in constraint.positives:
        for axis, (low, high) in _ranges(test):
            before = ranges.get(axis)
            ranges[axis] = (low, high) if before is None else (max(low, before[0]), min(high, before[1]))
    # Omit empty ranges: the proofs find that the constraint is impossible.
    return {axis: axis_range for axis, axis_range in ranges.items() if axis_range[0] <= axis_range[1]}


def _ranges(test: Test) -> Iterator[tuple[str, AxisRange]]:
    if (finite := literals_of(test)) is not None:
        yield from _ranges_of_literals(finite)
    elif type(test) is Range:
        bounds = bounds_of(test)
        yield "number", (bounds.low, bounds.high)
    elif type(test) is Cidr:
        yield "address", ((test.version, test.first), (test.version, test.last))
    elif (glob := glob_of(test)) is not None:
        # Fold the case of all texts, so that tests with ignore_case= and tests without it find each other.
        head, tail = glob.chunks[0].casefold(), glob.chunks[-1].casefold()[::-1]
        if len(glob.chunks) == 1:
            yield "text", (head, head)
            yield "reversed text", (tail, tail)
        if head and len(glob.chunks) > 1:
            yield "text", (head, _after(head))
        if tail and len(glob.chunks) > 1:
            yield "reversed text", (tail, _after(tail))


def _ranges_of_literals(values: tuple[Any, ...]) -> Iterator[tuple[str, AxisRange]]:
    found = frozenset({type(value).__name__ for value in values})
    if found <= NUMBERS:
        yield "number", (min(values), max(values))
    elif found <= TEXT:
        folded = [value.casefold() for value in values]
        backwards = [value[::-1] for value in folded]
        yield "text", (min(folded), max(folded))
        yield "reversed text", (min(backwards), max(backwards))


def _after(prefix: str) -> str:
    """Return an upper bound of the texts that start with a prefix."""
    stem = prefix.rstrip(_LAST)
    return stem[:-1] + chr(ord(stem[-1]) + 1) if stem else _LAST * (len(prefix) + 1)
