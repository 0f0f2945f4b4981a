"""Purges: records deleted from the store."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from missive.dlq.contract import Query, Store
from missive.dlq.record import Status

_BATCH = 1000
"""Number of records that one transaction deletes."""


def purge_records(store: Store, statuses: Collection[Status], ids: Sequence[str]) -> int:
    """Delete the chosen records that still have one of the given statuses. Return how many were deleted.

    Records that were restored or chosen for a replay since stay. An interrupted purge has deleted some records and
    left the others unchanged.
    """
    return sum(
        store.purge(Query(ids=tuple(ids[start : start + _BATCH]), statuses=tuple(statuses)), _BATCH)
        for start in range(0, len(ids), _BATCH)
    )
