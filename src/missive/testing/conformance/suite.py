"""The suite for pytest: a class whose `harness` fixture supplies the transport under test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from missive.adapters.base import Adapter
from missive.testing.conformance.balance import balance
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
    """Run one case, and enter its outcome in the table unless `wrap` replaces the adapter.

    Raise `ConformanceError` when the adapter fails the case, or an error of the adapter.
    """
    driver = Driver(harness, directory, deep=deep, wrap=wrap)
    outcome = CaseOutcome.failed
    try:
        harness.lanes = case.lanes
        if case.created:
            await driver.in_thread(harness.create)
        ended = await case.run(driver)
        await balance(driver)
        outcome = ended
        return outcome
    finally:
        await driver.close_all(Exception)
        if wrap is None:
            row = Row(case.number, outcome)
            enter(harness.name, await driver.in_thread(harness.versions), driver.capabilities, row)


class Conformance:
    """The base of a test class. Name the class `Test…` and give it a fixture `harness` that returns a `Harness`."""

    @pytest.mark.parametrize("case", all_cases(), ids=repr)
    def test_case(self, case: Case, harness: Harness, tmp_path: Path, request: pytest.FixtureRequest) -> None:
        """Run one case of the catalogue."""
        deep = bool(request.config.getoption("--deep", default=False))
        try:
            asyncio.run(certify(case, harness, tmp_path, deep=deep))
        finally:
            harness.close()
