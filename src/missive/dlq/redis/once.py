"""Claims of `once=` in Redis: a text for each, which is held, or says that the effect has happened."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence

from missive.dlq.once import ClaimAnswer, ClaimRequest, EffectKey, OnceStore, Row, decide_claim
from missive.dlq.redis.database import Database, portions, translated
from missive.dlq.redis.fields import number
from missive.dlq.redis.keys import digest

Change = Callable[[Row], Row | None]


class RedisOnce(Database, OnceStore):
    """The part of the store that keeps claims: what was read is replaced only where it is there still."""

    @translated("written")
    def once_begin(
        self, service: str, asked: Sequence[ClaimRequest], owner: str, lease: float, ttl: float
    ) -> list[ClaimAnswer]:
        """Claim effects; each in a step of its own, for none depends on another."""
        now = self._clock()
        by_key = {_name(service, one.effect): one for one in asked}
        answers: dict[str, ClaimAnswer] = {}

        def begin(key: str, row: Row | None) -> Row | None:
            answers[key], kept = decide_claim(row, by_key[key], owner, now, lease, ttl)
            return row if kept is None else kept

        self._replace(by_key, begin)
        return [answers[key] for key in by_key]

    @translated("written")
    def once_extend(self, service: str, effects: Collection[EffectKey], owner: str, lease: float) -> set[EffectKey]:
        """Keep claims."""
        until = self._clock() + lease
        return self._change(service, effects, owner, lambda row: row._replace(until=until))

    @translated("written")
    def once_done(self, service: str, effects: Collection[EffectKey], owner: str, ttl: float) -> set[EffectKey]:
        """Remember that effects have happened."""
        until = self._clock() + ttl
        return self._change(service, effects, owner, lambda row: row._replace(done=True, expires_at=until))

    @translated("written")
    def once_drop(self, service: str, effects: Collection[EffectKey], owner: str) -> set[EffectKey]:
        """Give claims up."""
        return self._change(service, effects, owner, lambda _: None, but_done=True)

    @translated("written")
    def once_purge(self, limit: int = 1000) -> int:
        """Forget what may be forgotten."""
        now, forgotten = self._clock(), set[str]()
        over = self._client.zrangebyscore(self._key("once"), "-inf", number(now), start=0, num=limit)

        def forget(key: str, row: Row | None) -> Row | None:
            if row is not None and _over(row) > now:  # claimed again meanwhile
                forgotten.discard(key)
                return row
            forgotten.add(key)
            return None

        self._replace([key.decode() for key in over], forget)
        return len(forgotten)

    def _change(
        self, service: str, effects: Collection[EffectKey], owner: str, change: Change, *, but_done: bool = False
    ) -> set[EffectKey]:
        by_key = {_name(service, effect): effect for effect in effects}
        ours: set[EffectKey] = set()

        def changed(key: str, row: Row | None) -> Row | None:
            if row is None or row.owner != owner or (but_done and row.done):
                ours.discard(by_key[key])
                return row
            ours.add(by_key[key])
            return change(row)

        self._replace(by_key, changed)
        return ours

    def _replace(self, keys: Collection[str], change: Callable[[str, Row | None], Row | None]) -> None:
        """Keep for each key what is made of what is there: again where somebody else was quicker."""
        for some in portions(list(keys)):
            left = list(some)

            def replaced() -> bool | None:
                nonlocal left
                was = self._client.mget([self._key(f"once:{key}") for key in left])
                moved: list[str] = []
                arguments: list[str | bytes] = []
                for key, text in zip(left, was, strict=True):
                    before = None if text is None else Row(*json.loads(text))
                    after = change(key, before)
                    if after != before:
                        moved.append(key)
                        arguments += [key, text or b"", *_kept(after)]
                left = [moved[number] for number in self._run("once", *arguments)] if moved else []
                return None if left else True

            self._tried(replaced)


def _name(service: str, effect: EffectKey) -> str:
    return digest(service, *effect)


def _over(row: Row) -> float:
    """Return from when on a claim may be forgotten."""
    return row.expires_at if row.done else max(row.expires_at, row.until)


def _kept(row: Row | None) -> tuple[str, str]:
    return ("", "") if row is None else (json.dumps(row), number(_over(row)))
