"""Store: the simulated dead letter store, which is sometimes down."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, TypeVar

from missive.dlq.contract import Sink
from missive.dlq.once import ClaimAnswer, ClaimRequest, EffectKey, OnceStore
from missive.dlq.record import Record
from missive.errors import StoreError
from missive.outcome import Reason

if TYPE_CHECKING:
    from missive.testing.simulation.life import Life

T = TypeVar("T")


class SimulatedStore(Sink, OnceStore):
    """The store as one life sees it. The stored data outlives the life."""

    durable = True

    def __init__(self, life: Life) -> None:
        self._life = life

    def put(self, records: Sequence[Record]) -> None:
        """Store records. Raises `StoreError` when the store fails; the records are sometimes stored anyway."""
        self._done(lambda: self._file(records))

    def _file(self, records: Sequence[Record]) -> None:
        world = self._life.world
        for record in records:
            if record.reason is not Reason.shutdown:
                world.ledger.filed(world.entry_of(record))

    def once_begin(
        self, service: str, requests: Sequence[ClaimRequest], owner: str, lease: float, ttl: float
    ) -> list[ClaimAnswer]:
        """Claim effects."""
        return self._done(lambda: self._life.world.once.once_begin(service, requests, owner, lease, ttl))

    def once_extend(self, service: str, effects: Collection[EffectKey], owner: str, lease: float) -> set[EffectKey]:
        """Renew claims."""
        return self._done(lambda: self._life.world.once.once_extend(service, effects, owner, lease))

    def once_done(self, service: str, effects: Collection[EffectKey], owner: str, ttl: float) -> set[EffectKey]:
        """Record that effects have happened."""
        return self._done(lambda: self._record_effects(service, effects, owner, ttl))

    def _record_effects(self, service: str, effects: Collection[EffectKey], owner: str, ttl: float) -> set[EffectKey]:
        world = self._life.world
        ours = world.once.once_done(service, effects, owner, ttl)
        for effect in ours:
            for entry in world.effects.get(effect, ()):
                entry.happened = True
        return ours

    def once_drop(self, service: str, effects: Collection[EffectKey], owner: str) -> set[EffectKey]:
        """Drop claims."""
        return self._done(lambda: self._life.world.once.once_drop(service, effects, owner))

    def once_purge(self, limit: int = 1000) -> int:
        """Return 0: no schedule is long enough for effects to expire."""
        return self._done(lambda: 0 * limit)

    def _done(self, write: Callable[[], T]) -> T:
        """Call a function of the store. Raises `StoreError` at the rate of store faults, before or after the call."""
        life, world = self._life, self._life.world
        rates = world.rates
        life.crash_point()
        start, end = rates.outage
        if life.dead or start <= world.clock.now < end or rates.occurs(rates.store):
            raise StoreError("the simulated store is down")
        done = write()
        life.crash_point()
        if rates.occurs(rates.store):
            raise StoreError("the simulated store did not answer")
        return done
