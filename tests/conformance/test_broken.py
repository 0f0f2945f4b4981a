"""The conformance kit catches adapters that are broken on purpose."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from missive.testing.conformance import CaseOutcome, ConformanceError, all_cases, certify
from missive.testing.conformance.broken import BROKEN, BrokenAdapter
from tests.conformance.test_sqlite import SQLiteHarness

CAUGHT = [
    pytest.param(broken, number, id=f"{broken.__name__}-{number}") for broken in BROKEN for number in broken.caught_by
]


class QuickHarness(SQLiteHarness):
    redelivery_seconds = 3.0


@pytest.mark.parametrize(("broken", "number"), CAUGHT)
def test_a_broken_adapter_is_caught(broken: type[BrokenAdapter], number: int, tmp_path: Path):
    """Each broken adapter fails the cases that it names, and the correct adapter inside passes them."""
    (case,) = [case for case in all_cases() if case.number == number]
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    good = certify(case, QuickHarness(tmp_path / "good"), tmp_path / "good")
    assert asyncio.run(good) is CaseOutcome.passed
    with pytest.raises(ConformanceError):
        asyncio.run(certify(case, QuickHarness(tmp_path / "bad"), tmp_path / "bad", wrap=broken))
