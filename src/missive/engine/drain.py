"""The drain: unstarted jobs go back to their transports, and the rest finish."""

from __future__ import annotations

from collections.abc import Sequence

from missive.engine.completion.exits import Exits
from missive.engine.dispatch.dispatcher import Dispatcher
from missive.engine.intake.admission import Admission
from missive.engine.intake.source import Source
from missive.engine.stages import Stages
from missive.engine.state import EngineState
from missive.transport import Delivery, Session


class Drain:
    """Empties the stations of one engine."""

    def __init__(
        self, dispatcher: Dispatcher, admission: Admission, exits: Exits, stages: Stages, state: EngineState
    ) -> None:
        self._dispatcher = dispatcher
        self._admission = admission
        self._exits = exits
        self._stages = stages
        self._state = state

    def stop_starting(self) -> None:
        """Start no more handlers."""
        self._state.draining = True
        self._dispatcher.stop()
        for stopping in self._stages.stopping:
            stopping()

    def give_back(self, left: Sequence[tuple[Source, Session, Sequence[Delivery]]]) -> None:
        """Give back unstarted jobs, and the deliveries that sessions had buffered."""
        self.stop_starting()
        jobs = self._dispatcher.withdraw()
        jobs += self._exits.withdraw(lambda _: True)
        for source, session, deliveries in left:
            source.spend_credit(deliveries)
            jobs += self._admission.jobs_of(source, session, deliveries)
        self._exits.give_back(jobs)
        self._dispatcher.resume()

    async def finished(self) -> None:
        """Wait until every delivery is settled, except dead letters without a place to go."""
        while any(source.items > source.refused for source in self._state.sources):
            self._state.changed.clear()
            await self._state.changed.wait()
