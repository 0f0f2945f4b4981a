"""Checkpoints of sources, and attempts at messages that stay unsettled, in Redis."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from missive.dlq.redis.database import Database, portions, translated
from missive.dlq.redis.fields import encoded
from missive.dlq.redis.keys import digest


class Checkpoints(Database):
    """The part of the store that remembers how far sources have been processed."""

    @translated("read")
    def load_checkpoint(self, service: str, source: str) -> str | None:
        """Return the checkpoint of a service and source, or None."""
        value = self._client.hget(self._key("checkpoints"), digest(service, source))
        return None if value is None else str(value.decode())

    @translated("written")
    def save_checkpoint(self, service: str, source: str, value: str) -> None:
        """Store the checkpoint of a service and source."""
        pipeline = self._pipeline()
        pipeline.hset(self._key(f"sources:{digest(service)}"), digest(source), encoded(source))
        pipeline.hset(self._key("checkpoints"), digest(service, source), encoded(value))
        pipeline.execute()

    @translated("written")
    def count_attempts(self, service: str, spent: Mapping[str, int]) -> None:
        """Store the numbers of attempts spent, by identity."""
        if spent:
            self._client.hset(self._spent(service), mapping={digest(one): count for one, count in spent.items()})

    @translated("read")
    def attempts(self, service: str, identities: Collection[str]) -> dict[str, int]:
        """Return the numbers of attempts spent on some identities."""
        found: dict[str, int] = {}
        for some in portions(list(identities)):
            counts = self._client.hmget(self._spent(service), [digest(one) for one in some])
            found.update((one, int(count)) for one, count in zip(some, counts, strict=True) if count is not None)
        return found

    @translated("written")
    def drop_attempts(self, service: str, identities: Collection[str]) -> None:
        """Delete the numbers of attempts spent on some identities."""
        for some in portions(list(identities)):
            self._client.hdel(self._spent(service), *map(digest, some))

    def _spent(self, service: str) -> str:
        return self._key(f"attempts:{digest(service)}")
