"""The table of a run."""

from __future__ import annotations

import pytest

from missive.testing.conformance import table
from missive.testing.conformance.catalogue import CaseOutcome, all_cases
from missive.transport import Capabilities


def test_the_table_distinguishes_missing_from_pending_cases(monkeypatch: pytest.MonkeyPatch):
    """A case that the kit has but the run left out is `missing`. A case that the kit does not have is `pending`."""
    monkeypatch.setattr(table, "_columns", {})
    first, second, *_ = [case.number for case in all_cases()]
    table.enter("mine", "Mine 1", Capabilities(), table.Row(first, CaseOutcome.passed))
    shown = {
        line.split("|")[1].split(" ")[1]: line.split("|")[2].strip()
        for line in table.render().splitlines()
        if "|" in line
    }
    assert (shown[str(first)], shown[str(second)]) == ("passed", "missing")
    available = {str(case.number) for case in all_cases()}
    assert {outcome for number, outcome in shown.items() if number.isdigit() and number not in available} <= {"pending"}
