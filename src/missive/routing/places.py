"""The index of one place: find the items whose test the value at this place can pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from missive.matchers.network import Cidr, address
from missive.matchers.tests import Absent, Range, Some, Test
from missive.matchers.topics import TopicPattern
from missive.matchers.values import Scalar
from missive.routing.bounds import bounds_of
from missive.routing.globs import glob_of
from missive.routing.intervals import Interval, IntervalMap
from missive.routing.normal import DIALECTS, literals_of
from missive.routing.topics import TopicTrie

Items: TypeAlias = int | list[int]
"""One item or several. Most literals belong to one handler; a list for each literal would double the memory."""

EQUAL, NARROW, PRESENT, NEVER = 3, 2, 1, 0
"""Selectivity of a test, from a few literals down to a test that cannot be looked up."""


def selectivity(test: Test) -> int:
    """Return how a test is looked up: by its literals, by a part of the value, by presence alone, or not at all."""
    # Compare exact types: a user's subclass may have another meaning.
    if literals_of(test) is not None or (type(test) is Some and literals_of(test.test) is not None):
        return EQUAL
    if type(test) in (Range, Cidr, *DIALECTS):
        return NARROW
    glob = glob_of(test)
    if glob is not None and (glob.chunks[0] or glob.chunks[-1]):
        return NARROW
    # Like Absent, a user's test may accept a missing value.
    return NEVER if isinstance(test, Absent) or test.on_missing else PRESENT


class PlaceIndex:
    """Items, indexed by their tests on the value at one place. Add all items, then call `seal`, then `find`."""

    __slots__ = (
        "_addresses",
        "_by_end",
        "_count",
        "_elements",
        "_ends",
        "_equal",
        "_intervals",
        "_last",
        "_more",
        "_present",
        "_ranges",
        "_tries",
    )

    def __init__(self) -> None:
        self._equal: dict[Scalar, Items] = {}
        self._elements: dict[Scalar, Items] = {}
        self._present: list[int] = []
        # Keys: whether the case is folded, whether the text is the head of the value; then the length of the text.
        self._by_end: dict[tuple[bool, bool], dict[int, dict[str, Items]]] = {}
        self._ends: list[tuple[bool, bool, list[tuple[int, dict[str, Items]]]]] = []
        self._ranges: list[Interval[int]] = []
        self._intervals: IntervalMap[int] | None = None
        self._addresses: dict[tuple[int, int], dict[int, Items]] = {}
        self._tries: dict[type[TopicPattern], TopicTrie] = {}
        self._more = False
        self._count = 0
        self._last: int | None = None

    def add(self, test: Test, item: int) -> None:
        """Add an item with a test. Add all tests of an item before the next item."""
        if item != self._last:
            self._count, self._last = self._count + 1, item
        if (literals := literals_of(test)) is not None:
            for literal in literals:
                insert(self._equal, literal, item)
        elif type(test) is Some and (literals := literals_of(test.test)) is not None:
            for literal in literals:
                insert(self._elements, literal, item)
        elif type(test) is Range:
            bounds = bounds_of(test)
            self._ranges.append(Interval(bounds.low, bounds.high, item))
        elif type(test) is Cidr:
            spare = (32 if test.version == 4 else 128) - test.prefix_length  # noqa: PLR2004 - IP's versions
            insert(self._addresses.setdefault((test.version, spare), {}), test.first >> spare, item)
        elif isinstance(test, DIALECTS) and type(test) in DIALECTS:
            self._tries.setdefault(type(test), TopicTrie(test.separator)).add(test, item)
        else:
            self._add_text(test, item)

    def _add_text(self, test: Test, item: int) -> None:
        glob = glob_of(test)
        if glob is not None and (glob.chunks[0] or glob.chunks[-1]):
            at_head = bool(glob.chunks[0])
            text = glob.chunks[0] if at_head else glob.chunks[-1]
            by_length = self._by_end.setdefault((glob.folded, at_head), {})
            insert(by_length.setdefault(len(text), {}), text, item)
        else:
            self._present.append(item)

    def seal(self) -> None:
        """Build the structures that need all items."""
        self._intervals = IntervalMap(self._ranges) if self._ranges else None
        self._ranges = []
        self._ends = [(*end, sorted(by_length.items(), key=_length)) for end, by_length in self._by_end.items()]
        self._more = bool(
            self._present or self._elements or self._intervals or self._ends or self._addresses or self._tries
        )

    def _tables(self) -> Iterator[dict[Any, Items]]:
        yield self._equal
        yield self._elements
        yield from self._addresses.values()
        for by_length in self._by_end.values():
            yield from by_length.values()

    @property
    def unique(self) -> dict[str, int]:
        """The strings that lead to exactly one item. Empty where the index has tests other than literals."""
        if self._more:
            return {}
        return {key: item for key, item in self._equal.items() if type(key) is str and isinstance(item, int)}

    @property
    def largest_bucket(self) -> int:
        """Largest number of items for one literal, one number, one network or one pattern, or for presence alone."""
        sizes = [len(items) if isinstance(items, list) else 1 for table in self._tables() for items in table.values()]
        if self._intervals is not None:
            sizes.append(self._intervals.max_depth)
        return max([len(self._present), *sizes, *(trie.largest_bucket for trie in self._tries.values())])

    def __len__(self) -> int:
        rest = (self._intervals or (), self._present, *self._tries.values())
        return sum(map(len, self._tables())) + sum(map(len, rest))

    def find(self, value: Any, found: list[int]) -> None:
        """Append to `found` all items whose test the value passes, and perhaps others."""
        if self._equal:
            try:
                items = self._equal.get(value)
            except (TypeError, ValueError):  # a list or an object has no hash
                items = None
            if items is not None:
                collect(items, found)
        if self._more:
            found += self._present
            self._find_more(value, found)

    def find_among(self, values: Sequence[Any], found: list[int]) -> None:
        """Append to `found`, once each, all items whose test one of the values passes, and perhaps others."""
        several = set(self._present)
        for value in values:
            few: list[int] = []
            try:
                items = self._equal.get(value)
            except (TypeError, ValueError):  # no hash
                items = None
            if items is not None:
                collect(items, few)
            if self._more:
                self._find_more(value, few)
            several.update(few)
            if len(several) == self._count:
                break
        found += several

    def _find_more(self, value: Any, found: list[int]) -> None:
        if isinstance(value, str):
            if self._ends:
                self._find_ends(value, found)
            for trie in self._tries.values():
                found += trie.find(value)
            if self._addresses:
                self._find_address(value, found)
        elif isinstance(value, (int, float)):
            # A boolean is a number in Python; the range itself refuses it. NaN has no order among the numbers.
            if self._intervals is not None and value == value:  # noqa: PLR0124 - see above
                found += self._intervals.containing(value)
        elif self._elements and isinstance(value, (list, tuple)):
            self._find_elements(value, found)

    def _find_ends(self, value: str, found: list[int]) -> None:
        for folded, at_head, by_length in self._ends:
            text = value.casefold() if folded else value
            size = len(text)
            for length, table in by_length:
                if length > size:
                    break
                items = table.get(text[:length] if at_head else text[size - length :])
                if items is not None:
                    collect(items, found)

    def _find_address(self, value: str, found: list[int]) -> None:
        if (parsed := address(value)) is None:
            return
        version, number = parsed
        for (of, spare), networks in self._addresses.items():
            if of == version and (items := networks.get(number >> spare)) is not None:
                collect(items, found)

    def _find_elements(self, value: list[Any] | tuple[Any, ...], found: list[int]) -> None:
        wanted: dict[Any, None] = {}
        for element in value:
            try:
                if element in self._elements:
                    wanted[element] = None
            except (TypeError, ValueError):  # no hash
                continue
        for element in wanted:
            collect(self._elements[element], found)


def insert(table: dict[Any, Items], key: Any, item: int) -> None:
    """Add an item under a key, unless the key has this item already."""
    before = table.get(key)
    if before is None:
        table[key] = item
    elif isinstance(before, list):
        # The alternatives of a handler are added in sequence, so only the last item can be the same.
        if before[-1] != item:
            before.append(item)
    elif before != item:
        table[key] = [before, item]


def collect(items: Items, found: list[int]) -> None:
    """Append the items of a key to `found`."""
    if isinstance(items, list):
        found += items
    else:
        found.append(items)


def _length(one: tuple[int, object]) -> int:
    return one[0]
