"""Watching: new failures, each shown once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from missive.dlq import Query
from missive.dlq.sql import SQLStore
from missive.ids import new_id
from missive.operations.watch import watch_failures
from tests.support.stores import Clock, record


def test_each_new_failure_is_yielded_once(store: SQLStore, clock: Clock):
    """Failures come oldest first, including late ones, and a record that fails again is yielded again."""
    store.put([record(last_at=clock.now - 1)])
    one, late = record(last_at=clock.now + 3, identity="i", may_join=True), record(last_at=clock.now + 1)
    again = replace(one, id=new_id(), last_at=clock.now + 4)
    steps = iter([[one], [late, record(last_at=clock.now + 3, service="other")], [], [again], None])

    class Stopped(Exception):
        pass

    def sleep(seconds: float) -> None:
        clock.now += seconds
        if (records := next(steps)) is None:
            raise Stopped
        store.put(records)

    seen = []

    def watch() -> None:
        found = watch_failures(store, Query(service="shop"), 1.0, clock=clock, sleep=sleep)
        seen.extend((each.id, each.attempts) for each in found)

    with pytest.raises(Stopped):
        watch()
    assert seen == [(one.id, 1), (late.id, 1), (one.id, 2)]


def test_a_clock_that_is_set_back_hides_no_failure(store: SQLStore, clock: Clock):
    """A failure at the new, earlier time is yielded."""
    late = record(last_at=clock.now - 500)

    def sleep(seconds: float) -> None:
        clock.now -= 600
        store.put([late])

    watched = watch_failures(store, Query(), 1.0, clock=clock, sleep=sleep)
    assert next(watched).id == late.id
