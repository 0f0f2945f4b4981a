"""The table of a run."""

from __future__ import annotations

import pytest

from missive.testing.conformance import table
from missive.testing.conformance.catalogue import CaseOutcome, all_cases
from missive.transport import Capabilities


def test_the_table_tells_what_was_not_run_from_what_is_not_there(monkeypatch: pytest.MonkeyPatch):
    """A case that the kit has and that was not run is `missing`; one that it does not have yet is `pending`."""
    monkeypatch.setattr(table, "_columns", {})
    first, second, *_ = [case.number for case in all_cases()]
    table.enter("mine", "Mine 1", Capabilities(), table.Row(first, CaseOutcome.passed, 0.1, 0))
    shown = {
        line.split("|")[1].split(" ")[1]: line.split("|")[2].strip()
        for line in table.render().splitlines()
        if "|" in line
    }
    assert (shown[str(first)], shown[str(second)]) == ("passed", "missing")
    there = {str(case.number) for case in all_cases()}
    assert {verdict for number, verdict in shown.items() if number.isdigit() and number not in there} <= {"pending"}
