"""Orphans: stored records whose handler is not registered in this process."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from missive.app.processor import Processor
from missive.dlq.contract import RecordLease
from missive.dlq.record import Record

LOOK_AGAIN = 30.0
"""Longest time for which an orphan is left before a worker looks again, in seconds."""
_STORED_LENGTH = 255
"""Length of the names of handlers in a store, in characters."""

logger = logging.getLogger("missive")


class Orphans:
    """Finds the orphans among leased records, and reports each handler that is missing."""

    def __init__(self, processor: Processor[Any], service: str) -> None:
        names = processor.registry.names
        self._known = {name[:_STORED_LENGTH] for name in (*names.names, *names.aliases)}
        self._orphan_after = processor.orphan_after
        self._service = service
        self._reported: set[str] = set()

    def sort(self, leases: Sequence[RecordLease], now: float) -> tuple[list[RecordLease], list[str], float]:
        """Return the records that can run or end, the ids of the orphans to leave, and until when to leave them.

        An orphan that has been left for long enough ends: its record is marked as an orphan.
        """
        ready: list[RecordLease] = []
        left: dict[str, list[Record]] = {}
        due = now + LOOK_AGAIN
        for lease in leases:
            record, name = lease.record, lease.record.assigned or lease.record.handler
            if name is None or name[:_STORED_LENGTH] in self._known:
                ready.append(lease)
                continue
            ends = (now if record.orphaned_at is None else record.orphaned_at) + self._orphan_after
            if ends <= now:
                ready.append(RecordLease(replace(record, is_orphan=True), lease.token))
            else:
                left.setdefault(name, []).append(record)
                due = min(due, ends)
        for name, records in left.items():
            self._report(name, records)
        return ready, [record.id for records in left.values() for record in records], due

    def _report(self, name: str, records: Sequence[Record]) -> None:
        """Report a missing handler, once in this session and for records that no worker has reported."""
        if name in self._reported and all(record.orphaned_at is not None for record in records):
            return
        self._reported.add(name)
        logger.warning(
            "%d waiting records of %s have the handler %r, which is not registered here (the first is %s), and become"
            " dead as unmatched after %g s. Add the name to aliases= of its successor, or use missive dlq reroute",
            len(records),
            self._service,
            name,
            records[0].id,
            self._orphan_after,
        )
