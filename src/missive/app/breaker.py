"""Breakers: a dependency that is down is left alone, and what needs it waits, until a probe finds it well again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from missive.app.retry import checked_exceptions, is_worth
from missive.durations import seconds
from missive.errors import UsageError


@dataclass(frozen=True, init=False)
class Breaker:
    """Declares what a handler depends on: `handle_for(…, breaker=Breaker("billing", on=(ConnectionError,)))`.

    After `after` failures of `on` one after the other (or at once when a handler raises `DependencyDown(name)`) it
    opens: the messages of its handlers are held, and not run, and spend no attempts. Every `probe` seconds exactly one
    message is run to see. When that goes well, two are let through, then four, and so on, and soon all.

    Handlers whose breakers have the same name share one; it is kept by each process for itself. `on` leaves out
    programming and decoding errors as that of `Retry` does. Raises `UsageError` for what could never work.
    """

    name: str
    on: tuple[type[BaseException], ...]
    after: int
    probe: float

    def __init__(
        self,
        name: str,
        *,
        on: type[BaseException] | Iterable[type[BaseException]] = (Exception,),
        after: int = 5,
        probe: float | timedelta = 30,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise UsageError("a Breaker has a name, that of what it is for, such as 'billing'")
        if isinstance(after, bool) or not isinstance(after, int) or after < 1:
            raise UsageError(f"after= of the breaker {name} is a whole number of failures from 1")
        try:
            period = None if isinstance(probe, (bool, str)) else seconds(probe)
        except (TypeError, ValueError):
            period = None
        if not period:
            raise UsageError(f"probe= of the breaker {name} is a number of seconds above zero, or a timedelta")
        set_ = object.__setattr__
        set_(self, "name", name)
        set_(self, "on", checked_exceptions(on, f"on= of the breaker {name}"))
        set_(self, "after", after)
        set_(self, "probe", period)

    def blames(self, error: type[BaseException]) -> bool:
        """Tell whether a failure is the dependency's."""
        return is_worth(error, self.on)
