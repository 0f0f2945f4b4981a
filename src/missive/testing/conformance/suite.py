"""The suite as pytest sees it: a class whose `harness` fixture says what is tested."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from missive.adapters.base import Adapter
from missive.testing.conformance.catalogue import Case, CaseOutcome, all_cases
from missive.testing.conformance.driver import Driver
from missive.testing.conformance.harness import Harness
from missive.testing.conformance.table import Row, enter


async def certify(
    case: Case,
    harness: Harness,
    directory: Path,
    *,
    deep: bool = False,
    wrap: Callable[[Adapter], Adapter] | None = None,
) -> CaseOutcome:
    """Run one case. Raises `ConformanceError`, or what the adapter raised."""
    driver = Driver(harness, directory, deep=deep, wrap=wrap)
    started, outcome = time.monotonic(), CaseOutcome.failed
    try:
        harness.lanes = case.lanes
        if case.created:
            await driver.blocking(harness.create)
        outcome = await case.run(driver)
        try:
            await driver.balance()
        except BaseException:
            outcome = CaseOutcome.failed
            raise
        return outcome
    finally:
        await driver.abandon()
        if wrap is None:
            row = Row(case.number, outcome, time.monotonic() - started, driver.duplicates)
            enter(harness.name, await driver.blocking(harness.versions), driver.capabilities, row)


class Conformance:
    """Derive from it, name the class `Test…`, and give it a fixture `harness` that makes a `Harness`."""

    @pytest.mark.parametrize("case", all_cases(), ids=repr)
    def test_case(self, case: Case, harness: Harness, tmp_path: Path, request: pytest.FixtureRequest) -> None:
        """One case of the catalogue."""
        deep = bool(request.config.getoption("--deep", default=False))
        try:
            asyncio.run(certify(case, harness, tmp_path, deep=deep))
        finally:
            harness.close()
