"""What the lease form of `once=` asks of a store: claims on effects, held for a while or remembered as done."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from typing import NamedTuple, TypeAlias

EffectKey: TypeAlias = tuple[str, str]
"""A handler's name and the digest of a key: what is claimed, within a service."""


class ClaimRequest(NamedTuple):
    """A claim that is asked for."""

    handler: str
    digest: str
    """Of the message's key."""
    body: str
    """The SHA-256 of its body."""

    @property
    def effect(self) -> EffectKey:
        """What is claimed."""
        return self.handler, self.digest


class ClaimState(StrEnum):
    """How a claim was answered."""

    ours = "ours"
    """Whoever asked has it, until its lease ends."""
    busy = "busy"
    """Somebody else has it."""
    done = "done"
    """The effect has happened."""
    conflict = "conflict"
    """Somebody else has it, or the effect has happened, for another body."""


class ClaimAnswer(NamedTuple):
    """The answer to a claim that was asked for."""

    state: ClaimState
    fence: int
    """How many have had the claim, one after the other, because the lease of the one before ended."""
    until: float
    """When the lease ends, in seconds since 1970."""


class Row(NamedTuple):
    """What a store keeps of a claim."""

    body: str
    owner: str
    fence: int
    until: float
    done: bool
    expires_at: float
    """When it may be forgotten."""


class OnceStore(ABC):
    """Keeps claims. All methods block, are durable when they return, may be repeated, and raise `StoreError`."""

    @abstractmethod
    def once_begin(
        self, service: str, asked: Sequence[ClaimRequest], owner: str, lease: float, ttl: float
    ) -> list[ClaimAnswer]:
        """Claim effects for `lease` seconds; returns an answer for each.

        What `owner` has already, it is given again. No effect is asked for twice in one call.
        """

    @abstractmethod
    def once_extend(self, service: str, effects: Collection[EffectKey], owner: str, lease: float) -> set[EffectKey]:
        """Keep claims for `lease` more seconds; returns those that are still the owner's."""

    @abstractmethod
    def once_done(self, service: str, effects: Collection[EffectKey], owner: str, ttl: float) -> set[EffectKey]:
        """Remember for `ttl` seconds that effects have happened; returns those that were still the owner's."""

    @abstractmethod
    def once_drop(self, service: str, effects: Collection[EffectKey], owner: str) -> set[EffectKey]:
        """Give claims up, of which no effect has happened; returns those that were still the owner's."""

    @abstractmethod
    def once_purge(self, limit: int = 1000) -> int:
        """Forget what may be forgotten, `limit` at the most; returns how many."""


def decide_claim(
    row: Row | None, asked: ClaimRequest, owner: str, now: float, lease: float, ttl: float
) -> tuple[ClaimAnswer, Row | None]:
    """Return the answer to a claim, from what is kept, and what is to be kept in its place, if anything."""
    ours = Row(asked.body, owner, 1, now + lease, done=False, expires_at=now + ttl)
    if row is None or (row.expires_at <= now and (row.done or row.until <= now)):
        return ClaimAnswer(ClaimState.ours, 1, ours.until), ours
    if row.body != asked.body:
        return ClaimAnswer(ClaimState.conflict, row.fence, row.until), None
    if row.done:
        return ClaimAnswer(ClaimState.done, row.fence, row.until), None
    if row.owner != owner and row.until > now:
        return ClaimAnswer(ClaimState.busy, row.fence, row.until), None
    fence = row.fence if row.owner == owner else row.fence + 1
    return ClaimAnswer(ClaimState.ours, fence, ours.until), ours._replace(fence=fence)


class MemoryOnce(OnceStore):
    """Claims in memory, for tests: durable as long as this object."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._rows: dict[tuple[str, EffectKey], Row] = {}

    def once_begin(
        self, service: str, asked: Sequence[ClaimRequest], owner: str, lease: float, ttl: float
    ) -> list[ClaimAnswer]:
        """Claim effects."""
        answers, now = [], self._clock()
        for one in asked:
            answer, row = decide_claim(self._rows.get((service, one.effect)), one, owner, now, lease, ttl)
            if row is not None:
                self._rows[service, one.effect] = row
            answers.append(answer)
        return answers

    def once_extend(self, service: str, effects: Collection[EffectKey], owner: str, lease: float) -> set[EffectKey]:
        """Keep claims."""
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
        """Give claims up."""
        ours = {effect for effect in self._ours(service, effects, owner) if not self._rows[service, effect].done}
        for effect in ours:
            del self._rows[service, effect]
        return ours

    def once_purge(self, limit: int = 1000) -> int:
        """Forget what may be forgotten."""
        now = self._clock()
        over = [key for key, row in self._rows.items() if row.expires_at <= now and (row.done or row.until <= now)]
        for key in over[:limit]:
            del self._rows[key]
        return len(over[:limit])

    def _ours(self, service: str, effects: Collection[EffectKey], owner: str) -> set[EffectKey]:
        rows = self._rows
        return {effect for effect in effects if (row := rows.get((service, effect))) and row.owner == owner}
