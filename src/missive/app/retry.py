"""Retry policies: which failures are retried, how often, and after which delays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from missive.durations import valid_seconds
from missive.errors import (
    DecodingError,
    MatcherFailed,
    OnceConflict,
    OutcomeConflict,
    RegistrationError,
    ResourceError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

Jitter: TypeAlias = Literal["full", "none"]
"""`full` takes a random time up to the delay, so that messages that fail together do not retry together.

`none` takes the exact delay.
"""

UNRETRYABLE: Final[tuple[type[BaseException], ...]] = (
    DecodingError,
    OnceConflict,
    MatcherFailed,
    RegistrationError,
    ResourceError,
    OutcomeConflict,
    UsageError,
    TypeError,
    AttributeError,
    NameError,
    AssertionError,
    ImportError,
    SyntaxError,
    NotImplementedError,
    UnicodeError,
)
"""Programming and decoding errors, which a retry does not fix. They are retried only if `on` names one of them."""

_LARGEST_FACTOR = 1000


@dataclass(frozen=True, slots=True)
class Delays:
    """The delays before retries, as `exponential` and `constant` return them."""

    steps: tuple[float, ...]
    """The first delays, in seconds. Later delays continue from the last one."""
    factor: float = 1.0
    """The ratio of each delay after the steps to the delay before it."""
    cap: float = float("inf")
    """Maximum delay, in seconds."""
    jitter: Jitter = "none"

    def after(self, number: int, random: Callable[[], float]) -> float:
        """Return the delay before a delayed retry, counted from 0, in seconds. `random` returns a float below 1."""
        beyond = number - len(self.steps) + 1
        delay = self.steps[-1] if beyond > 0 else self.steps[number]
        if beyond > 0 and self.factor > 1:
            try:
                delay *= self.factor**beyond
            except OverflowError:
                delay = self.cap
        delay = min(delay, self.cap)
        return delay * random() if self.jitter == "full" else delay


def exponential(
    first: float | timedelta, *, factor: float = 2, cap: float | timedelta = 3600, jitter: Jitter = "full"
) -> Delays:
    """Return growing delays: `first` seconds, then each `factor` times the previous delay, at most `cap` seconds.

    With `jitter="full"`, each delay is a random time between zero and that value. Raise `UsageError` for an invalid
    argument.
    """
    start, longest = _delay(first, "the first delay"), _delay(cap, "cap=")
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 1 <= factor <= _LARGEST_FACTOR:
        raise UsageError("factor= of exponential must be a number from 1 to 1000")
    if jitter not in ("full", "none"):
        raise UsageError('jitter= must be "full" or "none"')
    return Delays((start,), float(factor), longest, jitter)


def constant(delay: float | timedelta, *, jitter: Jitter = "none") -> Delays:
    """Return a delay that stays the same, in seconds. Raise `UsageError` for an invalid argument."""
    return exponential(delay, factor=1, cap=delay, jitter=jitter)


_DEFAULT_DELAYS = Delays((5.0,), 2.0, 3600.0, "full")


@dataclass(frozen=True, init=False)
class Retry:
    """A retry policy: `Processor(retry=Retry())`, `handle_for(…, retry=Retry(attempts=3))`.

    - `on`: the exceptions to retry. A handler past its timeout counts as a `TimeoutError`.
    - `never`: exceptions among them that are not retried. Programming and decoding errors
      (`missive.app.retry.UNRETRYABLE`) are not retried either, unless `on` names one of them.
    - `attempts`: the maximum number of attempts, including the first. None sets no limit.
    - `immediate`: the number of retries without a delay, before the delayed ones.
    - `delays`: the delays of the other retries: `exponential(…)`, `constant(…)`, or a sequence of seconds, whose last
      element repeats.
    - `within`: the maximum time from the first failure to the start of a retry, in seconds or as a timedelta. None
      sets no limit.

    At the first limit, the message becomes a dead letter. `context.retry()` and `RetryLater` spend attempts too, within
    the same limits. Raise `UsageError` for an invalid argument.
    """

    on: tuple[type[BaseException], ...]
    never: tuple[type[BaseException], ...]
    attempts: int | None
    immediate: int
    delays: Delays
    within: float | None
    """In seconds."""

    def __init__(
        self,
        on: type[BaseException] | Iterable[type[BaseException]] = (Exception,),
        *,
        never: type[BaseException] | Iterable[type[BaseException]] = (),
        attempts: int | None = 10,
        immediate: int = 1,
        delays: Delays | Sequence[float | timedelta] = _DEFAULT_DELAYS,
        within: float | timedelta | None = None,
    ) -> None:
        if attempts is not None and (isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1):
            raise UsageError("attempts= of Retry must be a whole number from 1, including the first attempt, or None")
        if isinstance(immediate, bool) or not isinstance(immediate, int) or immediate < 0:
            raise UsageError("immediate= of Retry must be a whole number of retries, zero or more")
        set_ = object.__setattr__
        set_(self, "on", checked_exceptions(on, "on= of Retry"))
        set_(self, "never", checked_exceptions(never, "never= of Retry", empty=True))
        set_(self, "attempts", attempts)
        set_(self, "immediate", immediate)
        set_(self, "delays", _delays(delays))
        set_(self, "within", None if within is None else _delay(within, "within= of Retry"))

    def covers(self, error: type[BaseException]) -> bool:
        """Return whether failures with an exception class are retried."""
        return is_retryable(error, self.on) and not issubclass(error, self.never)

    def next(
        self, attempt: int, elapsed: float, random: Callable[[], float], after: float | None = None
    ) -> float | None:
        """Return the delay between `attempt` and the next attempt, in seconds, or None when no attempt is left.

        `elapsed` is the time since the first failure, in seconds. `after` is the delay that the handler requested.
        """
        if self.attempts is not None and attempt >= self.attempts:
            return None
        delay = after
        if delay is None:
            delay = 0.0 if attempt <= self.immediate else self.delays.after(attempt - self.immediate - 1, random)
        return None if self.within is not None and elapsed + delay > self.within else delay


def is_retryable(error: type[BaseException], on: tuple[type[BaseException], ...]) -> bool:
    """Return whether `on` covers an exception class. It covers an unretryable class only by naming one."""
    if not issubclass(error, on):
        return False
    if not issubclass(error, UNRETRYABLE):
        return True
    return issubclass(error, tuple(one for one in on if issubclass(one, UNRETRYABLE)))


def checked_exceptions(
    given: type[BaseException] | Iterable[type[BaseException]], what: str, *, empty: bool = False
) -> tuple[type[BaseException], ...]:
    """Return a tuple of exception classes. Raise `UsageError` for another value."""
    kinds: tuple[object, ...]
    try:
        kinds = (given,) if isinstance(given, type) else tuple(given)
    except TypeError:
        kinds = (given,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds) or not (kinds or empty):
        raise UsageError(f"{what} must be a tuple of exception classes, such as (ConnectionError, TimeoutError)")
    return kinds  # type: ignore[return-value]


def _delays(given: Delays | Sequence[float | timedelta]) -> Delays:
    if isinstance(given, Delays):
        return given
    complaint = "delays= of Retry must be exponential(5), constant(5) or a sequence of seconds, such as (1, 10, 60)"
    if isinstance(given, (str, bytes)):
        raise UsageError(complaint)
    try:
        steps = tuple(_delay(one, "a delay") for one in given)
    except TypeError:
        steps = ()
    if not steps:
        raise UsageError(complaint)
    return Delays(steps)


def _delay(given: float | timedelta, what: str) -> float:
    delay = valid_seconds(given)
    if delay is None:
        raise UsageError(f"{what} must be a number of seconds, zero or more, or a timedelta")
    return delay
