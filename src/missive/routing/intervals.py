"""Intervals: find all intervals that contain a value or overlap another interval. Nesting adds no cost."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")

_RECENT = 64


class Interval(NamedTuple, Generic[T]):
    """The values from `low` to `high`, both included, with an item."""

    low: Any
    high: Any
    item: T


class IntervalMap(Generic[T]):
    """A segment tree of intervals, immutable. A look-up takes O(log n + k) time for n intervals and k results.

    The distinct ends cut the line into points and gaps. Each interval is stored at the few nodes that together cover
    its points and gaps.
    """

    __slots__ = ("_by_low", "_ends", "_lows", "_nodes", "_width")

    def __init__(self, intervals: Sequence[Interval[T]]) -> None:
        self._ends = ends = sorted({end for one in intervals for end in (one.low, one.high)})
        self._width = 2 * len(ends) + 1
        nodes: dict[int, list[T]] = {}
        for one in intervals:
            # Leaf 2n + 1 is the point of end number n. The leaves before and after it are the gaps next to the point.
            left = 2 * bisect_left(ends, one.low) + 1 + self._width
            right = 2 * bisect_left(ends, one.high) + 2 + self._width
            while left < right:
                if left & 1:
                    nodes.setdefault(left, []).append(one.item)
                    left += 1
                if right & 1:
                    right -= 1
                    nodes.setdefault(right, []).append(one.item)
                left >>= 1
                right >>= 1
        self._nodes = {node: tuple(items) for node, items in nodes.items()}
        self._by_low = sorted(intervals, key=attrgetter("low"))
        self._lows = [one.low for one in self._by_low]

    def containing(self, value: Any) -> list[T]:
        """Return the items of the intervals that contain a value."""
        before = bisect_left(self._ends, value)
        at_end = before < len(self._ends) and self._ends[before] == value
        node = 2 * before + (1 if at_end else 0) + self._width
        nodes = self._nodes
        found: list[T] = []
        while node:
            if (items := nodes.get(node)) is not None:
                found += items
            node >>= 1
        return found

    def overlapping(self, low: Any, high: Any) -> Iterator[T]:
        """Yield the items of the intervals that overlap the range from `low` to `high`."""
        yield from self.containing(low)
        for place in range(bisect_right(self._lows, low), bisect_right(self._lows, high)):
            yield self._by_low[place].item

    @property
    def max_depth(self) -> int:
        """Largest number of intervals that contain the same value."""
        most = depth = 0
        # Where one interval ends and another begins, both contain the value.
        ends = sorted([(one.low, 0) for one in self._by_low] + [(one.high, 1) for one in self._by_low])
        for _, is_high in ends:
            depth += -1 if is_high else 1
            most = max(most, depth)
        return most

    def __iter__(self) -> Iterator[Interval[T]]:
        return iter(self._by_low)

    def __len__(self) -> int:
        return len(self._by_low)


class GrowingIntervals(Generic[T]):
    """A collection of intervals that grows: interval maps of doubling size, so that few maps are rebuilt."""

    __slots__ = ("_maps", "_recent")

    def __init__(self) -> None:
        self._maps: list[IntervalMap[T]] = []
        self._recent: list[Interval[T]] = []

    def add(self, low: Any, high: Any, item: T) -> None:
        """Add an interval."""
        self._recent.append(Interval(low, high, item))
        if len(self._recent) < _RECENT:
            return
        together = self._recent
        while self._maps and len(self._maps[-1]) <= len(together):
            together = [*self._maps.pop(), *together]
        self._maps.append(IntervalMap(together))
        self._recent = []

    def overlapping(self, low: Any, high: Any) -> Iterable[T]:
        """Yield the items of the intervals that overlap the range from `low` to `high`."""
        for one in self._maps:
            yield from one.overlapping(low, high)
        for recent in self._recent:
            if recent.low <= high and low <= recent.high:
                yield recent.item
