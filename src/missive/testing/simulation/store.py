"""The simulated dead letter store: it keeps what it says it keeps, and is down now and then."""

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
    """One life's hold on the store, which outlives it."""

    durable = True

    def __init__(self, life: Life) -> None:
        self._life = life

    def put(self, records: Sequence[Record]) -> None:
        """Keep records, unless that fails; sometimes it fails, and they are kept."""
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
        """Keep claims."""
        return self._done(lambda: self._life.world.once.once_extend(service, effects, owner, lease))

    def once_done(self, service: str, effects: Collection[EffectKey], owner: str, ttl: float) -> set[EffectKey]:
        """Remember that effects have happened."""
        return self._done(lambda: self._remember(service, effects, owner, ttl))

    def _remember(self, service: str, effects: Collection[EffectKey], owner: str, ttl: float) -> set[EffectKey]:
        world = self._life.world
        ours = world.once.once_done(service, effects, owner, ttl)
        for effect in ours:
            for entry in world.effects.get(effect, ()):
                entry.happened = True
        return ours

    def once_drop(self, service: str, effects: Collection[EffectKey], owner: str) -> set[EffectKey]:
        """Give claims up."""
        return self._done(lambda: self._life.world.once.once_drop(service, effects, owner))

    def once_purge(self, limit: int = 1000) -> int:
        """Forget nothing: no schedule is so long."""
        return self._done(lambda: 0 * limit)

    def _done(self, write: Callable[[], T]) -> T:
        """Write something, in this weather."""
        life, world = self._life, self._life.world
        weather = world.weather
        life.point()
        start, end = weather.outage
        if life.dead or start <= world.clock.now < end or weather.strikes(weather.store):
            raise StoreError("the simulated store is down")
        done = write()
        life.point()
        if weather.strikes(weather.store):
            raise StoreError("the simulated store did not answer")
        return done
