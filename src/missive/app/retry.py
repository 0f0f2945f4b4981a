"""Retry policies: which failures are tried again, how often, and after how long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from missive.durations import seconds
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
"""`full`: a random time up to the delay, so that what failed together does not come again together. `none`: exact."""

HOPELESS: Final[tuple[type[BaseException], ...]] = (
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
"""Programming and decoding errors, which another try does not mend. Retried only where `on` names one of them."""

_LARGEST_FACTOR = 1000


@dataclass(frozen=True, slots=True)
class Delays:
    """How long to wait before one attempt after the other; made by `exponential`, `constant`, or from a sequence."""

    steps: tuple[float, ...]
    """Seconds; the last step goes on from there."""
    factor: float = 1.0
    """By which each delay after the steps is longer than the one before."""
    cap: float = float("inf")
    """The longest, in seconds."""
    jitter: Jitter = "none"

    def after(self, number: int, random: Callable[[], float]) -> float:
        """Return the seconds before the delayed try of a number, from 0. `random` returns a number from 0 to 1."""
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
    """Return delays that grow: `first` seconds, then each `factor` times the one before, up to `cap`.

    With `jitter="full"` each is a random time between nothing and that. Raises `UsageError` for what is no delay.
    """
    start, longest = _delay(first, "the first delay"), _delay(cap, "cap=")
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 1 <= factor <= _LARGEST_FACTOR:
        raise UsageError("factor= of exponential is a number from 1 to 1000")
    if jitter not in ("full", "none"):
        raise UsageError('jitter= is "full" or "none"')
    return Delays((start,), float(factor), longest, jitter)


def constant(delay: float | timedelta, *, jitter: Jitter = "none") -> Delays:
    """Return the same delay each time. Raises `UsageError` for what is no delay."""
    return exponential(delay, factor=1, cap=delay, jitter=jitter)


_DEFAULT_DELAYS = Delays((5.0,), 2.0, 3600.0, "full")


@dataclass(frozen=True, init=False)
class Retry:
    """Declares which failures are tried again: `Processor(retry=Retry())`, `handle_for(…, retry=Retry(attempts=3))`.

    `on` are the exceptions that are worth another try, `never` those among them that are not. Programming and decoding
    errors (`missive.app.retry.HOPELESS`) are not either, unless `on` names one of them. A handler past its timeout
    counts as a `TimeoutError`.

    The first `immediate` tries again follow at once, the others after `delays`: what `exponential` or `constant`
    return, or a sequence of seconds of which the last is repeated. It ends, and the message is a dead letter, with
    whichever comes first: so many `attempts` in all, the first included, or a try that would begin more than `within`
    (seconds, or a timedelta) after the first failure. None is no such limit.

    `context.retry()` and `RetryLater` spend an attempt too, and end by the same limits.

    Raises `UsageError` for what could never work.
    """

    on: tuple[type[BaseException], ...]
    never: tuple[type[BaseException], ...]
    attempts: int | None
    immediate: int
    delays: Delays
    within: float | None

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
            raise UsageError("attempts= of Retry is a whole number from 1, the first attempt included, or None")
        if isinstance(immediate, bool) or not isinstance(immediate, int) or immediate < 0:
            raise UsageError("immediate= of Retry is a whole number of tries, zero or more")
        set_ = object.__setattr__
        set_(self, "on", checked_exceptions(on, "on= of Retry"))
        set_(self, "never", checked_exceptions(never, "never= of Retry", empty=True))
        set_(self, "attempts", attempts)
        set_(self, "immediate", immediate)
        set_(self, "delays", _delays(delays))
        set_(self, "within", None if within is None else _delay(within, "within= of Retry"))

    def covers(self, error: type[BaseException]) -> bool:
        """Tell whether failures of a kind are tried again."""
        return is_worth(error, self.on) and not issubclass(error, self.never)

    def next(
        self, attempt: int, elapsed: float, random: Callable[[], float], after: float | None = None
    ) -> float | None:
        """Return the seconds until the attempt after `attempt`, or None where there is none.

        `elapsed` is how long ago the first failure was, in seconds; `after` a delay that was asked for.
        """
        if self.attempts is not None and attempt >= self.attempts:
            return None
        delay = after
        if delay is None:
            delay = 0.0 if attempt <= self.immediate else self.delays.after(attempt - self.immediate - 1, random)
        return None if self.within is not None and elapsed + delay > self.within else delay


def is_worth(error: type[BaseException], on: tuple[type[BaseException], ...]) -> bool:
    """Tell whether an error is one of those named, and not hopeless; a hopeless one has to be named as such."""
    if not issubclass(error, on):
        return False
    if not issubclass(error, HOPELESS):
        return True
    return issubclass(error, tuple(one for one in on if issubclass(one, HOPELESS)))


def checked_exceptions(
    given: type[BaseException] | Iterable[type[BaseException]], what: str, *, empty: bool = False
) -> tuple[type[BaseException], ...]:
    """Return a tuple of exception classes; raises `UsageError` for anything else."""
    kinds: tuple[object, ...]
    try:
        kinds = (given,) if isinstance(given, type) else tuple(given)
    except TypeError:
        kinds = (given,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds) or not (kinds or empty):
        raise UsageError(f"{what} is a tuple of exception classes, such as (ConnectionError, TimeoutError)")
    return kinds  # type: ignore[return-value]


def _delays(given: Delays | Sequence[float | timedelta]) -> Delays:
    if isinstance(given, Delays):
        return given
    complaint = "delays= of Retry is exponential(5), constant(5) or a sequence of seconds, such as (1, 10, 60)"
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
    try:
        delay = None if isinstance(given, (bool, str)) else seconds(given)
    except (TypeError, ValueError):
        delay = None
    if delay is None:
        raise UsageError(f"{what} is a number of seconds, zero or more, or a timedelta")
    return delay
