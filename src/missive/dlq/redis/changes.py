"""Changes of records by operators. Each change of up to 500 records is one step on the server."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace

from missive.dlq.contract import Note, Query
from missive.dlq.record import Record, Status
from missive.dlq.redis.database import portions, translated
from missive.dlq.redis.fields import encoded, number, to_arguments
from missive.dlq.redis.queries import Queries
from missive.errors import StoreConflict

_WAITING = (Status.queued, Status.parked)
_CLOSED = (Status.resolved, Status.discarded)


class Changes(Queries):
    """The part of the store with which operators change records."""

    @translated("written")
    def discard(self, ids: Collection[str], by: str, why: str | None = None) -> int:
        """Close records as discarded if no lease holds them."""
        return self._counted_in("discard", ids, number(self._clock()), encoded(by), encoded(why))

    @translated("written")
    def restore(self, ids: Collection[str], by: str) -> int:
        """Make resolved and discarded records dead again."""
        notes = [self._noted(by, f"restored: it was {status}") for status in _CLOSED]
        return self._counted_in("restore", ids, *notes)

    @translated("written")
    def edit(self, record_id: str, version: int, changed: Record, by: str) -> None:
        """Store an edited record, and discard the record that it replaces."""
        why = f"edited as {changed.id}"
        change = (record_id, str(version), number(self._clock()), encoded(by), why)
        notes = self._noted(by, why), self._noted(by, f"edited from {record_id}")
        if not self._run("edit", *change, *notes, *to_arguments(changed)):
            raise StoreConflict(
                f"dead letter {record_id} has changed since it was read, or is not dead: missive dlq show {record_id}"
            )

    @translated("written")
    def note(self, ids: Collection[str], by: str, text: str) -> int:
        """Add a note to records."""
        return self._counted_in("note", ids, self._noted(by, text))

    @translated("read")
    def notes(self, record_id: str) -> list[Note]:
        """Return the notes on a record, oldest first."""
        return [Note(*json.loads(one)) for one in self._client.lrange(self._key(f"notes:{record_id}"), 0, -1)]

    @translated("written")
    def purge(self, query: Query, limit: int = 1000) -> int:
        """Delete closed records, or dead records if the query names that status."""
        allowed = tuple(status for status in query.statuses or _CLOSED if status not in _WAITING)
        if not allowed:
            return 0
        query, chosen = replace(query, statuses=allowed), list[tuple[str, int]]()
        sets, _ = self._sets(query)
        for record in self._matching(query, sets):
            if len(chosen) == limit:
                break
            chosen.append((record.id, record.version))
        # A record that has changed since it was chosen stays.
        pairs = [str(argument) for one in chosen for argument in one]
        return int(self._run("delete", ",".join(allowed), *pairs))

    @translated("written")
    def expire(self, limit: int = 1000) -> int:
        """Delete closed records whose retention has ended."""
        count = 0
        for status, before in self.retention.cutoffs(self._clock()):
            if limit > count:
                count += int(self._run("expire", str(status), number(before), limit - count))
        return count

    def _counted_in(self, script: str, ids: Collection[str], *arguments: str | bytes) -> int:
        return sum(int(self._run(script, *arguments, *some)) for some in portions(sorted(set(ids))))

    def _noted(self, by: str, text: str) -> str:
        return json.dumps(Note(self._clock(), by, text))
