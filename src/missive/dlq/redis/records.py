"""Write new records into Redis. Failures of a known message join its record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from missive.dlq.contract import DAY
from missive.dlq.record import Record, Status
from missive.dlq.redis.database import SCHEMA_VERSION, Database, portions, translated
from missive.dlq.redis.fields import number, to_arguments, to_record
from missive.dlq.redis.keys import arrival_of


class _Known:
    """Stored records that a call of `put` concerns, by id and by arrival, with their revisions and lease tokens."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.revs: dict[str, str] = {}
        self.tokens: dict[str, str | None] = {}
        self.arrivals: dict[str, str] = {}


class Records(Database):
    """The part of the store that writes new records."""

    @translated("written")
    def put(self, records: Sequence[Record]) -> dict[str, str]:
        """Store records in one step. They are durable if the server syncs each write to its disk."""
        if not records:  # check that the store can be written
            self._client.set(self._key("schema"), SCHEMA_VERSION, nx=True)
        return self._tried(lambda: self._put(records))

    def _put(self, records: Sequence[Record]) -> dict[str, str] | None:
        joined: dict[str, str] = {}
        known = self._known(records)
        merged: dict[str, Record] = {}
        asked: dict[str, str] = {}
        days: Counter[tuple[str, int]] = Counter()
        found = dict(known.arrivals)
        known.tokens.update((record.id, record.lease_token) for record in records if record.leased_until is not None)
        for record in records:
            if record.lease_token is not None and known.tokens.get(record.id) != record.lease_token:
                continue  # another worker holds the lease, and reports the result
            digest = arrival_of(record)
            earlier = known.records.get(record.id)
            if earlier is None and record.may_join and digest is not None:
                earlier = known.records.get(found.get(digest, ""))
                asked[digest] = known.arrivals.get(digest, "")
            if earlier is not None and earlier.holds(record):
                continue
            one = record if earlier is None else earlier.joined_by(record)
            if earlier is not None:
                joined[record.id] = earlier.id
            elif digest is not None:
                found[digest] = one.id
            known.records[one.id] = merged[one.id] = one
            if one.status is Status.dead:
                days[one.fingerprint, int(one.last_at // DAY)] += 1
        if not merged:
            return joined
        arguments: list[str | bytes] = [str(len(merged))]
        for one in merged.values():
            digest = arrival_of(one)
            lease = (one.lease_token or "", number(one.leased_until)) if one.leased_until is not None else ("", "")
            arrival = asked.get(digest, "*") if digest else "*"
            arguments += [known.revs.get(one.id, ""), arrival, *lease, *to_arguments(one)]
        return joined if self._run("put", *arguments, *_flat(days)) else None

    def _known(self, records: Sequence[Record]) -> _Known:
        known = _Known()
        arrivals = {digest for record in records if record.may_join and (digest := arrival_of(record)) is not None}
        for some in portions(sorted(arrivals)):
            answers = self._client.hmget(self._key("arrivals"), some)
            known.arrivals.update((digest, one.decode()) for digest, one in zip(some, answers, strict=True) if one)
        for some in portions(sorted({record.id for record in records} | set(known.arrivals.values()))):
            pipeline = self._pipeline()
            for one in some:
                pipeline.hgetall(self._key(f"r:{one}"))
            for one, fields in zip(some, pipeline.execute(), strict=True):
                if fields:
                    known.records[one] = to_record(fields)
                    known.revs[one] = fields[b"rev"].decode()
                    known.tokens[one] = fields.get(b"token", b"").decode()
        return known

    @translated("written")
    def import_(self, records: Sequence[Record]) -> int:
        """Store the records whose ids are not stored yet."""
        return self._tried(lambda: self._import(records))

    def _import(self, records: Sequence[Record]) -> int | None:
        every = {record.id: record for record in records}
        new = [record for record in every.values() if not self._client.exists(self._key(f"r:{record.id}"))]
        if not new:
            return 0
        days: Counter[tuple[str, int]] = Counter()
        days.update((one.fingerprint, int(one.last_at // DAY)) for one in new if one.status is Status.dead)
        arguments = [argument for record in new for argument in to_arguments(record)]
        return len(new) if self._run("import", len(new), *arguments, *_flat(days)) else None


def _flat(days: dict[tuple[str, int], int]) -> Iterable[str]:
    """Return failures by fingerprint and day as arguments of a script."""
    return [str(part) for (fingerprint, day), count in days.items() for part in (fingerprint, day, count)]
