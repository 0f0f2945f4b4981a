"""Deleting records for good."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from missive.dlq.contract import Query, Store
from missive.dlq.record import Status

_AT_ONCE = 1000


def purge(store: Store, statuses: Collection[Status], ids: Sequence[str]) -> int:
    """Delete chosen records that still have one of some statuses, in small transactions; returns how many.

    What was restored or chosen for a replay since is left. Cut short, what is deleted is, and the rest is there.
    """
    return sum(
        store.purge(Query(ids=tuple(ids[start : start + _AT_ONCE]), statuses=tuple(statuses)), _AT_ONCE)
        for start in range(0, len(ids), _AT_ONCE)
    )
