"""The applications of a store in Redis, waiting records that cannot run, and the move of a service's data."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from missive.dlq.contract import Query
from missive.dlq.redis.database import portions, translated
from missive.dlq.redis.fields import encoded, number, to_arguments, to_record
from missive.dlq.redis.keys import arrival_of, digest
from missive.dlq.redis.leases import Leases

_AT_ONCE = 100
"""Number of records that one step moves to another service."""


class Ownership(Leases):
    """The part of the store that decides which application, and which handler, runs a record."""

    on_server = True

    @translated("written")
    def leave_orphans(self, ids: Collection[str], token: str, due: float) -> set[str]:
        """End leases, and note the time of the first call for each record."""
        return self._ours("orphans", ids, token, number(due), number(self._clock()))

    @translated("written")
    def reroute(self, record_id: str, handler: str, by: str) -> bool:
        """Assign a handler to a record."""
        note = self._noted(by, f"rerouted to {handler}")
        return bool(self._run("reroute", record_id, encoded(handler), number(self._clock()), note))

    @translated("written")
    def unstick(self, record_id: str, by: str) -> bool:
        """Make the first record of a lane dead."""
        notes = [self._noted(by, f"unstuck: it was {status}") for status in ("queued", "parked")]
        return bool(self._run("unstick", record_id, number(self._clock()), *notes))

    @translated("read")
    def head_of_lane(self, record_id: str) -> str | None:
        """Return the id of the first record in the lane of a record."""
        service, lane = self._client.hmget(self._key(f"r:{record_id}"), "service", "lane")
        if service is None or lane is None:
            return None
        first = self._client.zrange(self._key(f"lane:{service.decode()}:{lane.decode()}"), 0, 0)
        return str(first[0].decode()) if first else None

    # Applications

    @translated("read")
    def applications(self) -> dict[str, str | None]:
        """Return the applications and their targets."""
        return _decoded(self._client.hgetall(self._key("applications")))

    @translated("written")
    def register(self, service: str, target: str | None) -> dict[str, str | None]:
        """Note an application, and return the others."""
        flat = self._run("register", encoded(service), encoded(target))
        known = _decoded(dict(zip(flat[::2], flat[1::2], strict=True)))
        return {name: other for name, other in known.items() if name != service or (target and other != target)}

    @translated("written")
    def adopt(self, old: str, new: str) -> int:
        """Move the data of a service. Each portion of records is one step on the server."""
        count = 0
        # A record that changes at the same time stays for the next round.
        while ids := self.ids(Query(service=old)):
            for some in portions(ids, _AT_ONCE):
                count += self._adopt(some, new)
        marks = []
        for source in self._client.hvals(self._key(f"sources:{digest(old)}")):
            marks += [digest(old, source.decode()), digest(new, source.decode())]
        self._run("adopt_state", digest(old), digest(new), *marks)
        # The names of claims are digests: they move when the new service asks for them.
        earlier = self._key(f"adopted:{digest(new)}")
        self._client.sadd(earlier, encoded(old), *self._client.smembers(self._key(f"adopted:{digest(old)}")))
        self._client.hdel(self._key("applications"), encoded(old))
        return count

    def _adopt(self, ids: Collection[str], new: str) -> int:
        pipeline = self._pipeline()
        for one in ids:
            pipeline.hgetall(self._key(f"r:{one}"))
        arguments: list[str | bytes] = []
        count = 0
        for fields in pipeline.execute():
            if not fields:
                continue
            count += 1
            record = to_record(fields)
            moved = replace(record, service=new, version=record.version + 1)
            arguments += [
                fields[b"rev"],
                arrival_of(record) or "",
                fields.get(b"token", b""),
                fields.get(b"leased", b""),
            ]
            arguments += to_arguments(moved)
        return int(self._run("adopt", str(count), *arguments)) if count else 0


def _decoded(found: dict[bytes, bytes]) -> dict[str, str | None]:
    return {service.decode(): target.decode() or None for service, target in found.items()}
