"""A watch: new failures, as they reach the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from missive.dlq.contract import Query, Store
from missive.dlq.record import Record
from missive.operations.outages import survive

_LATE = 10.0
"""Longest expected time from a failure to its record in the store, in seconds."""


def watch_failures(
    store: Store,
    query: Query,
    seconds: float,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Record]:
    """Yield each record of a query that fails from now on, once for each failure, oldest first.

    Query the store every `seconds`. The iterator never ends.
    """
    began = clock()
    seen: dict[tuple[str, int], float] = {}
    while True:
        now = clock()
        began = min(began, now)  # the clock may be set back
        after = max(began, now - _LATE - seconds)
        if query.last_after is not None:
            after = max(after, query.last_after)
        asked = replace(query, last_after=after)
        found = survive(lambda: list(store.query(asked)), sleep)  # noqa: B023 - called at once
        for record in sorted(found, key=lambda one: (one.last_at, one.id)):
            if (record.id, record.attempts) not in seen:
                seen[record.id, record.attempts] = record.last_at
                yield record
        seen = {failure: at for failure, at in seen.items() if at > after}
        sleep(seconds)
