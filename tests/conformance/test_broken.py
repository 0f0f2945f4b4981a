"""The kit catches adapters that are broken on purpose."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from missive.testing.conformance import ConformanceError, Verdict, cases, certify
from missive.testing.conformance.broken import BROKEN, BrokenAdapter
from tests.conformance.test_sqlite import SQLiteHarness


@pytest.mark.parametrize("broken", BROKEN, ids=lambda kind: kind.__name__)
def test_a_broken_adapter_is_caught(broken: type[BrokenAdapter], tmp_path: Path):
    """Each fails in the case that is named for it, which the adapter inside it passes."""
    (case,) = [case for case in cases() if case.number == broken.caught_by]
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    good = certify(case, SQLiteHarness(tmp_path / "good"), tmp_path / "good")
    assert asyncio.run(good) is Verdict.passed
    with pytest.raises(ConformanceError):
        asyncio.run(certify(case, SQLiteHarness(tmp_path / "bad"), tmp_path / "bad", wrap=broken))
