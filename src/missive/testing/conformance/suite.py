"""The suite as pytest sees it: a class whose `harness` fixture says what is tested."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from missive.adapters.base import Adapter
from missive.testing.conformance.catalogue import Case, CaseOutcome, cases
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
    bench = Driver(harness, directory, deep=deep, wrap=wrap)
    started, verdict = time.monotonic(), CaseOutcome.failed
    try:
        harness.lanes = case.lanes
        if case.created:
            await bench.blocking(harness.create)
        verdict = await case.run(bench)
        try:
            await bench.balance()
        except BaseException:
            verdict = CaseOutcome.failed
            raise
        return verdict
    finally:
        await bench.abandon()
        if wrap is None:
            row = Row(case.number, verdict, time.monotonic() - started, bench.duplicates)
            enter(harness.name, await bench.blocking(harness.versions), bench.capabilities, row)


class Conformance:
    """Derive from it, name the class `Test…`, and give it a fixture `harness` that makes a `Harness`."""

    @pytest.mark.parametrize("case", cases(), ids=repr)
    def test_case(self, case: Case, harness: Harness, tmp_path: Path, request: pytest.FixtureRequest) -> None:
        """One case of the catalogue."""
        deep = bool(request.config.getoption("--deep", default=False))
        try:
            asyncio.run(certify(case, harness, tmp_path, deep=deep))
        finally:
            harness.close()
