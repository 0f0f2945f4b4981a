"""Trace: the events of a schedule, the promises, and the error that shows the last events."""

from __future__ import annotations

import hashlib
from collections import Counter
from enum import StrEnum

from missive.errors import MissiveError
from missive.testing.simulation.loop import Clock

_SHOWN_EVENTS = 60
"""Number of events in the text of an error."""


class Promise(StrEnum):
    """The promises of the engine that every schedule checks."""

    durable = "a delivery is settled only after its outcome is durable"
    nothing_lost = "every message ends handled, discarded or dead-lettered"
    once = "without a fault, a message is handled once"
    in_order = "messages of one key are handled in order"
    one_at_a_time = "messages of one key are handled one at a time"
    concurrency = "declared limits of concurrency and rate hold"
    one_probe = "a dependency that is down is called by one message at a time, once per probe period"
    attempts = "attempts count up by one"
    credit = "unsettled messages stay within the credit"
    sessions = "the engine follows the contract of a session"
    leases = "held leases are renewed in time"
    causes = "a dead letter has a cause"
    stops = "the engine stops on request, in time and without an error"
    nothing_left = "everything that the engine started has ended when the engine ends"
    no_error = "no task of the engine raises"
    progress = "progress continues while work remains"
    check = "the checks of the scenario hold"


class SimulationFailed(MissiveError, AssertionError):
    """Raised by `simulate` when a schedule breaks a promise. The text has the seed, the promise and the last events.

    Like every exception of Missive, it contains no message content. It shows messages as numbers from 0, in the order
    of the `messages` argument.
    """

    def __init__(self, seed: int, promise: Promise, what: str, trace: Trace) -> None:
        super().__init__(
            f"seed {seed} broke the promise '{promise}': {what}\n{trace.last(_SHOWN_EVENTS)}"
            f"\nTo repeat this schedule: simulate(…, seed={seed})"
        )
        self.seed = seed
        self.promise = promise
        self.what = what


class Trace:
    """The events of one schedule: time, event, message and detail."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.events: list[tuple[float, str, int | None, str | float]] = []

    def add(self, event: str, message: int | None = None, detail: str | float = "") -> None:
        """Record an event. `detail` is a registered name or a number, and never message content."""
        self.events.append((self._clock.now, event, message, detail))

    def counts(self) -> Counter[str]:
        """Return the number of times that each event happened."""
        return Counter(event for _, event, _, _ in self.events)

    def digest(self) -> str:
        """Return a digest of the events, which is equal for two runs of one seed."""
        return hashlib.sha256(repr(self.events).encode()).hexdigest()

    def last(self, count: int) -> str:
        """Return the last events as lines."""
        return "\n".join(
            f"  {at:9.4f}  {event}{'' if message is None else f' m{message}'}{'' if detail == '' else f' ({detail})'}"
            for at, event, message, detail in self.events[-count:]
        )
