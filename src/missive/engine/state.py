"""State: what all stations of one engine share."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from missive.engine.intake.placements import Placements
from missive.engine.report import Report
from missive.telemetry.observer import Observers

if TYPE_CHECKING:
    from missive.engine.intake.source import Source
    from missive.errors import MissiveError


class EngineState:
    """The report, the sources and the phase of one engine. The engine's loop writes it."""

    def __init__(self) -> None:
        self.report = Report()
        self.observers = Observers()
        """The listeners, which `Engine` sets before the stations are built."""
        self.sources: list[Source] = []
        self.draining = False
        """Whether the drain has begun: no handler starts any more."""
        self.placements = Placements()
        """The lanes in which the values of `partitioned_by=` were seen."""
        self.one_of_several = False
        """Whether this process is one of several workers, which share the sources."""
        self.failure: MissiveError | None = None
        """The first failure that stops the engine."""
        self.stuck = False
        """Whether the engine stops because every worker is stuck in a handler."""
        self.stop = asyncio.Event()
        """Set when the engine must drain and stop."""
        self.changed = asyncio.Event()
        """Set when a source has ended and holds nothing, and after each settlement of a drain."""

    def fail(self, failure: MissiveError) -> None:
        """Record a failure and stop the engine."""
        if self.failure is None:
            self.failure = failure
        self.stop.set()

    def wake_intake(self) -> None:
        """Let each source check again whether it may fetch."""
        for source in self.sources:
            source.nudge()

    @property
    def unsettled(self) -> int:
        """The number of deliveries that are fetched and not settled."""
        return sum(source.items for source in self.sources)
