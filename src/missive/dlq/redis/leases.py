"""Taking records up: each by one worker at a time, under a lease, and of a lane only the first."""

from __future__ import annotations

from collections.abc import Collection

from missive.dlq.contract import RecordLease
from missive.dlq.record import Status
from missive.dlq.redis.changing import Changing
from missive.dlq.redis.database import portions, translated
from missive.dlq.redis.fields import encoded, number, paired, to_record
from missive.dlq.redis.keys import digest


class Leases(Changing):
    """`ready` sets say from when on a record may be claimed."""

    @translated("leased from")
    def lease_records(
        self, service: str, token: str, limit: int, lease: float, replay: str | None = None
    ) -> list[RecordLease]:
        """Take up queued records that nobody has, or whose holder let the lease run out."""
        now = self._clock()
        found = self._run("lease", digest(service), replay or "", token, number(now), number(now + lease), limit)
        return [RecordLease(to_record(paired(fields)), token) for _, fields in found]

    @translated("read")
    def next_due(self, service: str) -> float | None:
        """Return when the next record may be claimed: when it is due, or the claim that somebody has runs out."""
        first = self._client.zrange(self._key(f"ready:{digest(service)}"), 0, 0, withscores=True)
        return max(float(first[0][1]), self._clock()) if first else None

    @translated("read")
    def lanes(self, service: str) -> dict[str, int]:
        """Return how many records are parked, or queued, in each lane."""
        found = self._client.hgetall(self._key(f"lanes:{digest(service)}"))
        return {lane.decode(): int(count) for lane, count in found.items()}

    @translated("written")
    def extend_leases(self, ids: Collection[str], token: str, lease: float) -> set[str]:
        """Keep claimed records for `lease` more seconds."""
        return self._ours("extend", ids, token, number(self._clock() + lease))

    @translated("written")
    def resolve(self, ids: Collection[str], token: str, status: Status, by: str, why: str | None = None) -> set[str]:
        """Close claimed records."""
        return self._ours("resolve", ids, token, str(status), number(self._clock()), encoded(by), encoded(why))

    @translated("written")
    def release_records(self, ids: Collection[str], token: str, due: float | None = None) -> set[str]:
        """Give claimed records back, as they were."""
        return self._ours("release", ids, token, number(due))

    def _ours(self, script: str, ids: Collection[str], token: str, *arguments: str | bytes) -> set[str]:
        answers = (self._run(script, token, *arguments, *some) for some in portions(sorted(set(ids))))
        return {one.decode() for some in answers for one in some}
