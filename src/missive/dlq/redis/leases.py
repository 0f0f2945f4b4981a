"""Record leases in Redis. One worker at a time leases a record, and only the first record of a lane."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from missive.dlq.contract import RecordLease
from missive.dlq.record import Status
from missive.dlq.redis.changes import Changes
from missive.dlq.redis.database import portions, translated
from missive.dlq.redis.fields import encoded, number, paired, to_record
from missive.dlq.redis.keys import digest
from missive.dlq.times import SKEW

_CORRECTED = 5000
"""Number of records whose times are compared with the clock at once."""


class Leases(Changes):
    """The part of the store that leases records. The `ready` sets order records by the time at which they are free."""

    @translated("leased from")
    def lease_records(
        self, service: str, token: str, limit: int, lease: float, replay: str | None = None
    ) -> list[RecordLease]:
        """Lease queued and parked records that are due and that no lease holds."""
        now = self._clock()
        if self._ahead.is_suspected(now):
            self._run("bring_back", digest(service), number(now), number(now + lease), SKEW, _CORRECTED)
        found = self._run("lease", digest(service), replay or "", token, number(now), number(now + lease), limit)
        return [RecordLease(to_record(paired(fields)), token) for _, fields in found]

    @translated("written")
    def postpone(self, service: str, due: Mapping[str, float], limit: int, replay: str | None = None) -> int:
        """Let records of some handlers wait that are due and that no lease holds."""
        flat = [part for handler, at in due.items() for part in (encoded(handler), number(at))]
        return int(self._run("postpone", digest(service), replay or "", number(self._clock()), limit, *flat))

    @translated("read")
    def next_due(self, service: str) -> float | None:
        """Return the earliest time at which a record is due and not leased."""
        first = self._client.zrange(self._key(f"ready:{digest(service)}"), 0, 0, withscores=True)
        return max(float(first[0][1]), self._clock()) if first else None

    @translated("read")
    def lanes(self, service: str) -> dict[str, int]:
        """Return the number of parked and queued records in each lane."""
        found = self._client.hgetall(self._key(f"lanes:{digest(service)}"))
        return {lane.decode(): int(count) for lane, count in found.items()}

    @translated("written")
    def extend_leases(self, ids: Collection[str], token: str, lease: float) -> set[str]:
        """Let leases end `lease` seconds from now."""
        return self._ours("extend", ids, token, number(self._clock() + lease))

    @translated("written")
    def resolve(self, ids: Collection[str], token: str, status: Status, by: str, why: str | None = None) -> set[str]:
        """Close leased records."""
        return self._ours("resolve", ids, token, str(status), number(self._clock()), encoded(by), encoded(why))

    @translated("written")
    def release_records(self, ids: Collection[str], token: str, due: float | None = None) -> set[str]:
        """End leases without a result."""
        return self._ours("release", ids, token, number(due))

    def _ours(self, script: str, ids: Collection[str], token: str, *arguments: str | bytes) -> set[str]:
        answers = (self._run(script, token, *arguments, *some) for some in portions(sorted(set(ids))))
        return {one.decode() for some in answers for one in some}
