"""Bounds: numeric ranges with open or closed ends, their intersections and differences."""

from __future__ import annotations

import math

import msgspec

from missive.matchers.tests import AnythingBut, Range
from missive.routing.normal import Constraint

_MAX_RANGES = 200
"""Number of excluded ranges that are subtracted from a constraint."""


class Bounds(msgspec.Struct, frozen=True):
    """The two ends of a range, each included or excluded."""

    low: float
    high: float
    low_in: bool
    high_in: bool

    def intersection(self, other: Bounds) -> Bounds | None:
        """Return the range that is in both, or None where they do not meet."""
        low, high = max(self.low, other.low), min(self.high, other.high)
        low_in = all(one.low_in or one.low < low for one in (self, other))
        high_in = all(one.high_in or one.high > high for one in (self, other))
        return Bounds(low, high, low_in, high_in) if low < high or (low == high and low_in and high_in) else None

    def within(self, other: Bounds) -> bool:
        """Return whether the other range contains this one."""
        low = self.low > other.low or (self.low == other.low and (other.low_in or not self.low_in))
        return low and (self.high < other.high or (self.high == other.high and (other.high_in or not self.high_in)))


def bounds_of(test: Range) -> Bounds:
    """Return the ends of a range. An end that the test does not declare is infinite and included."""
    low = test.ge if test.gt is None else test.gt
    high = test.le if test.lt is None else test.lt
    return Bounds(
        -math.inf if low is None else low, math.inf if high is None else high, test.gt is None, test.lt is None
    )


def number_ranges(constraint: Constraint) -> list[Bounds] | None:
    """Return the ranges of numbers that can meet a constraint, or None where the constraint has no positive range."""
    ranges = [bounds_of(test) for test in constraint.positives if type(test) is Range]
    if not ranges:
        return None
    left = ranges[:1]
    for wanted in ranges[1:]:
        left = [both for one in left if (both := one.intersection(wanted)) is not None]
    excluded = [*constraint.negatives, *(test.test for test in constraint.positives if type(test) is AnythingBut)]
    for test in [test for test in excluded if type(test) is Range][:_MAX_RANGES]:
        hole = bounds_of(test)
        below = Bounds(-math.inf, hole.low, low_in=True, high_in=not hole.low_in)
        above = Bounds(hole.high, math.inf, low_in=not hole.high_in, high_in=True)
        left = [both for one in left for rest in (below, above) if (both := one.intersection(rest)) is not None]
    return left
