"""Spans: what a constraint leaves of a line (of numbers, of texts, of addresses), to find those that could meet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from missive.matchers.network import Cidr
from missive.matchers.selectors import Place
from missive.matchers.tests import Range, Test
from missive.routing.intervals import GrowingIntervals
from missive.routing.normal import Constraint, literals_of
from missive.routing.proofs import bounds_of, glob_of, possible_kinds

Span: TypeAlias = tuple[Any, Any]

_LINES = ("number", "text", "reversed text", "address")
_NUMBERS, _TEXT = frozenset({"int", "float"}), frozenset({"str"})
_KINDS_ON = {"number": _NUMBERS, "text": _TEXT, "reversed text": _TEXT, "address": _TEXT}
_LAST = "\U0010ffff"


class Projection:
    """Constraints at one place, each with its span on each line that it is bound on."""

    __slots__ = ("_bound", "_loose")

    def __init__(self) -> None:
        self._bound: dict[str, GrowingIntervals[int]] = {line: GrowingIntervals() for line in _LINES}
        self._loose: dict[str, list[int]] = {line: [] for line in _LINES}

    def add(self, place: Place, constraint: Constraint, number: int) -> None:
        """Add the constraint of one member."""
        spans = spans_of(place, constraint)
        possible = _possible(place, constraint)
        for line in _LINES:
            if (span := spans.get(line)) is not None:
                self._bound[line].add(*span, number)
            elif possible & _KINDS_ON[line]:
                self._loose[line].append(number)

    def candidates(self, place: Place, constraint: Constraint) -> Iterable[int] | None:
        """Return the members whose constraints may be met together with another; None where that excludes nobody."""
        spans, possible = spans_of(place, constraint), _possible(place, constraint)
        # A line says all only where nothing beside it is possible.
        lines = [line for line in spans if possible <= _KINDS_ON[line]]
        if not lines:
            return None
        line = min(lines, key=lambda line: len(self._loose[line]))
        return self._on(line, spans[line])

    def _on(self, line: str, span: Span) -> Iterator[int]:
        yield from self._bound[line].overlapping(*span)
        yield from self._loose[line]


def _possible(place: Place, constraint: Constraint) -> frozenset[str]:
    if place[0] == "event" or not constraint.positives:
        return frozenset({"anything"}) | _NUMBERS | _TEXT
    return possible_kinds(place, constraint.positives)


def spans_of(place: Place, constraint: Constraint) -> dict[str, Span]:
    """Return, for each line that a constraint is bound on, from where to where; nothing where it may be anywhere."""
    if place[0] == "event":
        return {}
    spans: dict[str, Span] = {}
    for test in constraint.positives:
        for line, (low, high) in _spans(test):
            before = spans.get(line)
            spans[line] = (low, high) if before is None else (max(low, before[0]), min(high, before[1]))
    # An empty one is for the proofs to see.
    return {line: span for line, span in spans.items() if span[0] <= span[1]}


def _spans(test: Test) -> Iterator[tuple[str, Span]]:
    if (finite := literals_of(test)) is not None:
        yield from _spans_of_literals(finite)
    elif type(test) is Range:
        bounds = bounds_of(test)
        yield "number", (bounds.low, bounds.high)
    elif type(test) is Cidr:
        yield "address", ((test.version, test.first), (test.version, test.last))
    elif (glob := glob_of(test)) is not None:
        # Case-folded, all of them, so that those that fold and those that do not are found by each other.
        head, tail = glob.chunks[0].casefold(), glob.chunks[-1].casefold()[::-1]
        if len(glob.chunks) == 1:
            yield "text", (head, head)
            yield "reversed text", (tail, tail)
        if head and len(glob.chunks) > 1:
            yield "text", (head, _after(head))
        if tail and len(glob.chunks) > 1:
            yield "reversed text", (tail, _after(tail))


def _spans_of_literals(values: tuple[Any, ...]) -> Iterator[tuple[str, Span]]:
    found = kinds_of(values)
    if found <= _NUMBERS:
        yield "number", (min(values), max(values))
    elif found <= _TEXT:
        folded = [value.casefold() for value in values]
        backwards = [value[::-1] for value in folded]
        yield "text", (min(folded), max(folded))
        yield "reversed text", (min(backwards), max(backwards))


def kinds_of(values: tuple[Any, ...]) -> frozenset[str]:
    """Return the kinds of some literals."""
    return frozenset({type(value).__name__ for value in values})


def _after(prefix: str) -> str:
    """Return a text that is not before any that starts with a prefix."""
    stem = prefix.rstrip(_LAST)
    return stem[:-1] + chr(ord(stem[-1]) + 1) if stem else _LAST * (len(prefix) + 1)
