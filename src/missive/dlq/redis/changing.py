"""Records in, and what operators do with them: each a step of the server's, or a step for every few hundred."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from missive.dlq.contract import DAY, Note, Query
from missive.dlq.record import Record, Status
from missive.dlq.redis.database import SCHEMA_VERSION, portions, translated
from missive.dlq.redis.fields import encoded, number, to_arguments, to_record
from missive.dlq.redis.keys import arrival_of
from missive.dlq.redis.reading import Reading
from missive.errors import StoreConflict

_WAITING = (Status.queued, Status.parked)
_CLOSED = (Status.resolved, Status.discarded)


class _Known:
    """What is there of the records that are put: by id and by arrival, and as which it was read."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.revs: dict[str, str] = {}
        self.tokens: dict[str, str | None] = {}
        self.arrivals: dict[str, str] = {}


class Changing(Reading):
    """What changes records, save claims and replays."""

    @translated("written")
    def put(self, records: Sequence[Record]) -> None:
        """Keep records, in one step; where the server writes each step to its disk, it is there when this returns."""
        if not records:  # is it one that can be written?
            self._client.set(self._key("schema"), SCHEMA_VERSION, nx=True)
        self._tried(lambda: self._put(records))

    def _put(self, records: Sequence[Record]) -> bool | None:
        known = self._known(records)
        merged: dict[str, Record] = {}
        asked: dict[str, str] = {}
        days: Counter[tuple[str, int]] = Counter()
        found = dict(known.arrivals)
        for record in records:
            if record.lease_token is not None and known.tokens.get(record.id) != record.lease_token:
                continue  # whoever has it by now tells its story
            where = arrival_of(record)
            earlier = known.records.get(record.id)
            if earlier is None and record.may_join and where is not None:
                earlier = known.records.get(found.get(where, ""))
                asked[where] = known.arrivals.get(where, "")
            one = record if earlier is None else earlier.joined_by(record)
            if earlier is None and where is not None:
                found[where] = one.id
            known.records[one.id] = merged[one.id] = one
            if one.status is Status.dead:
                days[one.fingerprint, int(one.last_at // DAY)] += 1
        if not merged:
            return True
        arguments: list[str | bytes] = [str(len(merged))]
        for one in merged.values():
            where = arrival_of(one)
            arguments += [known.revs.get(one.id, ""), asked.get(where, "*") if where else "*", *to_arguments(one)]
        return True if self._run("put", *arguments, *_flat(days)) else None

    def _known(self, records: Sequence[Record]) -> _Known:
        known = _Known()
        arrivals = {where for record in records if record.may_join and (where := arrival_of(record)) is not None}
        for some in portions(sorted(arrivals)):
            answers = self._client.hmget(self._key("arrivals"), some)
            known.arrivals.update((where, one.decode()) for where, one in zip(some, answers, strict=True) if one)
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
        """Keep records whose ids are not there."""
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

    @translated("written")
    def discard(self, ids: Collection[str], by: str, why: str | None = None) -> int:
        """Give records up that nobody works on."""
        return self._counted_in("discard", ids, number(self._clock()), encoded(by), encoded(why))

    @translated("written")
    def restore(self, ids: Collection[str], by: str) -> int:
        """Make records dead again that were resolved or discarded."""
        notes = [self._noted(by, f"restored: it was {status}") for status in _CLOSED]
        return self._counted_in("restore", ids, *notes)

    @translated("written")
    def edit(self, record_id: str, version: int, changed: Record, by: str) -> None:
        """Keep a record made of another one, and discard that one."""
        why = f"edited as {changed.id}"
        said = (record_id, str(version), number(self._clock()), encoded(by), why)
        notes = self._noted(by, why), self._noted(by, f"edited from {record_id}")
        if not self._run("edit", *said, *notes, *to_arguments(changed)):
            raise StoreConflict(
                f"dead letter {record_id} was changed meanwhile, or is not dead any more: see missive dlq show"
            )

    @translated("written")
    def note(self, ids: Collection[str], by: str, text: str) -> int:
        """Write a note to records."""
        return self._counted_in("note", ids, self._noted(by, text))

    @translated("read")
    def notes(self, record_id: str) -> list[Note]:
        """Return what was noted of a record, oldest first."""
        return [Note(*json.loads(one)) for one in self._client.lrange(self._key(f"notes:{record_id}"), 0, -1)]

    @translated("written")
    def purge(self, query: Query, limit: int = 1000) -> int:
        """Delete closed records, or dead ones where the query says so."""
        allowed = tuple(status for status in query.statuses or _CLOSED if status not in _WAITING)
        if not allowed:
            return 0
        query, chosen = replace(query, statuses=allowed), list[tuple[str, int]]()
        sets, _ = self._sets(query)
        for record in self._matching(query, sets):
            if len(chosen) == limit:
                break
            chosen.append((record.id, record.version))
        # What was changed since it was chosen stays.
        pairs = [str(argument) for one in chosen for argument in one]
        return int(self._run("delete", ",".join(allowed), *pairs))

    @translated("written")
    def expire(self, limit: int = 1000) -> int:
        """Delete records that were closed longer ago than they are kept."""
        count = 0
        for status, before in self.retention.over(self._clock()):
            if limit > count:
                count += int(self._run("expire", str(status), number(before), limit - count))
        return count

    def _counted_in(self, script: str, ids: Collection[str], *arguments: str | bytes) -> int:
        return sum(int(self._run(script, *arguments, *some)) for some in portions(sorted(set(ids))))

    def _noted(self, by: str, text: str) -> str:
        return json.dumps(Note(self._clock(), by, text))


def _flat(days: dict[tuple[str, int], int]) -> Iterable[str]:
    """Return how many failed on which days as the scripts take it."""
    return [str(part) for (fingerprint, day), count in days.items() for part in (fingerprint, day, count)]
