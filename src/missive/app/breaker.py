"""Breakers: stop calling a dependency that is down, and let its messages wait until a probe succeeds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from missive.app.retry import checked_exceptions, is_retryable
from missive.durations import valid_seconds
from missive.errors import UsageError


@dataclass(frozen=True, init=False)
class Breaker:
    """The dependency of a handler: `handle_for(…, breaker=Breaker("billing", on=(ConnectionError,)))`.

    The breaker opens after `after` consecutive failures with an exception of `on`, or at once when a handler raises
    `DependencyDown(name)`. While it is open, the messages of its handlers wait without spending attempts, and every
    `probe` seconds one message runs as a probe. After a successful probe, two messages run, then four, and so on until
    the breaker is closed.

    Handlers whose breakers have the same name share one breaker. Each process has its own. As with `Retry`, `on`
    excludes programming and decoding errors unless it names one of them. Raise `UsageError` for an invalid argument.
    """

    name: str
    on: tuple[type[BaseException], ...]
    """The exceptions that count as failures of the dependency."""
    after: int
    """The number of consecutive failures that open the breaker."""
    probe: float
    """The period between probes, in seconds."""

    def __init__(
        self,
        name: str,
        *,
        on: type[BaseException] | Iterable[type[BaseException]] = (Exception,),
        after: int = 5,
        probe: float | timedelta = 30,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise UsageError("Breaker() needs the name of a dependency, such as 'billing'")
        if isinstance(after, bool) or not isinstance(after, int) or after < 1:
            raise UsageError(f"after= of the breaker {name} must be a whole number of failures from 1")
        period = valid_seconds(probe)
        if not period:
            raise UsageError(f"probe= of the breaker {name} must be a number of seconds above zero, or a timedelta")
        set_ = object.__setattr__
        set_(self, "name", name)
        set_(self, "on", checked_exceptions(on, f"on= of the breaker {name}"))
        set_(self, "after", after)
        set_(self, "probe", period)

    def blames(self, error: type[BaseException]) -> bool:
        """Return whether an exception counts as a failure of the dependency."""
        return is_retryable(error, self.on)
