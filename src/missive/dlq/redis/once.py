"""Claims of `once=` in Redis: a JSON text for each claim."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from missive.dlq.once import ClaimAnswer, ClaimRequest, EffectKey, OnceStore, StoredClaim, decide_claim
from missive.dlq.redis.database import Database, portions, translated
from missive.dlq.redis.fields import number
from missive.dlq.redis.keys import digest

_NAMES_SECONDS = 10.0
"""Time for which the adopted names of a service are remembered, in seconds."""

Change = Callable[[StoredClaim], StoredClaim | None]


class RedisOnce(Database, OnceStore):
    """The part of the store that holds claims. A claim is replaced only if it has not changed since it was read."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._earlier_names: dict[str, tuple[float, Sequence[bytes]]] = {}
        """The names that each service has adopted, and when they were read."""

    @translated("written")
    def once_begin(
        self, service: str, requests: Sequence[ClaimRequest], owner: str, lease: float, ttl: float
    ) -> list[ClaimAnswer]:
        """Claim effects. Claims are independent, and each one changes atomically."""
        now = self._clock()
        self._adopt_claims(service, requests)
        by_key = {_name(service, one.effect): one for one in requests}
        answers: dict[str, ClaimAnswer] = {}

        def begin(key: str, row: StoredClaim | None) -> StoredClaim | None:
            answers[key], changed = decide_claim(row, by_key[key], owner, now, lease, ttl)
            return row if changed is None else changed

        self._replace(by_key, begin)
        return [answers[key] for key in by_key]

    @translated("written")
    def once_extend(self, service: str, effects: Collection[EffectKey], owner: str, lease: float) -> set[EffectKey]:
        """Extend the leases of claims."""
        until = self._clock() + lease
        return self._change(service, effects, owner, lambda row: row._replace(until=until))

    @translated("written")
    def once_done(self, service: str, effects: Collection[EffectKey], owner: str, ttl: float) -> set[EffectKey]:
        """Remember that effects have happened."""
        until = self._clock() + ttl
        return self._change(service, effects, owner, lambda row: row._replace(done=True, expires_at=until))

    @translated("written")
    def once_drop(self, service: str, effects: Collection[EffectKey], owner: str) -> set[EffectKey]:
        """Delete claims."""
        return self._change(service, effects, owner, lambda _: None, unless_done=True)

    @translated("written")
    def once_purge(self, limit: int = 1000) -> int:
        """Delete expired claims."""
        now, deleted = self._clock(), set[str]()
        expired = self._client.zrangebyscore(self._key("once"), "-inf", number(now), start=0, num=limit)

        def delete(key: str, row: StoredClaim | None) -> StoredClaim | None:
            if row is not None and _expiry(row) > now:  # claimed again since it was read
                deleted.discard(key)
                return row
            deleted.add(key)
            return None

        self._replace([key.decode() for key in expired], delete)
        return len(deleted)

    def _adopt_claims(self, service: str, requests: Sequence[ClaimRequest]) -> None:
        """Move claims that were made under earlier names of a service."""
        read_at, names = self._earlier_names.get(service, (0.0, ()))
        if (now := time.monotonic()) - read_at > _NAMES_SECONDS or not read_at:
            names = sorted(self._client.smembers(self._key(f"adopted:{digest(service)}")))
            self._earlier_names[service] = now, names
        for name in names:
            pairs = [_name(of, one.effect) for one in requests for of in (name.decode(), service)]
            self._run("adopt_claims", *pairs)

    def _change(
        self, service: str, effects: Collection[EffectKey], owner: str, change: Change, *, unless_done: bool = False
    ) -> set[EffectKey]:
        by_key = {_name(service, effect): effect for effect in effects}
        ours: set[EffectKey] = set()

        def changed(key: str, row: StoredClaim | None) -> StoredClaim | None:
            if row is None or row.owner != owner or (unless_done and row.done):
                ours.discard(by_key[key])
                return row
            ours.add(by_key[key])
            return change(row)

        self._replace(by_key, changed)
        return ours

    def _replace(self, keys: Collection[str], change: Callable[[str, StoredClaim | None], StoredClaim | None]) -> None:
        """Replace the claim of each key by the result of `change`. Retry on a concurrent change."""
        for some in portions(list(keys)):
            pending = list(some)

            def replaced() -> bool | None:
                nonlocal pending
                texts = self._client.mget([self._key(f"once:{key}") for key in pending])
                changed_keys: list[str] = []
                arguments: list[str | bytes] = []
                for key, text in zip(pending, texts, strict=True):
                    before = None if text is None else StoredClaim(*json.loads(text))
                    after = change(key, before)
                    if after != before:
                        changed_keys.append(key)
                        arguments += [key, text or b"", *_stored(after)]
                pending = [changed_keys[number] for number in self._run("once", *arguments)] if changed_keys else []
                return None if pending else True

            self._tried(replaced)


def _name(service: str, effect: EffectKey) -> str:
    return digest(service, *effect)


def _expiry(row: StoredClaim) -> float:
    """Return the time from which a claim may be deleted."""
    return row.expires_at if row.done else max(row.expires_at, row.until)


def _stored(row: StoredClaim | None) -> tuple[str, str]:
    return ("", "") if row is None else (json.dumps(row), number(_expiry(row)))
