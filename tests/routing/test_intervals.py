"""Intervals: the results are the same as with a linear scan, at a lower cost."""

from __future__ import annotations

from collections import Counter
from functools import total_ordering
from math import log2
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive.matchers import Range
from missive.routing import intervals
from missive.routing.intervals import GrowingIntervals, Interval, IntervalMap
from missive.routing.places import PlaceIndex
from tests.support.strategies import HUGE, examples, numbers, ranges

INFINITY = float("inf")
lines = st.sampled_from(
    [
        st.one_of(st.integers(-4, 4), numbers, st.sampled_from([INFINITY, -INFINITY, 2**53 + 1, float(2**53)])),
        st.text("ab\U0010ffff", max_size=3),
        st.tuples(st.sampled_from([4, 6]), st.integers(0, 3)),
    ]
)


@st.composite
def several(draw: st.DrawFn, least: int = 0) -> tuple[list[Interval[int]], list[tuple[object, object]]]:
    """Return intervals on one line, and others to look up, none of them empty."""
    line = draw(lines)
    pairs = st.tuples(line, line).map(lambda ends: (min(ends), max(ends)))
    made = draw(st.lists(pairs, min_size=least, max_size=12))
    return [Interval(*ends, item) for item, ends in enumerate(made)], draw(st.lists(pairs, min_size=1, max_size=6))


def containing(made, value):
    """Return the items of the intervals that contain a value, by a linear scan."""
    return Counter(one.item for one in made if one.low <= value <= one.high)


def overlapping(made, low, high):
    """Return the items of the intervals that overlap another, by a linear scan."""
    return Counter(one.item for one in made if one.low <= high and low <= one.high)


@given(several())
@examples(150)
def test_map_agrees_with_a_linear_scan(drawn):
    """A map finds, once each, the intervals that contain a value or overlap a range of numbers, texts or addresses."""
    made, looked_up = drawn
    index = IntervalMap(made)
    values = [end for pair in looked_up for end in pair] + [end for one in made for end in (one.low, one.high)]
    for value in values:
        assert containing(made, value) == Counter(index.containing(value))
    for low, high in [*looked_up, *((one.low, one.high) for one in made)]:
        assert overlapping(made, low, high) == Counter(index.overlapping(low, high))
    assert (len(made), max([0, *(len(index.containing(value)) for value in values)])) == (len(index), index.max_depth)
    assert sorted(made, key=lambda one: one.low) == list(index)


@given(several(), st.integers(1, 4))
@examples(100)
def test_growing_intervals_agree_with_a_linear_scan(drawn, recent):
    """After each addition, exactly the intervals added before are found, once each."""
    made, looked_up = drawn
    with mock.patch.object(intervals, "_RECENT", recent):
        growing = GrowingIntervals()
        for number in range(len(made) + 1):
            for low, high in looked_up:
                assert overlapping(made[:number], low, high) == Counter(growing.overlapping(low, high))
            if number < len(made):
                growing.add(*made[number])


@given(st.lists(ranges() | st.sampled_from([Range(gt=INFINITY), Range(lt=-INFINITY)]), max_size=8), st.data())
@examples(150)
def test_number_finds_its_ranges(tests, data):
    """A number finds all ranges that contain it, open, closed or unbounded. Other results are ranges that end there."""
    index, found = PlaceIndex(), []
    for item, test in enumerate(tests):
        index.add(test, item)
    index.seal()
    ends = [end for test in tests for end in (test.gt, test.ge, test.lt, test.le) if end is not None]
    value = data.draw(st.one_of(numbers, st.floats(), st.sampled_from([*ends, 2**4000, INFINITY, -INFINITY, True])))
    index.find(value, found)
    assert len(found) == len(set(found))
    assert {item for item, test in enumerate(tests) if test(value)} <= set(found)
    for item in found:
        assert tests[item](value) or value is True or value in (tests[item].gt, tests[item].lt)


@pytest.mark.parametrize("value", [float("nan"), "1", b"1", None, [1], (1,), {}])
def test_other_values_find_no_range(value):
    """NaN, text, null, lists and objects find no range, and raise no exception."""
    index, found = PlaceIndex(), []
    for item, test in enumerate([Range(ge=-INFINITY), Range(le=INFINITY), Range(gt=0, lt=2)]):
        index.add(test, item)
    index.seal()
    index.find(value, found)
    assert found == []


@pytest.mark.parametrize("number", [HUGE, -HUGE, 2**4000, 2**53, float(2**53)])
def test_large_numbers_are_compared_exactly(number):
    """Integers that a float cannot represent are distinguished from their neighbours and from infinity."""
    around = range(int(number) - 2, int(number) + 3)
    index = IntervalMap([*(Interval(n, n, n) for n in around), Interval(-INFINITY, INFINITY, None)])
    for n in around:
        assert Counter([n, None]) == Counter(index.containing(n))
    assert Counter([int(number), None]) == Counter(index.containing(number))


@total_ordering
class Counted:
    """A number that counts the comparisons of its class."""

    compared = 0

    def __init__(self, number):
        self.number = number

    def __hash__(self):
        return hash(self.number)

    def __eq__(self, other):
        Counted.compared += 1
        return self.number == other.number

    def __lt__(self, other):
        Counted.compared += 1
        return self.number < other.number


SIZE = 2**11


@pytest.mark.parametrize(
    "ends",
    [
        lambda n: (n, 4 * SIZE - n),
        lambda n: (2 * n, 2 * n + 1),
        lambda n: (0, n),
        lambda n: (n // 64, n // 64),
    ],
    ids=["nested", "adjacent", "from one start", "many equal"],
)
def test_look_up_takes_logarithmic_time(ends):
    """A look-up among thousands of intervals takes few comparisons, however the intervals nest."""
    made = [Interval(*map(Counted, ends(n)), n) for n in range(SIZE)]
    index = IntervalMap(made)
    for value in (-1, 0, 1, SIZE // 2, SIZE, 2 * SIZE, 5 * SIZE):
        expected, looked_up = containing(made, Counted(value)), Counted(value)
        Counted.compared = 0
        assert expected == Counter(index.containing(looked_up))
        assert expected == Counter(index.overlapping(looked_up, looked_up))
        assert Counted.compared < 6 * log2(4 * SIZE)


def test_growing_intervals_rebuild_few_maps():
    """Each interval is built into a logarithmic number of maps, so that adding many intervals is cheap."""
    growing, count, built = GrowingIntervals(), 4000, []

    def making(together):
        built.append(len(together))
        return IntervalMap(together)

    with mock.patch.object(intervals, "IntervalMap", making):
        for n in range(count):
            growing.add(n, n + 1, n)
    assert sum(built) < count * log2(count)
    assert sorted(growing.overlapping(2000, 2001)) == [1999, 2000, 2001]
    assert set(range(count)) == set(growing.overlapping(-INFINITY, INFINITY))
