"""What is kept beside the records: checkpoints of sources, and attempts at what stays unsettled."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from missive.dlq.redis.database import Database, portions, translated
from missive.dlq.redis.fields import encoded
from missive.dlq.redis.keys import digest


class Checkpoints(Database):
    """A few bytes by service and source, and counts by service and identity."""

    @translated("read")
    def load_checkpoint(self, service: str, source: str) -> str | None:
        """Return what `remember` kept, or None."""
        value = self._client.hget(self._key("checkpoints"), digest(service, source))
        return None if value is None else str(value.decode())

    @translated("written")
    def save_checkpoint(self, service: str, source: str, value: str) -> None:
        """Keep a value for a service and source."""
        self._client.hset(self._key("checkpoints"), digest(service, source), encoded(value))

    @translated("written")
    def count_attempts(self, service: str, spent: Mapping[str, int]) -> None:
        """Keep how many attempts were spent, by identity."""
        if spent:
            self._client.hset(self._spent(service), mapping={digest(one): count for one, count in spent.items()})

    @translated("read")
    def attempts(self, service: str, identities: Collection[str]) -> dict[str, int]:
        """Return how many attempts were spent on some."""
        found: dict[str, int] = {}
        for some in portions(list(identities)):
            counts = self._client.hmget(self._spent(service), [digest(one) for one in some])
            found.update((one, int(count)) for one, count in zip(some, counts, strict=True) if count is not None)
        return found

    @translated("written")
    def drop_attempts(self, service: str, identities: Collection[str]) -> None:
        """Forget how many attempts were spent on some."""
        for some in portions(list(identities)):
            self._client.hdel(self._spent(service), *map(digest, some))

    def _spent(self, service: str) -> str:
        return self._key(f"attempts:{digest(service)}")
