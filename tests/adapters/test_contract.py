"""The adapters' contract: what it works out for them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from missive.transport import Credit, Delivery


@given(st.lists(st.integers(0, 9), max_size=9), st.integers(0, 9), st.integers(0, 40))
def test_a_credit_covers_the_most_that_begin_within_it(sizes: list[int], items: int, most: int):
    """Each that is covered begins with bytes left, unless all fit, and one more would be too many or begin without."""
    credit, deliveries = Credit(items, most), [Delivery(bytes(size)) for size in sizes]
    count = credit.covers(deliveries)
    assert count <= min(items, len(sizes))
    assert sum(sizes) <= most or all(sum(sizes[:number]) < most for number in range(count))
    if count < min(items, len(sizes)):
        assert sum(sizes[:count]) >= most
