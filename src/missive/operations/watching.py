"""Dead letters as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from missive.dlq.contract import Query, Store
from missive.dlq.record import Record

_LATE = 10.0
"""In seconds: a record may be in the store so long after the time that it says it failed at."""


def watch(
    store: Store,
    query: Query,
    seconds: float,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Record]:
    """Yield what fails from now on, the oldest first, each failure once; looks again every `seconds`. Never ends."""
    began = clock()
    seen: dict[tuple[str, int], float] = {}
    while True:
        now = clock()
        began = min(began, now)  # it may be set back
        after = max(began, now - _LATE - seconds)
        if query.last_after is not None:
            after = max(after, query.last_after)
        for record in sorted(store.query(replace(query, last_after=after)), key=lambda one: (one.last_at, one.id)):
            if (record.id, record.attempts) not in seen:
                seen[record.id, record.attempts] = record.last_at
                yield record
        seen = {failure: at for failure, at in seen.items() if at > after}
        sleep(seconds)
