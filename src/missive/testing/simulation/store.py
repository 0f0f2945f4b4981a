"""The simulated dead letter store: it keeps what it says it keeps, and is down now and then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from missive.dlq.contract import Sink
from missive.dlq.record import Record
from missive.errors import StoreError
from missive.outcome import Reason

if TYPE_CHECKING:
    from missive.testing.simulation.life import Life


class SimulatedStore(Sink):
    """One life's hold on the store, which outlives it."""

    durable = True

    def __init__(self, life: Life) -> None:
        self._life = life

    def put(self, records: Sequence[Record]) -> None:
        """Keep records, unless that fails; sometimes it fails, and they are kept."""
        life, world = self._life, self._life.world
        weather = world.weather
        life.point()
        start, end = weather.outage
        if life.dead or start <= world.clock.now < end or weather.strikes(weather.store):
            raise StoreError("the simulated store is down")
        for record in records:
            if record.reason is not Reason.shutdown:
                world.ledger.filed(world.entry_of(record))
        life.point()
        if weather.strikes(weather.store):
            raise StoreError("the simulated store did not answer")
