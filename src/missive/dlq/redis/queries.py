"""Queries of a store in Redis: answered by sorted sets, or by a walk along them in constant memory."""

from __future__ import annotations

import heapq
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from missive.dlq.contract import DAY, DAYS, Group, Query
from missive.dlq.record import Record, Status
from missive.dlq.redis.database import AT_ONCE, Database, portions, translated
from missive.dlq.redis.fields import READ, to_record
from missive.dlq.redis.keys import Bucket
from missive.dlq.redis.matching import matches, matches_bucket

_STATUSES = tuple(str(status) for status in Status)
_MOST_SETS = 100
"""Largest number of sets to merge. A query that concerns more sets reads all records of its statuses."""
_BODIES_AT_ONCE = 50
_FIRST_PAGE = 50

Position = tuple[float, str]
"""The latest failure of a record, and its id: the position in a sorted set."""


class _BucketCount(NamedTuple):
    """The records of one bucket and status."""

    id: str
    bucket: Bucket
    status: str
    number: int

    @property
    def field(self) -> str:
        """The suffix of the keys of its sets."""
        return f"{self.id}:{self.status}"


class _GroupTotal:
    """The sum of the buckets, or the records, of a group."""

    def __init__(self) -> None:
        self.count, self.first_at, self.newest = 0, float("inf"), (float("-inf"), "")
        self.shared: tuple[str | None, ...] = (None,) * 4

    def add(self, bucket: Bucket, count: int, first_at: float, newest: Position) -> None:
        """Add records of a bucket."""
        self.count += count
        self.first_at, self.newest = min(first_at, self.first_at), max(newest, self.newest)
        self.shared = tuple(
            max((one for one in both if one is not None), default=None)
            for both in zip(self.shared, bucket[2:], strict=True)
        )


