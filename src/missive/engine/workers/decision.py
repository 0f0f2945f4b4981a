"""Decision: the one outcome of an attempt, from the recorded outcome and the exception of its handler."""

from __future__ import annotations

import asyncio
import concurrent.futures

import msgspec

from missive.app.context import Recorded
from missive.app.terms import HandlerRoute
from missive.dlq.failure import Failure, capture
from missive.durations import seconds
from missive.errors import DeadLetter, DecodingError, Discard, MatcherFailed, OnceConflict, RetryLater
from missive.outcome import Outcome, Reason
from missive.routing.router import Misrouted

RETRY_SECONDS = 5.0
"""Delay of `retry()` without an argument, in seconds."""

NACK_SECONDS = 1.0
"""Minimum delay of `nack()`, in seconds."""


class Decision(msgspec.Struct, frozen=True, eq=False):
    """The end of an attempt: its outcome and the details of that outcome."""

    outcome: Outcome
    reason: Reason | None = None
    """The reason of a dead letter."""
    label: str | None = None
    detail: str | None = None
    delay: float = 0.0
    """The delay before the next attempt of a retried or nacked message, in seconds."""
    failure: Failure | None = None
    candidates: tuple[str, ...] = ()
    asked: float | None = None
    """The delay that the handler requested, in seconds."""
    blames: str | None = None
    """The name of the breaker whose dependency caused the failure."""
    trips: bool = False
    """Whether the handler reported that the dependency is down."""
    stops: str | None = None
    """Why the engine must stop: no handler can work in this process any more."""

    def __repr__(self) -> str:
        return f"<Decision: {self.outcome}{f' ({self.reason})' if self.reason else ''}>"


CANCELLED = (asyncio.CancelledError, concurrent.futures.CancelledError)
"""The exceptions in a cancelled task, and in a thread that waits for a cancelled task."""

HELD = frozenset({Outcome.retried, Outcome.nacked})
"""The outcomes after which a message is held for another attempt."""

ACKED = Decision(Outcome.acked)
DUPLICATE = Decision(Outcome.acked, label="duplicate")
"""For a message whose effect has already happened."""
LAPSED = Decision(Outcome.nacked)
"""For a message whose claim lapsed before its handler started. The effect is claimed again."""
DEPENDENCY_DOWN = Decision(Outcome.nacked)
"""For a message whose dependency is known to be down."""
SHUTDOWN = Decision(Outcome.dead_lettered, Reason.shutdown)
STUCK = Decision(Outcome.dead_lettered, Reason.timeout)
"""For a message whose handler did not return before the process ended for that reason."""
ORPHANED = Decision(Outcome.dead_lettered, Reason.unmatched, "handler not registered")
"""For a stored message whose handler has been missing for `orphan_after`."""
POISONED = Decision(Outcome.dead_lettered, Reason.poison)


def decide(recorded: Recorded | None, error: BaseException | None, *, overdue: bool = False) -> Decision:
    """Decide an attempt's outcome.

    An overdue attempt has timed out, whatever it recorded. A handler that returns without recording an outcome acks.
    An exception fails the attempt, even after `ack()`. Other recorded outcomes stay, and the exception only joins the
    history. An exception that declares an outcome, such as `RetryLater`, decides that outcome if none was recorded.
    """
    if overdue:
        # The cancellation is the timeout itself, not another failure.
        failure = None if error is None or isinstance(error, CANCELLED) else capture(error)
        return Decision(Outcome.dead_lettered, Reason.timeout, failure=failure)
    if error is None:
        return ACKED if recorded is None or recorded.outcome is Outcome.acked else _recorded(recorded, None)
    if recorded is not None and recorded.outcome is not Outcome.acked:
        return _recorded(recorded, capture(error))
    try:
        if recorded is None and (declared := _declared(error)) is not None:
            return _recorded(declared, None)
    except BaseException as wrong:  # noqa: BLE001 - an invalid delay, or a subclass whose __init__ does not call its parent
        error = wrong
    return Decision(Outcome.dead_lettered, _reason(error), failure=capture(error))


def decide_escaped(error: BaseException) -> Decision:
    """Decide an attempt whose exception escaped from its compiled handler, such as one injected into the thread."""
    return Decision(Outcome.dead_lettered, Reason.failed, failure=capture(error))


def _reason(error: BaseException) -> Reason:
    if isinstance(error, DecodingError):
        return Reason.unreadable
    return Reason.conflict if isinstance(error, OnceConflict) else Reason.failed


def decide_misrouted(misrouted: Misrouted) -> Decision:
    """Return the decision for a message that has no handler, or more than one."""
    failed: MatcherFailed | None = misrouted.exception
    return Decision(
        Outcome.dead_lettered,
        misrouted.reason,
        failure=None if failed is None else capture(failed),
        candidates=misrouted.candidates,
    )


def decide_discarded(route: HandlerRoute) -> Decision:
    """Return the decision for a message that the processor declares as discarded."""
    return Decision(Outcome.discarded, label=route.discards)


def _declared(error: BaseException) -> Recorded | None:
    if isinstance(error, RetryLater):
        return Recorded(Outcome.retried, delay=seconds(error.after))
    if isinstance(error, DeadLetter):
        return Recorded(Outcome.dead_lettered, label=error.reason, detail=error.detail)
    if isinstance(error, Discard):
        return Recorded(Outcome.discarded, label=error.reason)
    return None


def _recorded(recorded: Recorded, failure: Failure | None) -> Decision:
    outcome = recorded.outcome
    if outcome is Outcome.dead_lettered:
        return Decision(outcome, Reason.rejected, _label(recorded.label), recorded.detail, failure=failure)
    if outcome is Outcome.nacked:
        return Decision(outcome, delay=NACK_SECONDS, failure=failure)
    delay = RETRY_SECONDS if recorded.delay is None else recorded.delay
    return Decision(outcome, None, _label(recorded.label), delay=delay, failure=failure, asked=recorded.delay)


def _label(label: object) -> str | None:
    """Return a label. For another object, such as an exception, return its type, because its text may be content."""
    if label is None or isinstance(label, str):
        return label
    return str(label) if isinstance(label, int) else type(label).__name__
