"""The part of a store that the lease form of `once=` needs: claims on effects, in progress or done."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from missive.dlq.times import SKEW

EffectKey: TypeAlias = tuple[str, str]
"""The name of a handler and the digest of a key. Within a service, they identify an effect."""


class ClaimRequest(NamedTuple):
    """A request for a claim on an effect."""

    handler: str
    digest: str
    """The digest of the message's key."""
    body: str
    """The SHA-256 of the message's body."""

    @property
    def effect(self) -> EffectKey:
        """The effect to claim."""
        return self.handler, self.digest


class ClaimState(StrEnum):
    """The result of a request for a claim."""

    ours = "ours"
    """The owner that asked holds the claim until its lease ends."""
    busy = "busy"
    """Another owner holds the claim."""
    done = "done"
    """The effect has happened."""
    conflict = "conflict"
    """The claim belongs to a message with another body. It is held, or its effect has happened."""


class ClaimAnswer(NamedTuple):
    """The answer to a request for a claim."""

    state: ClaimState
    fence: int
    """Fencing token: it grows when an owner takes over a claim whose lease has ended."""
    until: float
    """End of the lease, in seconds since 1970."""


class StoredClaim(NamedTuple):
    """A claim as a store holds it."""

    body: str
    owner: str
    fence: int
    until: float
    done: bool
    expires_at: float
    """Time from which the claim may be deleted, in seconds since 1970."""


class OnceStore(ABC):
    """A store of claims. All methods block, are durable when they return, can be repeated, and raise `StoreError`."""

    @abstractmethod
    def once_begin(
        self, service: str, requests: Sequence[ClaimRequest], owner: str, lease: float, ttl: float
    ) -> list[ClaimAnswer]:
        """Claim effects for `lease` seconds; return an answer for each request, in order.

        A claim that the owner already holds is granted again. A call requests an effect at most once.
        """

    @abstractmethod
    def once_extend(self, service: str, effects: Collection[EffectKey], owner: str, lease: float) -> set[EffectKey]:
        """Let claims end `lease` seconds from now; return the effects that the owner still holds."""

    @abstractmethod
    def once_done(self, service: str, effects: Collection[EffectKey], owner: str, ttl: float) -> set[EffectKey]:
        """Remember for `ttl` seconds that effects have happened; return the effects that the owner still held."""

    @abstractmethod
    def once_drop(self, service: str, effects: Collection[EffectKey], owner: str) -> set[EffectKey]:
        """Delete claims whose effect has not happened; return the effects that the owner still held."""

    @abstractmethod
    def once_purge(self, limit: int = 1000) -> int:
        """Delete up to `limit` expired claims; return their number."""


def decide_claim(
    row: StoredClaim | None, request: ClaimRequest, owner: str, now: float, lease: float, ttl: float
) -> tuple[ClaimAnswer, StoredClaim | None]:
    """Decide a request on the stored claim; return the answer, and the claim to store if the request changes it."""
    ours = StoredClaim(request.body, owner, 1, now + lease, done=False, expires_at=now + ttl)
    if row is None or (row.expires_at <= now and (row.done or row.until <= now)):
        return ClaimAnswer(ClaimState.ours, 1, ours.until), ours
    if row.body != request.body:
        return ClaimAnswer(ClaimState.conflict, row.fence, row.until), None
    if row.done:
        return ClaimAnswer(ClaimState.done, row.fence, row.until), None
    if row.owner != owner and row.until > now + lease + SKEW:  # a clock was set back
        row = row._replace(until=now + lease)
        return ClaimAnswer(ClaimState.busy, row.fence, row.until), row
    if row.owner != owner and row.until > now:
        return ClaimAnswer(ClaimState.busy, row.fence, row.until), None
    fence = row.fence if row.owner == owner else row.fence + 1
    return ClaimAnswer(ClaimState.ours, fence, ours.until), ours._replace(fence=fence)


class MemoryOnce(OnceStore):
    """Claims in memory, for tests. They are lost with the object."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._rows: dict[tuple[str, EffectKey], StoredClaim] = {}

    def once_begin(
        self, service: str, requests: Sequence[ClaimRequest], owner: str, lease: float, ttl: float
    ) -> list[ClaimAnswer]:
        """Claim effects."""
        answers, now = [], self._clock()
        for request in requests:
            answer, row = decide_claim(self._rows.get((service, request.effect)), request, owner, now, lease, ttl)
            if row is not None:
                self._rows[service, request.effect] = row
            answers.append(answer)
        return answers

    def once_extend(self, service: str, effects: Collection[EffectKey], owner: str, lease: float) -> set[EffectKey]:
        """Extend the leases of claims."""
        ours = self._ours(service, effects, owner)
        for effect in ours:
            row = self._rows[service, effect]
            self._rows[service, effect] = row._replace(until=self._clock() + lease)
        return ours

    def once_done(self, service: str, effects: Collection[EffectKey], owner: str, ttl: float) -> set[EffectKey]:
        """Remember that effects have happened."""
        ours = self._ours(service, effects, owner)
        for effect in ours:
            row = self._rows[service, effect]
            self._rows[service, effect] = row._replace(done=True, expires_at=self._clock() + ttl)
        return ours

    def once_drop(self, service: str, effects: Collection[EffectKey], owner: str) -> set[EffectKey]:
        """Delete claims."""
        ours = {effect for effect in self._ours(service, effects, owner) if not self._rows[service, effect].done}
        for effect in ours:
            del self._rows[service, effect]
        return ours

    def once_purge(self, limit: int = 1000) -> int:
        """Delete expired claims."""
        now = self._clock()
        expired = [key for key, row in self._rows.items() if row.expires_at <= now and (row.done or row.until <= now)]
        for key in expired[:limit]:
            del self._rows[key]
        return len(expired[:limit])

    def _ours(self, service: str, effects: Collection[EffectKey], owner: str) -> set[EffectKey]:
        rows = self._rows
        return {effect for effect in effects if (row := rows.get((service, effect))) and row.owner == owner}
