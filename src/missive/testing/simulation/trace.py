"""The trace: what happened in a schedule, event by event, and the failure that shows its end."""

from __future__ import annotations

import hashlib
from collections import Counter
from enum import StrEnum

from missive.errors import MissiveError
from missive.testing.simulation.loop import Clock

_SHOWN = 60


class Promise(StrEnum):
    """What a schedule holds the engine, and the handlers, to."""

    durable = "a delivery is settled only after its outcome is durable"
    nothing_lost = "every message ends handled, discarded or dead-lettered"
    once = "without a fault, a message is handled once"
    in_order = "messages of one key are handled in order"
    one_at_a_time = "messages of one key are handled one at a time"
    concurrency = "no more run at once, or begin in a stretch of time, than was declared"
    one_probe = "what is down is asked by one message at a time, once a period"
    attempts = "attempts count up by one"
    credit = "no more is unsettled at once than the credit"
    sessions = "a session is used as its contract says"
    leases = "what is held is renewed in time"
    causes = "a dead letter has a cause"
    stops = "the engine stops when it is told to, in time and without an error"
    nothing_left = "what the engine started has ended when it has"
    no_error = "nothing of the engine raises"
    progress = "there is progress as long as there is work"
    check = "what the scenario checks holds"


class SimulationFailed(MissiveError, AssertionError):
    """A schedule broke a promise, raised by `simulate`; the text names the seed, the promise and the last events.

    Like every exception of Missive it shows no message content: messages are numbers here, from 0 in the order in
    which they were given.
    """

    def __init__(self, seed: int, promise: Promise, what: str, trace: Trace) -> None:
        super().__init__(
            f"seed {seed}: it was promised that {promise}, and {what}\n{trace.last(_SHOWN)}"
            f"\nTo see it again: simulate(…, seed={seed})"
        )
        self.seed = seed
        self.promise = promise
        self.what = what


class Trace:
    """The events of one schedule: what happened, when, and to which message."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.events: list[tuple[float, str, int | None, str | float]] = []

    def add(self, event: str, message: int | None = None, detail: str | float = "") -> None:
        """Note an event; `detail` is a name that was registered or a number, and never content."""
        self.events.append((self._clock.now, event, message, detail))

    def counts(self) -> Counter[str]:
        """Return how often each event happened."""
        return Counter(event for _, event, _, _ in self.events)

    def digest(self) -> str:
        """Return what two runs of one seed have in common, and those of two seeds hardly ever."""
        return hashlib.sha256(repr(self.events).encode()).hexdigest()

    def last(self, count: int) -> str:
        """Return the last events as lines."""
        return "\n".join(
            f"  {at:9.4f}  {event}{'' if message is None else f' m{message}'}{'' if detail == '' else f' ({detail})'}"
            for at, event, message, detail in self.events[-count:]
        )
