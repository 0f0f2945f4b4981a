"""The check: figures, pairs of handlers, and limits of a report."""

from __future__ import annotations

import json
from itertools import combinations

import pytest

from missive import JSONMessage, Processor
from missive import matchers as all_matchers
from missive.matchers import (
    Field,
    Header,
    OneOf,
    Prefix,
    Suffix,
)
from missive.routing import check as checking
from tests.support.routing import (
    BIG,
    LARGE,
    NAMES,
    PAID,
    PLACED,
    SWEDISH,
    nothing,
    opaque,
    part_of,
    predicate,
    processor,
    recorded_warnings,
)


def test_check_of_no_handlers():
    """A processor without handlers has an empty report."""
    assert Processor().check().to_dict() == {
        "handlers": 0,
        "shapes": {},
        "largest_bucket": 0,
        "residual": [],
        "too_wide": [],
        "overlaps": [],
        "unknown": [],
        "overlap_count": 0,
        "unknown_count": 0,
        "complete": True,
    }


def test_check_fills_all_fields():
    """A check counts and names handlers, keys, buckets and pairs, including handlers of included processors."""
    part = part_of(PLACED & SWEDISH, Header("h", "1"))
    proc = processor(PLACED & LARGE, PLACED & BIG, opaque, on_overlap="ignore")
    proc.include(part, when=PLACED)
    report = proc.check()
    assert (report.handlers, report.largest_bucket, report.residual, report.too_wide) == (5, 2, ("c",), ())
    assert report.shapes == {
        "Field('type')": 1,
        "Field('country') & Field('type')": 1,
        "Field('type') & Header('h')": 1,
    }
    assert [*combinations(["a", "b", "p0", "p1"], 2)] == sorted(pair[:2] for pair in report.overlaps)
    by_name = {route.name: route.matcher for route in proc.routes()}
    for one, other, message in report.overlaps:
        shown = eval(message, dict(NAMES))
        assert by_name[one](shown)
        assert by_name[other](shown)
    assert sorted(report.unknown) == [("a", "c"), ("b", "c"), ("c", "p0"), ("c", "p1")]
    assert (report.overlap_count, report.unknown_count, report.complete) == (6, 4, True)
    data = report.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert [{"handlers": list(pair[:2]), "message": pair[2]} for pair in report.overlaps] == data["overlaps"]


def test_check_can_be_repeated_and_changes_nothing():
    """A check issues no warning, gives the same report again, and registration continues after it."""
    proc = processor(PLACED & LARGE, PLACED & SWEDISH, on_overlap="ignore")
    with recorded_warnings() as recorded:
        assert proc.check() == proc.check()
    proc.handle_for(PAID)(nothing)
    assert (recorded, proc.check().handlers) == ([], 3)


def test_check_names_wide_matchers():
    """A check names a matcher with too many alternatives. `OneOf` with many literals is not too wide."""
    proc = Processor(JSONMessage, on_overlap="ignore")
    wide = [Field(f"f{n}", Prefix("x")) | Field(f"g{n}", Suffix("y")) for n in range(8)]
    with recorded_warnings():
        proc.handle_for(PLACED & wide[0] & all_matchers.And(*wide[1:]), name="wide")(nothing)
    proc.handle_for(PAID & Field("n", OneOf(*range(1000))), name="listed")(nothing)
    report = proc.check()
    assert (report.too_wide, report.residual) == (("wide",), ())
    assert "  too many alternatives: wide" in str(report).splitlines()


def test_incomplete_check_is_marked(monkeypatch):
    """When a check reaches its limit of comparisons, `complete` is false and the counts say `or more`."""
    proc = processor(*(Field("n", OneOf(n, 9)) for n in range(8)), on_overlap="ignore")
    assert (proc.check().overlap_count, proc.check().complete) == (28, True)
    monkeypatch.setattr(checking, "_MAX_COMPARISONS", 5)
    report = proc.check()
    assert not report.complete
    assert 0 < report.overlap_count < 28
    assert f"{report.overlap_count} or more overlaps, 0 or more unknown pairs" in str(report)


@pytest.mark.parametrize(("make", "counted"), [(lambda n: Field("n", OneOf(n, -1)), "overlap"), (predicate, "unknown")])
def test_check_lists_a_hundred_pairs(make, counted):
    """A check lists 100 pairs and counts the others."""
    proc = Processor(JSONMessage, on_overlap="ignore")
    for n in range(16):
        proc.add_handler(make(n), nothing)
    report = proc.check()
    assert len({"overlap": report.overlaps, "unknown": report.unknown}[counted]) == 100
    assert {"overlap": report.overlap_count, "unknown": report.unknown_count}[counted] == 120
