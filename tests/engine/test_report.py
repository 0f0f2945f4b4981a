"""Reports: JSON and addition."""

from __future__ import annotations

import json

from missive.engine.report import Report


def test_a_report_survives_json():
    """A report that is written as JSON and read again has equal counts, and reports can be added."""
    report = Report()
    report.handled.update(a=1, b=2)
    report.discarded.update(a=3)
    report.dead.update(failed=4)
    report.retried, report.nacked, report.redelivered, report.released, report.unsettled = range(5, 10)
    copy = Report.from_dict(json.loads(json.dumps(report.to_dict())))
    assert copy.to_dict() == report.to_dict()
    copy.add(report)
    assert (copy.handled["b"], copy.dead["failed"], copy.unsettled) == (4, 8, 18)
