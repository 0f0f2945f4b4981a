"""The vocabulary of the adapter contract."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive.transport import CONTRACT_VERSION, ContractVersion, Credit, Delivery


@given(st.lists(st.integers(0, 9), max_size=9), st.integers(0, 9), st.integers(0, 40))
def test_credit_counts_the_leading_deliveries_that_fit(sizes: list[int], items: int, most: int):
    """Each counted delivery starts with bytes left, unless all deliveries fit; no further delivery could be counted."""
    credit, deliveries = Credit(items, most), [Delivery(bytes(size)) for size in sizes]
    count = credit.count_fitting(deliveries)
    assert count <= min(items, len(sizes))
    assert sum(sizes) <= most or all(sum(sizes[:number]) < most for number in range(count))
    if count < min(items, len(sizes)):
        assert sum(sizes[:count]) >= most


@pytest.mark.parametrize(
    ("declared", "accepted"),
    [((2, 3), True), ((2, 0), True), ((2, 4), False), ((1, 9), False), ((3, 0), False)],
    ids=["equal", "older minor", "newer minor", "older major", "newer major"],
)
def test_contract_version_accepts_the_same_major_and_older_minors(declared: tuple[int, int], accepted: bool):
    """Minor versions add features and major versions break adapters."""
    assert ContractVersion(2, 3).accepts(ContractVersion(*declared)) is accepted


def test_contract_version_is_printed_with_a_dot():
    """Errors show the version as MAJOR.MINOR."""
    assert str(CONTRACT_VERSION) == f"{CONTRACT_VERSION.major}.{CONTRACT_VERSION.minor}"