class Queries(Database):
    """The part of the store that finds records."""

    @translated("read")
    def get(self, record_id: str) -> Record | None:
        """Return a record, or None."""
        fields = self._client.hgetall(self._key(f"r:{record_id}"))
        return to_record(fields) if fields else None

    def query(self, query: Query, *, limit: int | None = None, offset: int = 0) -> Iterator[Record]:
        """Yield the records of a query, newest failure first. It reads a page at a time."""
        wanted = None if limit is None else offset + limit
        sets, exact = self._sets(query)
        ids = self._ids_of(query, sets, wanted)
        if exact:  # skip the records above the page without reading them
            ids, offset, wanted = islice(ids, offset, wanted), 0, limit
        yield from islice(self._records(ids, query, bodies=True), offset, wanted)

    @translated("read")
    def ids(self, query: Query) -> list[str]:
        """Return the ids of the records of a query, oldest first."""
        sets, exact = self._sets(query, most=None)
        if exact:  # a set, because a record may move between sets during the walk
            return sorted({record_id for one in sets for record_id in self._ids_of(query, [one])})
        return sorted(record.id for record in self._matching(query))

    @translated("read")
    def services(self, query: Query) -> list[str]:
        """Return the services that own records of a query."""
        if query.selects_groups:
            return sorted({one.bucket.service for one in self._counted(query)})
        return sorted({record.service for record in self._matching(query)})

    @translated("read")
    def count(self, query: Query) -> int:
        """Return the number of records of a query."""
        sets, exact = self._sets(query, most=None)
        if exact and query.last_after is None and query.last_before is None:
            pipeline = self._pipeline()
            for one in sets:
                pipeline.zcard(self._key(one))
            return sum(pipeline.execute())
        if exact:
            return sum(1 for one in sets for _ in self._ids_of(query, [one]))
        return sum(1 for _ in self._matching(query))

    @translated("read")
    def groups(self, query: Query, *, limit: int | None = None, offset: int = 0) -> list[Group]:
        """Return the groups of the records of a query, largest first."""
        found: dict[tuple[str, str], _GroupTotal] = {}
        counted: dict[tuple[str, str], list[_BucketCount]] = {}
        if query.selects_groups:
            for one in self._counted(query):
                key = one.bucket.fingerprint, one.status
                counted.setdefault(key, []).append(one)
                found.setdefault(key, _GroupTotal()).count += one.number
        else:
            for record in self._matching(query):
                group = found.setdefault((record.fingerprint, str(record.status)), _GroupTotal())
                group.add(Bucket.of(record), 1, record.first_at, (record.last_at, record.id))
        ordered = sorted(found, key=lambda key: (-found[key].count, *key))
        page = ordered[offset : None if limit is None else offset + limit]
        if counted:
            found = self._totals({key: counted[key] for key in page})
        return self._groups(page, found)

    def _totals(self, counted: dict[tuple[str, str], list[_BucketCount]]) -> dict[tuple[str, str], _GroupTotal]:
        """Return the totals of a page of groups."""
        pipeline = self._pipeline()
        every = [(key, one) for key, buckets in counted.items() for one in buckets]
        for _, one in every:
            pipeline.hget(self._key("first"), one.field)
            pipeline.zrevrange(self._key(f"bucket:{one.field}"), 0, 0, withscores=True)
        answers, found = pipeline.execute(), {key: _GroupTotal() for key in counted}
        for (key, one), first_at, newest in zip(every, answers[::2], answers[1::2], strict=True):
            if newest:  # None if the records were purged since
                ((sample, last_at),) = newest
                found[key].add(one.bucket, one.number, float(first_at or last_at), (float(last_at), sample.decode()))
        return found

    def _groups(self, page: Sequence[tuple[str, str]], found: dict[tuple[str, str], _GroupTotal]) -> list[Group]:
        pipeline, today = self._pipeline(), int(self._clock() // DAY)
        for fingerprint, _ in page:
            pipeline.hmget(self._key(f"days:{fingerprint}"), range(today - DAYS + 1, today + 1))
            pipeline.hget(self._key("resolved"), fingerprint)
        answers, groups = pipeline.execute(), []
        for (fingerprint, status), days, resolved in zip(page, answers[::2], answers[1::2], strict=True):
            one = found[fingerprint, status]
            if not one.count:
                continue
            last_at, sample = one.newest
            reason, label, handler, error_type = one.shared
            regressed = status == Status.dead and resolved is not None and float(resolved) < last_at
            trend = tuple(int(count or 0) for count in days)
            groups.append(
                Group(
                    fingerprint,
                    str(reason),
                    label,
                    handler,
                    error_type,
                    status,
                    one.count,
                    one.first_at,
                    last_at,
                    sample,
                    trend,
                    regressed,
                )
            )
        return groups

    @translated("read")
    def stats(self, service: str | None = None) -> list[dict[str, object]]:
        """Return the count and the oldest failure for each service, status and reason."""
        counted = self._counted(Query(service=service))
        pipeline = self._pipeline()
        for one in counted:
            pipeline.zrange(self._key(f"oldest:{one.field}"), 0, 0, withscores=True)
        found: dict[tuple[str, str, str], tuple[int, float]] = {}
        for one, oldest in zip(counted, pipeline.execute(), strict=True):
            if oldest:
                key = one.bucket.service, one.status, one.bucket.reason
                count, before = found.get(key, (0, float("inf")))
                found[key] = count + one.number, min(before, float(oldest[0][1]))
        return [
            {"service": of[0], "status": of[1], "reason": of[2], "count": count, "oldest_at": oldest_at}
            for of, (count, oldest_at) in sorted(found.items())
        ]

    # Finding the sets of a query

    def _counted(self, query: Query) -> list[_BucketCount]:
        """Return the buckets that match a query and have records."""
        buckets = self._client.hgetall(self._key("buckets"))
        wanted = [
            (name.decode(), bucket, status)
            for name, text in buckets.items()
            for bucket in [Bucket(*json.loads(text))]
            for status in _STATUSES
            if matches_bucket(query, bucket, status)
        ]
        pipeline = self._pipeline()
        for name, _, status in wanted:
            pipeline.zcard(self._key(f"bucket:{name}:{status}"))
        counts = pipeline.execute()
        return [_BucketCount(*one, count) for one, count in zip(wanted, counts, strict=True) if count]

    @translated("read")
    def _sets(self, query: Query, most: int | None = _MOST_SETS) -> tuple[list[str], bool]:
        """Return up to `most` sets that hold the records of a query, and whether they hold no other records."""
        statuses = list(dict.fromkeys(map(str, query.statuses))) or list(_STATUSES)
        if query.ids:
            return [], False
        if query.replay is not None:
            alone = Query(replay=query.replay, statuses=query.statuses)
            return [f"of:{query.replay}:{status}" for status in statuses], query == alone
        whenever = replace(query, last_after=None, last_before=None)
        exact = whenever.selects_groups
        if whenever == Query(statuses=query.statuses):
            return [f"status:{status}" for status in statuses], True
        sets = [f"bucket:{one.field}" for one in self._counted(query)]
        if most is None or len(sets) <= most:
            return sets, exact
        return [f"status:{status}" for status in statuses], False

    def _matching(self, query: Query, sets: Sequence[str] | None = None) -> Iterator[Record]:
        """Yield the records of a query without their bodies."""
        if sets is None:
            sets, _ = self._sets(query)
        return self._records(self._ids_of(query, sets), query, bodies=False)

    def _ids_of(self, query: Query, sets: Sequence[str], wanted: int | None = None) -> Iterator[str]:
        """Yield ids that include all records of a query, newest failure first."""
        if not query.ids:
            yield from self._walk(sets, query, wanted)
            return
        places: list[Position] = []
        for some in portions(dict.fromkeys(query.ids)):
            pipeline = self._pipeline()
            for one in some:
                pipeline.hget(self._key(f"r:{one}"), "last")
            places += [(float(at), one) for one, at in zip(some, pipeline.execute(), strict=True) if at is not None]
        yield from [one for _, one in sorted(places, reverse=True)]

    def _walk(self, sets: Sequence[str], query: Query, wanted: int | None = None) -> Iterator[str]:
        """Yield the ids in sets within the times of a query, newest failure first."""
        size = min(AT_ONCE, _FIRST_PAGE if wanted is None else max(wanted, 1))
        least = float("-inf") if query.last_after is None else query.last_after
        walks = [self._along(one, query.last_before, size) for one in sets]
        for last_at, one in heapq.merge(*walks, reverse=True):
            if last_at <= least:
                return
            yield one

    def _along(self, one: str, before: float | None, size: int) -> Iterator[Position]:
        place = float("inf") if before is None else before, ""
        while page := self._page(one, place, size):
            yield from page
            if len(page) < size:
                return
            place, size = page[-1], min(2 * size, AT_ONCE)

    @translated("read")
    def _page(self, one: str, before: Position, size: int) -> list[Position]:
        flat = self._run("page", one, repr(before[0]), before[1], size)
        return [(float(at), member.decode()) for member, at in zip(flat[::2], flat[1::2], strict=True)]

    def _records(self, ids: Iterator[str], query: Query, *, bodies: bool) -> Iterator[Record]:
        wanted = replace(query, ids=())
        for some in portions(ids, _BODIES_AT_ONCE if bodies else AT_ONCE):
            yield from (record for record in self._read(some, bodies=bodies).values() if matches(wanted, record))

    @translated("read")
    def _read(self, ids: Collection[str], *, bodies: bool) -> dict[str, Record]:
        """Return the records that exist, in the order of `ids`."""
        pipeline = self._pipeline()
        for one in ids:
            key = self._key(f"r:{one}")
            if bodies:
                pipeline.hgetall(key)
            else:
                pipeline.hmget(key, READ)
        found: dict[str, Record] = {}
        for one, answer in zip(ids, pipeline.execute(), strict=True):
            pairs = answer if bodies else zip((name.encode() for name in READ), answer, strict=True)
            fields = {name: value for name, value in dict(pairs).items() if value is not None}
            if b"doc" in fields:
                found[one] = to_record(fields)
        return found
