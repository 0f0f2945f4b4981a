"""Sortable unique ids."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from missive.ids import after, new_id
from tests.support import strategies

ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**48 - 1))
@strategies.examples(30)
def test_ids_sort_by_time(one, other):
    """An id is a ULID of 26 characters in Crockford's base 32, and ids sort by their milliseconds."""
    first, second = new_id(one), new_id(other)
    assert ULID.fullmatch(first)
    if one != other:
        assert (one < other) is (first < second)


def test_ids_of_one_millisecond_differ():
    """Ids of the same millisecond share the encoded time only."""
    ids = {new_id(1_700_000_000_000) for _ in range(1000)}
    assert len(ids) == 1000
    assert len({one[:10] for one in ids}) == 1


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**48 - 1))
@strategies.examples(30)
def test_after_returns_a_later_id(last_time, candidate_time):
    """The candidate is used if it sorts after the last id; otherwise the id is the successor of the last id."""
    last, candidate = new_id(last_time), new_id(candidate_time)
    result = after(last, candidate)
    assert ULID.fullmatch(result)
    assert result > last
    assert result == candidate or candidate <= last


def test_after_carries_into_the_next_digit():
    """The successor of an id that ends with the highest digit changes the digit before it."""
    assert after("01AZ", "01AZ") == "01B0"
